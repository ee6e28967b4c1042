"""Records on disk that survive a crash: one JSON file each, with an optional file of bytes beside
it.

    <directory>/<id>.json   the record; it exists if and only if the record does
    <directory>/<id>.bin    what belongs to it

A file is written under another name, synced and renamed, the bytes before the record, so a kill at
any moment leaves a whole record or none. Ids are made here, so no name from outside becomes a path.
"""

import logging
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from qtts_openai.errors import ApiError

logger = logging.getLogger(__name__)


class Record(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    created_at: int


R = TypeVar("R", bound=Record)


class Records(Generic[R]):
    """All records of one kind, in memory and on disk; oldest first."""

    def __init__(self, directory: Path, kind: type[R], prefix: str, max_records: int) -> None:
        self.directory = directory
        self.prefix = prefix
        self.max_records = max_records
        self._kind = kind
        self._records = {record.id: record for record in self._load()}

    def __iter__(self) -> Iterator[R]:
        return iter(list(self._records.values()))

    def get(self, id_: str) -> R | None:
        return self._records.get(id_)

    def new_id(self) -> str:
        return f"{self.prefix}_{secrets.token_hex(12)}"

    def check_room(self) -> None:
        if len(self._records) >= self.max_records:
            message = f"There are {self.max_records} of these already; delete some first."
            raise ApiError(400, message, code="quota_exceeded")

    def put(self, record: R, data: bytes | None = None) -> None:
        """Write a new record, or an existing one anew. A full disk is a 507 and changes nothing."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            if data is not None:
                _write(self._path(record.id, "bin"), data)
            _write(self._path(record.id, "json"), msgspec.json.encode(record))
        except OSError as error:
            if record.id not in self._records:
                self._path(record.id, "bin").unlink(missing_ok=True)
            message = f"The server could not store this: {error.strerror}."
            raise ApiError(507, message, code="storage_failed") from error
        self._records[record.id] = record

    def data(self, record: R) -> bytes | None:
        path = self._path(record.id, "bin")
        return path.read_bytes() if path.is_file() else None

    def delete(self, record: R) -> None:
        self._records.pop(record.id, None)
        self._path(record.id, "json").unlink(missing_ok=True)
        self._path(record.id, "bin").unlink(missing_ok=True)

    def _path(self, id_: str, suffix: str) -> Path:
        return self.directory / f"{id_}.{suffix}"

    def _load(self) -> list[R]:
        """What is on disk; leftovers of a crash are removed, records that cannot be read are kept
        and reported.
        """
        records = []
        for path in sorted(self.directory.glob(f"{self.prefix}_*")):
            if path.suffix == ".json":
                try:
                    records.append(msgspec.json.decode(path.read_bytes(), type=self._kind))
                except (msgspec.DecodeError, UnicodeDecodeError) as error:
                    logger.warning("%s cannot be read and is skipped: %s", path, error)
            elif path.suffix == ".part" or not path.with_suffix(".json").exists():
                path.unlink()
        return sorted(records, key=lambda record: (record.created_at, record.id))


def _write(path: Path, data: bytes) -> None:
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        _sync_directory(path.parent)
    finally:
        part.unlink(missing_ok=True)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
