"""Stored voices and the consents they rest on, in one file: `qtts voices export` and `import`, and
one voice over HTTP.

A zip: `records.json`, with the SHA-256 of each record's bytes, and `data/<id>.bin`. Names in it are
looked up and never become paths: what records.json does not name is not read. An archive is checked
to its end before anything is written, and taken in by one change: all of it or nothing.
"""

import hashlib
import io
import os
import re
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import msgspec

from qtts_openai.errors import ApiError
from qtts_openai.http.callers import Caller
from qtts_openai.voices import names
from qtts_openai.voices.records import Consent, StoredVoice, check_may_change, is_consent_id
from qtts_openai.voices.store import VoiceStore, again_on_conflict

MAX_INDEX_BYTES = 64 << 20
MAX_DATA_BYTES = 64 << 20
MAX_RECORDS = 100_000
_ID = re.compile(r"(voice|cons)_[0-9a-f]{24}\Z")
_INDEX = "records.json"


class ArchiveError(ApiError):
    """The message says what is wrong with the archive, or with taking it in here."""

    def __init__(self, message: str) -> None:
        super().__init__(400, message, code="bad_archive")


class _Voice(msgspec.Struct, frozen=True):
    record: StoredVoice
    sha256: str | None = None


class _Consent(msgspec.Struct, frozen=True):
    record: Consent
    sha256: str | None = None


