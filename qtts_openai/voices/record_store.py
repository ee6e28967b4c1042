"""Records in a SQLite file that several servers may share, each with an optional file of bytes
beside it.

    <directory>/records.db       what exists; a change is a transaction, synced at its end
    <directory>/<folder>/<id>.bin    what belongs to a record

The file on disk is the truth and nothing is kept in memory, so a change by one server is seen by
all at once. Bytes are written and synced before the record that names them and removed after it: a
kill leaves a whole record or none, and at worst bytes that no record names. Those of a deleted
record, or of a voice whose consent was withdrawn, are removed at the next start; others, which may
belong to a change under way in another server, when they are an hour old. Ids are made here, so no
name from outside becomes a path.
"""

import logging
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from qtts_openai.errors import ApiError, retry_headers
from qtts_openai.voices import names

logger = logging.getLogger(__name__)

BUSY_S = 5.0
_CREATING = threading.Lock()
# The kind of what was deleted, whose bytes may still be there. In place, for on a full disk a
# deletion must not take more room than the record did.
GONE = "gone"
ORPHANS_AFTER_S = 3600.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS records (
    place INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    body BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS by_name ON records (kind, name);
"""


class ConflictError(Exception):
    """Another server changed the records meanwhile; the change is to be done again."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """`owner` is the id of the Caller that made it; None: everybody's, and the operator's to
    change.
    """

    id: str
    created_at: int
    name: str
    owner: str | None = None


R = TypeVar("R", bound=Record)


class Database:
    """Connections for one piece of work each: they need no thread of their own and no closing."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection | None]:
        """None where nothing was ever written."""
        with _told_as_507():
            if not self.path.exists():
                yield None
                return
            with closing(self._connect()) as db:
                yield db

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """One transaction, alone among all servers; it is on disk when the block has ended."""
        with _told_as_507():
            make_private(self.path.parent)
            self._create()
            with closing(self._connect()) as db:
                # Its journal keeps its place on the disk, so that a full one still lets delete.
                db.execute("PRAGMA journal_mode = PERSIST")
                db.execute("PRAGMA synchronous = FULL")
                db.executescript(_SCHEMA)
                db.execute("BEGIN IMMEDIATE")
                try:
                    yield db
                    db.execute("COMMIT")
                except BaseException:
                    if db.in_transaction:
                        db.execute("ROLLBACK")
                    raise

    def _create(self) -> None:
        """Only we may read it. A file that is there is not opened: closing it would end the locks
        that this process's other connections hold on it, and two writers would meet.
        """
        with _CREATING, suppress(FileExistsError):
            if not self.path.exists():
                os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None)


@contextmanager
def _told_as_507() -> Iterator[None]:
    """What the disk or the database refuses, as an answer; others of our own pass."""
    try:
        yield
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in (
            sqlite3.SQLITE_BUSY,
            sqlite3.SQLITE_LOCKED,
        ):
            raise storage_busy() from error
        raise _storage_failed(error, str(error)) from error
    except OSError as error:
        raise _storage_failed(error, error.strerror) from error


def _storage_failed(error: Exception, reason: str | None) -> ApiError:
    logger.warning("the store of voices failed: %s", error)
    message = f"The server could not use its store of voices: {reason}."
    return ApiError(507, message, code="storage_failed")


def storage_busy() -> ApiError:
    message = "The store of voices is busy; try again."
    return ApiError(503, message, code="storage_busy", headers=retry_headers(1.0))


