"""Records and their bytes in a bucket (S3 and what speaks its protocol, Google Cloud Storage,
Azure) that servers on many machines share.

    <prefix>/records.json       what exists; a change replaces it only where nobody did meanwhile
    <prefix>/<folder>/<id>.bin  what belongs to a record; of voices `<id>.<digest>.bin`, so that of
                                two servers that make a described voice's first utterance none
                                writes over the other's

A change is thus whole or not there, also one of several records, as in record_store.py. It raises
ConflictError where another server came first; store.py then does it again. What others did is seen
after FRESH_S, and at once where something is looked for and not there.
"""

import hashlib
import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, Generic, TypeVar

import msgspec

from qtts_openai.errors import ApiError
from qtts_openai.settings import SettingsError
from qtts_openai.voices import names
from qtts_openai.voices.record_store import ORPHANS_AFTER_S, ConflictError, Record

logger = logging.getLogger(__name__)

# Voices of others are seen after this long; the requirement is 5 s, a slow list included.
FRESH_S = 2.0
INDEX = "records.json"
# Plain HTTP is used only where the operator names an endpoint that has nothing else.
_OPTIONS: Any = {"timeout": "10s", "connect_timeout": "3s", "allow_http": True}
_RETRIES: Any = {"max_retries": 2}

R = TypeVar("R", bound=Record)


class Entry(msgspec.Struct, frozen=True):
    id: str
    kind: str
    name: str
    body: msgspec.Raw


class Index:
    """What exists, in the order in which it was made; `version` is the bucket's name for it."""

    def __init__(self, entries: list[Entry], version: dict[str, str] | None, at: float) -> None:
        self.entries = {entry.id: entry for entry in entries}
        self.version = version
        self.at = at
        self.is_changed = False


class Bucket:
    """The index, kept for a moment. Used from several threads."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.objects = _open(url)
        self._kept: Index | None = None
        self._lock = threading.Lock()

    def index(self, *, fresh: bool = False) -> Index:
        with self._lock:
            kept = self._kept
            if kept is None or fresh or time.monotonic() > kept.at + FRESH_S:
                self._kept = self._fetch(kept)
            assert self._kept is not None
            return self._kept

    def _fetch(self, kept: Index | None) -> Index:
        import obstore
        from obstore.exceptions import NotModifiedError

        at = time.monotonic()
        known = kept.version if kept is not None else None
        e_tag = known.get("e_tag") if known else None
        options: Any = {"if_none_match": e_tag} if e_tag else {}
        with told_as_507():
            try:
                found = obstore.get(self.objects, INDEX, options=options)
                body = bytes(found.bytes())
            except FileNotFoundError:
                return Index([], None, at)
            except NotModifiedError:
                assert kept is not None
                return Index(list(kept.entries.values()), kept.version, at)
            return Index(msgspec.json.decode(body, type=list[Entry]), _version(found.meta), at)

    @contextmanager
    def write(self) -> Iterator[Index]:
        """One change of what is there now. ConflictError where another server was faster."""
        now = self.index(fresh=True)
        changed = Index(list(now.entries.values()), now.version, now.at)
        yield changed
        if changed.is_changed:
            self._replace(changed)

    def _replace(self, changed: Index) -> None:
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        body = msgspec.json.encode(list(changed.entries.values()))
        mode: Any = changed.version or "create"
        with told_as_507():
            try:
                result = obstore.put(self.objects, INDEX, body, mode=mode, use_multipart=False)
            except (AlreadyExistsError, PreconditionError) as error:
                raise ConflictError() from error
        with self._lock:
            self._kept = Index(list(changed.entries.values()), _version(result), time.monotonic())


def _version(meta: Any) -> dict[str, str]:
    return {name: meta[name] for name in ("e_tag", "version") if meta.get(name) is not None}


def _open(url: str) -> Any:
    """Keys and endpoints come from the environment, as the provider's own tools read them."""
    if find_spec("obstore") is None:
        raise SettingsError("voices.object_store needs: pip install 'qtts-openai[objects]'")
    import obstore.store

    open_url: Any = obstore.store.from_url  # its types know no options for any provider
    try:
        return open_url(url, client_options=_OPTIONS, retry_config=_RETRIES)
    except Exception as error:  # obstore has a base class of its own for each provider's
        raise SettingsError(f"{url} cannot be used: {error}", "voices.object_store") from error


@contextmanager
def told_as_507() -> Iterator[None]:
    from obstore.exceptions import BaseError

    try:
        yield
    except (BaseError, OSError, msgspec.DecodeError) as error:
        first_line = str(error).partition("\n")[0]
        logger.warning("the bucket of voices failed: %s", first_line)
        message = "The server could not use its store of voices."
        raise ApiError(507, message, code="storage_failed") from error


