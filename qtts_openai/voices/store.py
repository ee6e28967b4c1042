"""Voices that users made, from a sample of audio or from a description, and people's consents.

Each belongs to the caller that made it, or to everybody where the operator did. A name means the
caller's own voice of that name, else everybody's; others' are as if they were not there. Whoever
made a record, or an admin, may change or delete it.
"""

import hashlib
import logging
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from engine import ReferenceAudio
from qtts_openai.errors import ApiError, invalid
from qtts_openai.http.callers import ANONYMOUS, Caller
from qtts_openai.voices import names
from qtts_openai.voices.presets import Voice
from qtts_openai.voices.record_store import Database, Record, Records

logger = logging.getLogger(__name__)

CONSENT_CHARS = (10, 2000)
_CONSENT_ID = re.compile(r"^cons_\w*$")


class StoredVoice(Record, frozen=True, kw_only=True):
    """`seed` makes a described voice sound the same in every request. The bytes beside the record
    are the sample as float32 mono 24 kHz: the user's own, or the first utterance of a described
    voice, whose words are then `ref_text`; `reference_key` is their SHA-256. `mime_type` and
    `file_size` are those of the file that was sent. A voice is disabled when the consent that it
    rests on is withdrawn.
    """

    type: Literal["audio_sample", "prompt"]
    prompt: str | None = None
    ref_text: str | None = None
    consent: str | None = None
    seed: int | None = None
    reference_key: str | None = None
    mime_type: str | None = None
    file_size: int | None = None
    duration: float | None = None
    speaker_description: str | None = None
    disabled: bool = False

    def answer(self) -> dict[str, Any]:
        """As OpenAI's API shows it, and everything that was sent."""
        shown: dict[str, Any] = {"id": self.id, "object": "audio.voice", "name": self.name}
        shown |= {"created_at": self.created_at, "type": self.type, "shared": self.owner is None}
        sent = ("prompt", "consent", "ref_text", "mime_type", "file_size", "duration")
        for name in (*sent, "speaker_description"):
            if getattr(self, name) is not None:
                shown[name] = getattr(self, name)
        return shown | ({"disabled": True} if self.disabled else {})

    def voice(self) -> Voice:
        return Voice(
            id=self.id,
            name=self.name,
            description=self.speaker_description or self.prompt or "made from a sample",
            prompt=self.prompt,
            is_stored=True,
            can_clone=self.reference_key is not None,
            reference_text=self.ref_text,
            seed=self.seed,
        )


class Consent(Record, frozen=True, kw_only=True):
    language: str

    def answer(self) -> dict[str, Any]:
        shown = {"id": self.id, "object": "audio.voice_consent", "created_at": self.created_at}
        return shown | {"name": self.name, "language": self.language}


R = TypeVar("R", bound=Record)