class Records(Generic[R]):
    """All records of one kind. Methods that take `db` are part of a transaction of the caller's."""

    def __init__(
        self,
        database: Database,
        kind: type[R],
        folder: Path,
        prefix: str,
        has_lost_data: Callable[[R], bool] = lambda record: False,
    ) -> None:
        """`has_lost_data`: whether a record is there without its bytes, for good."""
        self._has_lost_data = has_lost_data
        self.database = database
        self.folder = folder
        self.prefix = prefix
        self._kind = kind

    def new_id(self) -> str:
        return f"{self.prefix}_{secrets.token_hex(12)}"

    def all(self, db: sqlite3.Connection | None = None) -> list[R]:
        """In the order in which they were made."""
        return self._select("ORDER BY place", (), db)

    def get(self, id_: str, db: sqlite3.Connection | None = None) -> R | None:
        found = self._select("AND id = ?", (id_,), db)
        return found[0] if found else None

    def named(self, name: str, db: sqlite3.Connection | None = None) -> list[R]:
        """Everybody's records of that name, the newest last."""
        return self._select("AND name = ? ORDER BY place", (names.key(name),), db)

    def _select(
        self, rest: str, values: tuple[str, ...], db: sqlite3.Connection | None = None
    ) -> list[R]:
        if db is None:
            with self.database.read() as reading:
                return [] if reading is None else self._select(rest, values, reading)
        query = f"SELECT id, body FROM records WHERE kind = ? {rest}"
        found = (self._decoded(*row) for row in db.execute(query, (self.prefix, *values)))
        return [record for record in found if record is not None]

    def _decoded(self, id_: str, body: bytes) -> R | None:
        try:
            return msgspec.json.decode(body, type=self._kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            logger.warning("the record %s cannot be read and is skipped: %s", id_, error)
            return None

    def insert(self, db: sqlite3.Connection, record: R) -> None:
        """A new record; one of that id stays as it is."""
        db.execute("DELETE FROM records WHERE id = ? AND kind = ?", (record.id, GONE))
        db.execute(
            "INSERT OR IGNORE INTO records (id, kind, name, body) VALUES (?, ?, ?, ?)",
            (record.id, self.prefix, names.key(record.name), msgspec.json.encode(record)),
        )

    def update(self, db: sqlite3.Connection, record: R) -> None:
        db.execute(
            "UPDATE records SET name = ?, body = ? WHERE id = ?",
            (names.key(record.name), msgspec.json.encode(record), record.id),
        )

    def remove(self, db: sqlite3.Connection, record: R) -> None:
        db.execute(
            "UPDATE records SET kind = ?, name = '', body = x'' WHERE id = ?", (GONE, record.id)
        )

    # ---- bytes ----

    def where(self, record: R) -> str:
        return str(self.path(record.id))

    def path(self, id_: str) -> Path:
        return self.folder / f"{id_}.bin"

    @contextmanager
    def written(self, id_: str, data: bytes | None) -> Iterator[Callable[[], None]]:
        """Writes and syncs the bytes; the block, a transaction, calls what it is given to put them
        in their place. Where it fails, nothing is left.
        """
        path = self.path(id_)
        part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")

        has_data = data is not None

        def keep() -> None:
            if has_data:
                part.replace(path)
                sync_directory(self.folder)

        with _told_as_507():
            try:
                if data is not None:
                    make_private(self.folder)
                    write_synced(part, data)
                    del data  # there may be many of these at once
                yield keep
            except BaseException:
                self._remove_unnamed(id_)
                raise
            finally:
                part.unlink(missing_ok=True)

    def _remove_unnamed(self, id_: str) -> None:
        """The bytes of a record that was not made after all."""
        with suppress(ApiError, OSError):
            if self.get(id_) is None:
                self.path(id_).unlink(missing_ok=True)

    def data(self, record: R) -> bytes | None:
        path = self.path(record.id)
        with _told_as_507():
            return path.read_bytes() if path.is_file() else None

    def forget_data(self, records: list[R]) -> None:
        """After the records are gone. What cannot be removed now is at a later start."""
        for record in records:
            try:
                self.path(record.id).unlink(missing_ok=True)
            except OSError as error:
                logger.warning("%s is still there: %s", self.path(record.id), error)

    # ---- at a start ----

    def tidy(self) -> None:
        """Take in records that earlier versions kept as files; remove old bytes of no record."""
        if not self.folder.is_dir():
            return
        old = [path for path in self.folder.glob(f"{self.prefix}_*.json") if path.is_file()]
        if old:
            self._take_in(old)
        self._remove_gone()
        records = self.all()
        self.forget_data([record for record in records if self._has_lost_data(record)])
        known = {record.id for record in records}
        before = time.time() - ORPHANS_AFTER_S
        for path in self.folder.glob(f"{self.prefix}_*.bin*"):
            id_ = path.name.partition(".")[0]
            is_old = path.is_file() and path.stat().st_mtime < before
            if is_old and (id_ not in known or path.suffix == ".part"):
                path.unlink(missing_ok=True)

    def _remove_gone(self) -> None:
        """What a kill has left between a deletion and the removal of its bytes."""
        if not self.database.path.exists():
            return
        with self.database.write() as db:
            gone = db.execute("SELECT id FROM records WHERE kind = ?", (GONE,)).fetchall()
            mine = [(id_,) for (id_,) in gone if id_.startswith(f"{self.prefix}_")]
            for (id_,) in mine:
                self.path(id_).unlink(missing_ok=True)
            db.executemany("DELETE FROM records WHERE id = ?", mine)

    def _take_in(self, files: list[Path]) -> None:
        found = {path: record for path in files if (record := self._from_file(path)) is not None}
        with self.database.write() as db:
            for record in sorted(found.values(), key=lambda record: record.created_at):
                self.insert(db, record)
        for path in found:
            path.unlink(missing_ok=True)

    def _from_file(self, path: Path) -> R | None:
        try:
            record = msgspec.json.decode(path.read_bytes(), type=self._kind)
        except (msgspec.DecodeError, UnicodeDecodeError, OSError, RecursionError) as error:
            logger.warning("%s cannot be read and is skipped: %s", path, error)
            return None
        return record if record.id == path.stem else None


def make_private(directory: Path) -> None:
    """Voices are people's: no other user of this machine may read them."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    if directory.stat().st_mode & 0o077:
        directory.chmod(0o700)


def write_synced(path: Path, data: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