class ObjectRecords(Generic[R]):
    """All records of one kind, as record_store.Records; `db` is the Index of a change."""

    def __init__(
        self,
        database: Bucket,
        kind: type[R],
        folder: str,
        prefix: str,
        digest_of: Callable[[R], str | None] | None = None,
    ) -> None:
        """`digest_of`: the SHA-256 of a record's bytes, where it holds it."""
        self.database = database
        self.folder = folder
        self.prefix = prefix
        self._kind = kind
        self._digest_of = digest_of

    def new_id(self) -> str:
        return f"{self.prefix}_{secrets.token_hex(12)}"

    def all(self, db: Index | None = None) -> list[R]:
        return self._select(db or self.database.index(), lambda entry: True)

    def get(self, id_: str, db: Index | None = None) -> R | None:
        found = self._found(db, lambda entry: entry.id == id_)
        return found[0] if found else None

    def named(self, name: str, db: Index | None = None) -> list[R]:
        key = names.key(name)
        return self._found(db, lambda entry: entry.name == key)

    def _found(self, db: Index | None, is_meant: Callable[[Entry], bool]) -> list[R]:
        """A miss asks the bucket again: another server may just have made it."""
        found = self._select(db or self.database.index(), is_meant)
        if not found and db is None:
            found = self._select(self.database.index(fresh=True), is_meant)
        return found

    def _select(self, index: Index, is_meant: Callable[[Entry], bool]) -> list[R]:
        entries = [e for e in index.entries.values() if e.kind == self.prefix and is_meant(e)]
        found = [self._decoded(entry) for entry in entries]
        return [record for record in found if record is not None]

    def _decoded(self, entry: Entry) -> R | None:
        try:
            return msgspec.json.decode(entry.body, type=self._kind)
        except msgspec.DecodeError as error:
            logger.warning("the record %s cannot be read and is skipped: %s", entry.id, error)
            return None

    def insert(self, db: Index, record: R) -> None:
        """A new record; one of that id stays as it is."""
        if record.id not in db.entries:
            self.update(db, record)

    def update(self, db: Index, record: R) -> None:
        body = msgspec.Raw(msgspec.json.encode(record))
        db.entries[record.id] = Entry(record.id, self.prefix, names.key(record.name), body)
        db.is_changed = True

    def remove(self, db: Index, record: R) -> None:
        db.is_changed = db.entries.pop(record.id, None) is not None or db.is_changed

    # ---- bytes ----

    def where(self, record: R) -> str:
        return self._name(record.id, self._digest_of(record) if self._digest_of else None)

    def _name(self, id_: str, digest: str | None) -> str:
        return f"{self.folder}/{id_}.{digest[:16]}.bin" if digest else f"{self.folder}/{id_}.bin"

    @contextmanager
    def written(self, id_: str, data: bytes | None) -> Iterator[Callable[[], None]]:
        """The bytes go where they belong before the record that names them. Where that is not made
        after all nobody reads them, and a later start removes them.
        """

        def keep() -> None:
            import obstore

            if data is not None:
                digest = hashlib.sha256(data).hexdigest() if self._digest_of else None
                name = self._name(id_, digest)
                with told_as_507():
                    obstore.put(self.database.objects, name, data, use_multipart=False)

        yield keep

    def data(self, record: R) -> bytes | None:
        import obstore

        with told_as_507():
            try:
                return bytes(obstore.get(self.database.objects, self.where(record)).bytes())
            except FileNotFoundError:
                self.database.index(fresh=True)  # the record may be gone, too
                return None

    def forget_data(self, records: list[R]) -> None:
        """After the records are gone. What cannot be removed now is at a later start."""
        import obstore

        for record in records:
            try:
                with told_as_507():
                    obstore.delete(self.database.objects, self.where(record))
            except ApiError:
                logger.warning("%s is still there", self.where(record))

    def tidy(self) -> None:
        """Remove old bytes of no record; young ones may be of a change under way elsewhere."""
        import obstore

        with told_as_507():
            pages = obstore.list(self.database.objects, self.folder)
            there = [meta for page in pages for meta in page]
            self.database.index(fresh=True)
            known = {self.where(record) for record in self.all()}
            for meta in there:
                age_s = time.time() - meta["last_modified"].timestamp()
                if meta["path"] not in known and age_s > ORPHANS_AFTER_S:
                    obstore.delete(self.database.objects, meta["path"])
