"""Voices that users made, from a sample of audio or from a description, and people's consents.

A name means the caller's own voice of that name, else everybody's; others' are as if they were not
there.
"""

import functools
import hashlib
import logging
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import msgspec

from engine import ReferenceAudio
from qtts_openai.errors import ApiError, invalid
from qtts_openai.http.callers import Caller
from qtts_openai.settings import CloningSettings
from qtts_openai.voices import names
from qtts_openai.voices.object_store import Bucket, ObjectRecords
from qtts_openai.voices.record_store import ConflictError, Database, Records, storage_busy
from qtts_openai.voices.records import (
    Consent,
    StoredVoice,
    can_see,
    check_may_change,
    consent_in_use,
    disabled,
    is_consent_id,
    name_taken,
    no_such_consent,
    owner_of,
    unknown_voice,
    without_sample,
)
from qtts_openai.voices.repository import Changes, Repository

logger = logging.getLogger(__name__)

CONSENT_CHARS = (10, 2000)

# With 20 servers that change at once, one of them is first in each round.
MOST_ATTEMPTS = 25

P = ParamSpec("P")
T = TypeVar("T")


def again_on_conflict(change: Callable[P, T]) -> Callable[P, T]:
    """Where another server was faster: the whole change again, on what is there now."""

    @functools.wraps(change)
    def changing(*args: P.args, **kwargs: P.kwargs) -> T:
        for attempt in range(MOST_ATTEMPTS):
            try:
                return change(*args, **kwargs)
            except ConflictError:
                time.sleep(random.uniform(0, min(0.02 * 2**attempt, 0.5)))
        raise storage_busy()

    return changing