class VoiceStore:
    """`max_voices`: of one owner; consents likewise."""

    def __init__(self, directory: Path, max_voices: int) -> None:
        self.max_voices = max_voices
        voices, consents = directory / "voices", directory / "consents"
        self.database = Database(voices / "records.db")
        self.voices = Records(self.database, StoredVoice, voices, "voice")
        self.consents = Records(self.database, Consent, consents, "cons")
        self._tidy()

    def _tidy(self) -> None:
        """A store that cannot be used must not keep the presets from speaking."""
        for records in (self.voices, self.consents):
            try:
                records.tidy()
            except (ApiError, OSError) as error:
                logger.error("%s cannot be used: %s", records.folder, error)

    # ---- voices ----

    def find(self, name: str, caller: Caller) -> StoredVoice | None:
        """By id, else by name."""
        alike = self._known_as(name, caller)
        return alike[-1] if alike else None

    def _known_as(self, name: str, caller: Caller) -> list[StoredVoice]:
        """The voice of that id, or all that share the name where it leads the caller to."""
        voice = self.voices.get(name.strip())
        if voice is not None and can_see(voice, caller):
            return [voice]
        alike = self.voices.named(name)
        own = [voice for voice in alike if voice.owner == owner_of(caller)]
        return own or [voice for voice in alike if voice.owner is None]

    def visible(self, caller: Caller) -> list[StoredVoice]:
        return [voice for voice in self.voices.all() if can_see(voice, caller)]

    def add(
        self, voice: StoredVoice, sample: bytes | None = None, *, overwrite: bool = True
    ) -> StoredVoice:
        """One name, one voice: what its owner had under the name goes, unless `overwrite` is
        false.
        """
        with self.voices.written(voice.id, sample) as keep, self.database.write() as db:
            same_owner = [one for one in self.voices.all(db) if one.owner == voice.owner]
            old = [one for one in same_owner if names.key(one.name) == names.key(voice.name)]
            if old and not overwrite:
                message = f"name: there is a voice {voice.name!r} already; delete it, or overwrite."
                raise ApiError(409, message, param="name", code="name_taken")
            self._check_room(len(same_owner) - len(old))
            consent = voice.consent or ""
            if is_consent_id(consent) and self.consents.get(consent, db) is None:
                raise no_such_consent(consent, 400, "consent")
            for one in old:
                self.voices.remove(db, one)
            keep()
            self.voices.insert(db, voice)
        self.voices.forget_data(old)
        return voice

    def new_voice(self, name: str, owner: str | None, **fields: Any) -> StoredVoice:
        head = {"id": self.voices.new_id(), "created_at": int(time.time())}
        return msgspec.convert(head | {"name": name, "owner": owner} | fields, StoredVoice)

    def _check_room(self, count: int) -> None:
        if count >= self.max_voices:
            message = f"There are {self.max_voices} of these already; delete some first."
            raise ApiError(400, message, code="quota_exceeded")

    def delete_voice(self, name: str, caller: Caller) -> StoredVoice:
        """By id, or all that the name leads to; the newest of them."""
        with self.database.write() as db:
            gone = self._known_as(name, caller)
            if not gone:
                raise unknown_voice(name)
            for voice in gone:
                check_may_change(voice, caller)
                self.voices.remove(db, voice)
        self.voices.forget_data(gone)
        return gone[-1]

    def keep_utterance(
        self, voice: StoredVoice, spoken: ReferenceAudio, text: str
    ) -> StoredVoice | None:
        """The first utterance of a described voice: later requests are cloned from it. None where
        the voice was deleted meanwhile; where another server was first, its utterance stays.
        """
        with self.voices.written(voice.id, spoken.samples) as keep, self.database.write() as db:
            now = self.voices.get(voice.id, db)
            if now is None or now.reference_key is not None:
                return now
            now = msgspec.structs.replace(now, reference_key=spoken.key, ref_text=text)
            keep()
            self.voices.update(db, now)
        return now

    def reference(self, voice: StoredVoice) -> ReferenceAudio | None:
        """The sample, whole and unchanged; None where there is none yet."""
        if voice.reference_key is None:
            return None
        samples = self.voices.data(voice)
        if samples is None or hashlib.sha256(samples).hexdigest() != voice.reference_key:
            if self.voices.get(voice.id) is None:
                raise invalid(f"The voice {voice.name!r} was just deleted.", "voice")
            what = "is missing" if samples is None else "is damaged"
            logger.warning(
                "the sample of voice %s %s: %s", voice.id, what, self.voices.path(voice.id)
            )
            message = f"The sample of voice {voice.name!r} {what}; upload it again."
            raise ApiError(500, message, param="voice", code="voice_damaged")
        return ReferenceAudio(voice.reference_key, samples)

    # ---- consents ----

    def consent(self, id_: str, caller: Caller) -> Consent:
        consent = self.consents.get(id_)
        if consent is None or not can_see(consent, caller):
            raise no_such_consent(id_)
        return consent

    def visible_consents(self, caller: Caller) -> list[Consent]:
        return [consent for consent in self.consents.all() if can_see(consent, caller)]

    def check_consent(self, consent: str, caller: Caller) -> None:
        """What a sample comes with: a consent's id, or in words who allowed what."""
        least, most = CONSENT_CHARS
        if is_consent_id(consent):
            found = self.consents.get(consent)
            if found is None or not can_see(found, caller):
                raise no_such_consent(consent, 400, "consent")
        elif not least <= len(consent) <= most:
            message = (
                f"consent: the id of a voice consent, or {least} to {most} characters that say who"
                " allowed the voice to be used and for what."
            )
            raise invalid(message, "consent")

    def add_consent(self, name: str, language: str, recording: bytes, owner: str | None) -> Consent:
        head = {"id": self.consents.new_id(), "created_at": int(time.time()), "owner": owner}
        consent = msgspec.convert(head | {"name": name, "language": language}, Consent)
        with self.consents.written(consent.id, recording) as keep, self.database.write() as db:
            self._check_room(sum(one.owner == owner for one in self.consents.all(db)))
            keep()
            self.consents.insert(db, consent)
        return consent

    def rename_consent(self, id_: str, name: str, caller: Caller) -> Consent:
        with self.database.write() as db:
            consent = self.consent(id_, caller)
            check_may_change(consent, caller)
            consent = msgspec.structs.replace(consent, name=name)
            self.consents.update(db, consent)
        return consent

    def delete_consent(self, id_: str, caller: Caller, *, cascade: bool) -> Sequence[StoredVoice]:
        """The voices that rest on it: none, or with `cascade` those that are disabled now."""
        with self.database.write() as db:
            consent = self.consent(id_, caller)
            check_may_change(consent, caller)
            resting = [one for one in self.voices.all(db) if one.consent == id_]
            in_use = [voice for voice in resting if not voice.disabled]
            if in_use and not cascade:
                raise _consent_in_use(consent, in_use)
            for voice in in_use:
                self.voices.update(db, msgspec.structs.replace(voice, disabled=True))
            self.consents.remove(db, consent)
        self.consents.forget_data([consent])
        return in_use


def owner_of(caller: Caller) -> str | None:
    """What is made on a server without keys is everybody's."""
    return None if caller == ANONYMOUS else caller.id


def can_see(record: Record, caller: Caller) -> bool:
    return record.owner is None or _may_change(record, caller)


def _may_change(record: Record, caller: Caller) -> bool:
    return caller.is_admin or record.owner == owner_of(caller)


def check_may_change(record: Record, caller: Caller) -> None:
    if not _may_change(record, caller):
        message = f"{record.name!r} belongs to the operator of this server; an admin key is needed."
        raise ApiError(403, message, code="not_the_owner")


def is_consent_id(consent: str) -> bool:
    return _CONSENT_ID.match(consent) is not None


def unknown_voice(name: str) -> ApiError:
    message = f"There is no stored voice {name!r}."
    return ApiError(404, message, param="voice_id", code="voice_not_found")


def no_such_consent(id_: str, status: int = 404, param: str = "consent_id") -> ApiError:
    message = f"There is no voice consent {id_!r}."
    return ApiError(status, message, param=param, code="consent_not_found")


def _consent_in_use(consent: Consent, voices: Sequence[StoredVoice]) -> ApiError:
    named = ", ".join(repr(voice.name) for voice in voices[:5])
    message = (
        f"The consent {consent.id!r} is in use by {len(voices)} voices ({named}); delete them"
        " first, or add ?cascade=true, which disables them."
    )
    return ApiError(409, message, param="consent_id", code="consent_in_use")
