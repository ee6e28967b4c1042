"""Who made whose voice speak, as lines of JSON in a file that only grows.

Each line holds the hash of the one before, and its own over all of it, so that a line that was
changed, taken out or put in shows. Lines cut off at the end do not: keep what `qtts audit verify`
prints (the number of the last line and its hash) elsewhere, and compare.

A line is written under a lock, so servers may share a file, and synced before what it tells of goes
on. Where it cannot be written, as on a full disk, the request fails (507) and nothing is made. What
a crash left of a line is cut off by the next.
"""

import asyncio
import fcntl
import hashlib
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from qtts_openai.errors import ApiError
from qtts_openai.settings import AuditSettings

logger = logging.getLogger(__name__)

FIRST = "0" * 64
_TAIL_BYTES = 1 << 16


class Head(msgspec.Struct, frozen=True):
    """Where a chain stands: the number of its last line, and that line's hash."""

    number: int = 0
    hash: str = FIRST


class AuditLog:
    """Nothing where the settings name no path."""

    def __init__(self, settings: AuditSettings) -> None:
        self._settings = settings
        self._path = Path(settings.path) if settings.path else None

    @property
    def is_on(self) -> bool:
        return self._path is not None

    def write(self, event: str, **fields: Any) -> None:
        """507 where it cannot be. Blocks: a sync to disk. None among the fields is left out."""
        if self._path is None:
            return
        said = {name: value for name, value in fields.items() if value is not None}
        try:
            self._append(self._path, {"event": event, **said})
        except OSError as error:
            logger.error("the audit log cannot be written: %s", error)
            message = f"The server could not write its audit log: {error.strerror}."
            raise ApiError(507, message, code="audit_failed") from error

    async def note(self, event: str, **fields: Any) -> None:
        """`write` for the event loop."""
        await asyncio.to_thread(self.write, event, **fields)

    def _append(self, path: Path, said: dict[str, Any]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Its own file, for the log itself is renamed when it is full.
        with _opened(path.with_name(f"{path.name}.lock")) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with _opened(path) as file:
                _drop_torn_line(file)
                head = _last(file) or _last_of_older(path)
                line = _line(head, said)
                _write_all(file, line, sync=self._settings.fsync)
                is_full = file.tell() >= self._settings.max_bytes
            if is_full:
                _rotate(path, self._settings.keep_files)


def _opened(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b")


def _write_all(file: BinaryIO, line: bytes, *, sync: bool) -> None:
    """A line or, where that fails, nothing."""
    start = file.seek(0, os.SEEK_END)
    try:
        file.write(line)
        file.flush()
        if sync:
            os.fsync(file.fileno())
    except OSError:
        os.ftruncate(file.fileno(), start)
        raise


def _drop_torn_line(file: BinaryIO) -> None:
    end = file.seek(0, os.SEEK_END)
    tail = _tail(file, end)
    if tail and not tail.endswith(b"\n"):
        kept = end - len(tail) + tail.rfind(b"\n") + 1
        logger.warning("the audit log ended within a line; %d bytes are cut off", end - kept)
        os.ftruncate(file.fileno(), kept)


def _tail(file: BinaryIO, end: int) -> bytes:
    file.seek(max(0, end - _TAIL_BYTES))
    return file.read()


def _last(file: BinaryIO) -> Head | None:
    lines = _tail(file, file.seek(0, os.SEEK_END)).splitlines()
    if not lines:
        return None
    try:
        return msgspec.json.decode(lines[-1], type=Head)
    except msgspec.MsgspecError as error:
        raise OSError(0, "its last line is damaged; move the file away") from error


def _last_of_older(path: Path) -> Head:
    older = rotated(path)
    if not older:
        return Head()
    with older[-1].open("rb") as file:
        return _last(file) or Head()


def _line(head: Head, said: dict[str, Any]) -> bytes:
    number = {"number": head.number + 1, "time": round(time.time(), 3)}
    record = number | said | {"before": head.hash}
    return msgspec.json.encode(record | {"hash": _hash(record)}) + b"\n"


def _hash(record: dict[str, Any]) -> str:
    return hashlib.sha256(msgspec.json.encode(record)).hexdigest()


def _rotate(path: Path, keep_files: int) -> None:
    """`audit.jsonl` -> `audit.jsonl.000000000042`, by the number of its last line."""
    with path.open("rb") as file:
        head = _last(file)
    assert head is not None
    path.rename(path.with_name(f"{path.name}.{head.number:012d}"))
    for old in rotated(path)[:-keep_files] if keep_files else []:
        old.unlink(missing_ok=True)


def rotated(path: Path) -> list[Path]:
    """The oldest first."""
    return sorted(path.parent.glob(f"{path.name}.{'[0-9]' * 12}"))


class BrokenChainError(Exception):
    """Something was changed, taken out or put in; says where."""


class _Link(msgspec.Struct, frozen=True):
    """What ties a line to the others."""

    number: int
    before: str
    hash: str


def verify(path: Path) -> tuple[int, Head]:
    """(the number of the first line that is there, the last). BrokenChainError, OSError."""
    first, head = 0, None
    for place, link in _links(path):
        if head is None:
            first, head = link.number, Head(link.number - 1, link.before)
        starts_wrong = link.number == 1 and link.before != FIRST
        if starts_wrong or (link.number, link.before) != (head.number + 1, head.hash):
            raise BrokenChainError(f"{place}: it does not go on from line {head.number}")
        head = Head(link.number, link.hash)
    return first, head or Head()


def _links(path: Path) -> Iterator[tuple[str, _Link]]:
    """Lines that are what they were when they were written."""
    for file in [*rotated(path), *([path] if path.exists() else [])]:
        for at, line in enumerate(file.read_bytes().splitlines(), 1):
            try:
                record = msgspec.json.decode(line, type=dict[str, Any])
                link = msgspec.convert(record, _Link)
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                raise BrokenChainError(f"{file}:{at}: no record: {error}") from error
            del record["hash"]
            if link.hash != _hash(record):
                raise BrokenChainError(f"{file}:{at}: the line was changed")
            yield f"{file}:{at}", link


class Trail:
    """Of one speech with a cloned voice: what was sent, told when it ends."""

    def __init__(self, log: AuditLog, said: dict[str, Any]) -> None:
        self._log, self._said = log, said
        self._hash, self._has_ended = hashlib.sha256(), False

    def add(self, data: bytes) -> None:
        self._hash.update(data)

    def end(self, seconds: float, reason: str, text_sha256: str | None = None) -> None:
        """Once. It has been heard, so what cannot be written now is only logged. `text_sha256`:
        of a text that was not known when it began.
        """
        if self._has_ended:
            return
        self._has_ended = True
        said = self._said if text_sha256 is None else {**self._said, "text_sha256": text_sha256}
        audio = {"seconds": round(seconds, 3), "audio_sha256": self._hash.hexdigest()}
        try:
            self._log.write("speech.ended", **said, **audio, finish_reason=reason)
        except ApiError as error:
            logger.error("a speech is not in the audit log: %s", error)