class VoiceStore:
    """`max_voices`: of one owner; consents likewise. `cloning` says what consents are asked for.
    `object_store`: the URL of a bucket, which is used instead of the directory.
    """

    voices: Repository[StoredVoice]
    consents: Repository[Consent]

    def __init__(
        self,
        directory: Path,
        max_voices: int,
        *,
        cloning: CloningSettings | None = None,
        object_store: str | None = None,
    ) -> None:
        self.max_voices = max_voices
        self.cloning = cloning or CloningSettings()
        if object_store is None:
            voices, consents = directory / "voices", directory / "consents"
            database = Database(voices / "records.db")
            self.database: Changes = database
            self.voices = Records(
                database, StoredVoice, voices, "voice", lambda voice: voice.disabled
            )
            self.consents = Records(database, Consent, consents, "cons")
        else:
            self.database = bucket = Bucket(object_store)
            self.voices = ObjectRecords(
                bucket, StoredVoice, "voices", "voice", lambda voice: voice.reference_key
            )
            self.consents = ObjectRecords(bucket, Consent, "consents", "cons")
        self._tidy()

    def _tidy(self) -> None:
        """A store that cannot be used must not keep the presets from speaking."""
        for records in (self.voices, self.consents):
            try:
                records.tidy()
            except (ApiError, OSError) as error:
                logger.error("the store in %s cannot be used: %s", records.folder, error)

    # ---- voices ----

    def find(self, name: str, caller: Caller) -> StoredVoice | None:
        """By id, else by name."""
        alike = self._known_as(name, caller)
        return alike[-1] if alike else None

    def _known_as(self, name: str, caller: Caller, db: Any = None) -> list[StoredVoice]:
        """The voice of that id, or all that share the name where it leads the caller to."""
        # Only what looks like an id: in a bucket a miss costs a question.
        is_id = name.strip().startswith("voice_")
        voice = self.voices.get(name.strip(), db) if is_id else None
        if voice is not None and can_see(voice, caller):
            return [voice]
        alike = self.voices.named(name, db)
        own = [voice for voice in alike if voice.owner == owner_of(caller)]
        return own or [voice for voice in alike if voice.owner is None]

    def own(self, name: str, caller: Caller, db: Any = None) -> list[StoredVoice]:
        """The voice of that id, or all that the name leads to, the newest last: never none, and
        the caller's to change.
        """
        alike = self._known_as(name, caller, db)
        if not alike:
            raise unknown_voice(name)
        for voice in alike:
            check_may_change(voice, caller)
        return alike

    def visible(self, caller: Caller) -> list[StoredVoice]:
        return [voice for voice in self.voices.all() if can_see(voice, caller)]

    @again_on_conflict
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
                raise name_taken(voice.name, "delete it, or overwrite")
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

    @again_on_conflict
    def delete_voice(self, name: str, caller: Caller) -> StoredVoice:
        """By id, or all that the name leads to; the newest of them."""
        with self.database.write() as db:
            gone = self.own(name, caller, db)
            for voice in gone:
                self.voices.remove(db, voice)
        self.voices.forget_data(gone)
        return gone[-1]

    @again_on_conflict
    def rename_voice(self, name: str, new_name: str, caller: Caller) -> StoredVoice:
        """By id, or all that the name leads to; the newest of them. The rest of it stays."""
        with self.database.write() as db:
            alike = self.own(name, caller, db)
            others = [one for one in self.voices.named(new_name, db) if one not in alike]
            if any(one.owner == alike[-1].owner for one in others):
                raise name_taken(new_name, "choose another name")
            renamed = [msgspec.structs.replace(voice, name=new_name) for voice in alike]
            for voice in renamed:
                self.voices.update(db, voice)
        return renamed[-1]

    @again_on_conflict
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
            now = self.voices.get(voice.id)
            if now is None or now.reference_key != voice.reference_key:
                raise invalid(f"The voice {voice.name!r} was just deleted.", "voice")
            what = "is missing" if samples is None else "is damaged"
            logger.warning(
                "the sample of voice %s %s: %s", voice.id, what, self.voices.where(voice)
            )
            message = f"The sample of voice {voice.name!r} {what}; upload it again."
            raise ApiError(500, message, param="voice", code="voice_damaged")
        return ReferenceAudio(voice.reference_key, samples)

    # ---- consents ----

    def consent(self, id_: str, caller: Caller, db: Any = None) -> Consent:
        consent = self.consents.get(id_, db)
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
            if self._is_expired(found):
                raise invalid(f"The consent {consent!r} has expired.", "consent", "consent_expired")
        elif self.cloning.require_consent != "off":
            message = "consent: the id of a voice consent; make one at /v1/audio/voice_consents."
            raise invalid(message, "consent", "consent_required")
        elif not least <= len(consent) <= most:
            message = (
                f"consent: the id of a voice consent, or {least} to {most} characters that say who"
                " allowed the voice to be used and for what."
            )
            raise invalid(message, "consent")

    def check_reference(self, consent: str | None, caller: Caller) -> None:
        """What reference audio in a request comes with."""
        if consent is not None:
            self.check_consent(consent, caller)
        elif self.cloning.require_consent == "all":
            message = "consent: this server clones only with the id of a voice consent."
            raise invalid(message, "consent", "consent_required")

    def check_may_speak(self, voice: StoredVoice) -> None:
        """403 for a voice whose consent was withdrawn, has expired or was never there."""
        if voice.disabled:
            raise disabled(voice, "was withdrawn")
        consent = voice.consent or ""
        found = self.consents.get(consent) if is_consent_id(consent) else None
        if found is not None and self._is_expired(found):
            raise disabled(voice, "has expired")
        needs_one = voice.type == "audio_sample" and self.cloning.require_consent != "off"
        if found is None and needs_one:
            raise disabled(voice, "is not there")

    def _is_expired(self, consent: Consent) -> bool:
        days = self.cloning.consent_days
        return days > 0 and time.time() > consent.created_at + days * 86_400

    @again_on_conflict
    def add_consent(self, name: str, language: str, recording: bytes, owner: str | None) -> Consent:
        head = {"id": self.consents.new_id(), "created_at": int(time.time()), "owner": owner}
        consent = msgspec.convert(head | {"name": name, "language": language}, Consent)
        with self.consents.written(consent.id, recording) as keep, self.database.write() as db:
            self._check_room(sum(one.owner == owner for one in self.consents.all(db)))
            keep()
            self.consents.insert(db, consent)
        return consent

    @again_on_conflict
    def rename_consent(self, id_: str, name: str, caller: Caller) -> Consent:
        with self.database.write() as db:
            consent = self.consent(id_, caller, db)
            check_may_change(consent, caller)
            consent = msgspec.structs.replace(consent, name=name)
            self.consents.update(db, consent)
        return consent

    @again_on_conflict
    def delete_consent(self, id_: str, caller: Caller, *, cascade: bool) -> Sequence[StoredVoice]:
        """The voices that rest on it: none, or with `cascade` those that are disabled now. Their
        samples are gone, too: what is left of them is that they were there.
        """
        with self.database.write() as db:
            consent = self.consent(id_, caller, db)
            check_may_change(consent, caller)
            resting = [one for one in self.voices.all(db) if one.consent == id_]
            in_use = [voice for voice in resting if not voice.disabled]
            if in_use and not cascade:
                raise consent_in_use(consent, in_use)
            for voice in in_use:
                self.voices.update(db, without_sample(voice))
            self.consents.remove(db, consent)
        self.consents.forget_data([consent])
        self.voices.forget_data(in_use)
        return in_use