class Index(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: Literal["qtts-voices-1"]
    voices: list[_Voice]
    consents: list[_Consent]


# ---- out ----


def write_archive(store: VoiceStore, path: Path, only: list[str]) -> Index:
    """All voices and consents, or the voices named `only` (ids or names) with their consents. The
    file is whole or not there, and only its owner may read it.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        with os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600), "w+b") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
                index = _write(store, archive, only)
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return index


def archive_of(store: VoiceStore, name: str, caller: Caller) -> tuple[Index, bytes]:
    """One voice, by id or name, with its consent: both must be the caller's to change."""
    voice = store.own(name, caller)[-1]
    consent = store.consents.get(voice.consent or "")
    if consent is not None:
        check_may_change(consent, caller)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        index = _put_all(store, archive, [voice], [consent] if consent is not None else [])
    return index, file.getvalue()


def _write(store: VoiceStore, archive: zipfile.ZipFile, only: list[str]) -> Index:
    voices, consents = store.voices.all(), store.consents.all()
    if only:
        keys = {names.key(name) for name in only}
        voices = [one for one in voices if one.id in only or names.key(one.name) in keys]
        missing = keys - {names.key(known) for one in voices for known in (one.id, one.name)}
        if missing:
            raise ArchiveError(f"There is no stored voice {sorted(missing)[0]!r}.")
        consents = [one for one in consents if one.id in {voice.consent for voice in voices}]
    return _put_all(store, archive, voices, consents)


def _put_all(
    store: VoiceStore, archive: zipfile.ZipFile, voices: list[StoredVoice], consents: list[Consent]
) -> Index:
    index = Index(
        "qtts-voices-1",
        [_Voice(one, _put(archive, one.id, _sample(store, one))) for one in voices],
        [_Consent(one, _put(archive, one.id, _recording(store, one))) for one in consents],
    )
    archive.writestr(_INDEX, msgspec.json.encode(index))
    return index


def _sample(store: VoiceStore, voice: StoredVoice) -> bytes | None:
    audio = store.reference(voice)
    return audio.samples if audio is not None else None


def _recording(store: VoiceStore, consent: Consent) -> bytes:
    data = store.consents.data(consent)
    if data is None:
        message = f"The recording of consent {consent.id} is missing."
        raise ApiError(500, message, code="voice_damaged")
    return data


def _put(archive: zipfile.ZipFile, id_: str, data: bytes | None) -> str | None:
    if data is None:
        return None
    archive.writestr(_name(id_), data)
    return hashlib.sha256(data).hexdigest()


def _name(id_: str) -> str:
    return f"data/{id_}.bin"


# ---- in ----


def read_archive(store: VoiceStore, path: Path, taken: Iterable[str]) -> Index:
    """What was taken in: records that were here already, just so, are left out. `taken`: keys of
    names that no stored voice may have.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            index = _checked_index(archive, list(taken))
            for one in _all(index):
                _data(archive, one)
            return _take_in(store, archive, index)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise ArchiveError(f"{path}: no archive that can be read: {error}.") from error


def _all(index: Index) -> Iterator[_Voice | _Consent]:
    yield from index.consents
    yield from index.voices


def _checked_index(archive: zipfile.ZipFile, taken: list[str]) -> Index:
    try:
        index = msgspec.json.decode(_member(archive, _INDEX, MAX_INDEX_BYTES), type=Index)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ArchiveError(f"{_INDEX}: {error}.") from error
    ids = [one.record.id for one in _all(index)]
    if len(ids) > MAX_RECORDS or len(set(ids)) < len(ids):
        raise ArchiveError(f"More than {MAX_RECORDS} records, or one of them twice.")
    for one, prefix in [(o, "cons") for o in index.consents] + [(o, "voice") for o in index.voices]:
        record: StoredVoice | Consent = one.record
        if not _ID.match(record.id) or not record.id.startswith(prefix):
            raise ArchiveError(f"{record.id[:100]!r} is no id of a {prefix} record.")
        if names.clean(record.name) != record.name:
            raise ArchiveError(f"{record.name!r} is no name of a record.")
    for voice in index.voices:
        names.check_free(voice.record.name, taken)
        if voice.sha256 != voice.record.reference_key:
            raise ArchiveError(f"The sample of voice {voice.record.id} is not its own.")
    return index


def _member(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    try:
        info = archive.getinfo(name)
    except KeyError as error:
        raise ArchiveError(f"{name} is missing.") from error
    with archive.open(info) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ArchiveError(f"{name} has more than {most} bytes.")
    return data


def _data(archive: zipfile.ZipFile, one: _Voice | _Consent) -> bytes | None:
    if one.sha256 is None:
        return None
    data = _member(archive, _name(one.record.id), MAX_DATA_BYTES)
    if hashlib.sha256(data).hexdigest() != one.sha256:
        raise ArchiveError(f"What belongs to {one.record.id} was changed.")
    if isinstance(one, _Voice) and len(data) % 4:
        raise ArchiveError(f"The sample of voice {one.record.id} is no audio.")
    return data


@again_on_conflict
def _take_in(store: VoiceStore, archive: zipfile.ZipFile, index: Index) -> Index:
    with ExitStack() as stack:
        keeps, new = [], Index(index.format, [], [])
        for one in _all(index):
            records: Any = store.voices if isinstance(one, _Voice) else store.consents
            if records.get(one.record.id) is None:
                keeps.append(
                    stack.enter_context(records.written(one.record.id, _data(archive, one)))
                )
        db = stack.enter_context(store.database.write())
        for one in _all(index):
            is_voice = isinstance(one, _Voice)
            records = store.voices if is_voice else store.consents
            known = records.get(one.record.id, db)
            if known is None:
                records.insert(db, one.record)
                (new.voices if is_voice else new.consents).append(one)  # type: ignore[arg-type]
            elif known != one.record:
                message = f"{one.record.id} is here already and is not the same; it was changed,"
                raise ArchiveError(f"{message} or its consent was withdrawn.")
        _check_rest(store, db, new)
        for keep in keeps:
            keep()
    return new


def _check_rest(store: VoiceStore, db: Any, new: Index) -> None:
    """With what was here: names and consents, and no owner has too many."""
    by_name: dict[tuple[str | None, str], str] = {}
    counts: dict[tuple[str, str | None], int] = {}
    for voice in store.voices.all(db):
        counts["voices", voice.owner] = counts.get(("voices", voice.owner), 0) + 1
        other = by_name.setdefault((voice.owner, names.key(voice.name)), voice.id)
        if other != voice.id and voice.id in {one.record.id for one in new.voices}:
            raise ArchiveError(f"There is another voice {voice.name!r} here already ({other}).")
        consent = voice.consent or ""
        if is_consent_id(consent) and not voice.disabled and not store.consents.get(consent, db):
            raise ArchiveError(f"The consent {consent} of voice {voice.id} is missing.")
    for one in store.consents.all(db):
        counts["consents", one.owner] = counts.get(("consents", one.owner), 0) + 1
    for (kind, owner), count in counts.items():
        if count > store.max_voices:
            whose = owner or "everybody"
            raise ArchiveError(f"{whose} would have {count} {kind}; voices.max_voices is less.")
