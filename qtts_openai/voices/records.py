"""What is stored of a user's voice and of a person's consent, and who may see and change it.

Each belongs to the caller that made it, or to everybody where the operator did. The caller that
made a record, or an admin, may change or delete it.
"""

import re
from collections.abc import Sequence
from typing import Literal

import msgspec

from qtts_openai.answers import ConsentAnswer, VoiceAnswer
from qtts_openai.errors import ApiError
from qtts_openai.http.callers import ANONYMOUS, Caller
from qtts_openai.voices.presets import Voice
from qtts_openai.voices.record_store import Record

# What a voice was made from, given back as it was sent.
_SENT = (
    "prompt",
    "consent",
    "consent_similarity",
    "ref_text",
    "mime_type",
    "file_size",
    "duration",
    "speaker_description",
)
_CONSENT_ID = re.compile(r"^cons_\w*$")


class StoredVoice(Record, frozen=True, kw_only=True):
    """`seed` makes a described voice sound the same in every request. The bytes beside the record
    are the sample as float32 mono 24 kHz: the user's own, or the first utterance of a described
    voice, whose words are then `ref_text`; `reference_key` is their SHA-256. `mime_type` and
    `file_size` are those of the file that was sent. `consent_similarity` is how like the voice of
    its consent it was found. A voice is disabled when that consent is withdrawn.
    """

    type: Literal["audio_sample", "prompt"]
    prompt: str | None = None
    ref_text: str | None = None
    consent: str | None = None
    consent_similarity: float | None = None
    seed: int | None = None
    reference_key: str | None = None
    mime_type: str | None = None
    file_size: int | None = None
    duration: float | None = None
    speaker_description: str | None = None
    disabled: bool = False

    def complete(self, shown: VoiceAnswer) -> VoiceAnswer:
        """With everything that was sent; one that is disabled speaks with no model."""
        sent = {name: getattr(self, name) for name in _SENT if getattr(self, name) is not None}
        sent |= {"created_at": self.created_at, "shared": self.owner is None, "type": self.type}
        if self.disabled:
            sent |= {"disabled": True, "available": False, "models": []}
        return msgspec.structs.replace(shown, **sent)

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
            consent=self.consent,
        )


class Consent(Record, frozen=True, kw_only=True):
    language: str

    def answer(self, days: float) -> ConsentAnswer:
        """`days`: how long it counts; 0: for ever."""
        return ConsentAnswer(
            id=self.id,
            created_at=self.created_at,
            name=self.name,
            language=self.language,
            expires_at=int(self.created_at + days * 86_400) if days else msgspec.UNSET,
        )


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


def name_taken(name: str, what_to_do: str) -> ApiError:
    message = f"name: there is a voice {name!r} already; {what_to_do}."
    return ApiError(409, message, param="name", code="name_taken")


def unknown_voice(name: str) -> ApiError:
    message = f"There is no stored voice {name!r}."
    return ApiError(404, message, param="voice_id", code="voice_not_found")


def no_such_consent(id_: str, status: int = 404, param: str = "consent_id") -> ApiError:
    message = f"There is no voice consent {id_!r}."
    return ApiError(status, message, param=param, code="consent_not_found")


def without_sample(voice: StoredVoice) -> StoredVoice:
    return msgspec.structs.replace(voice, disabled=True, reference_key=None, ref_text=None)


def disabled(voice: StoredVoice, why: str) -> ApiError:
    message = f"The consent for voice {voice.name!r} {why}; it speaks no more."
    return ApiError(403, message, param="voice", code="voice_disabled")


def consent_in_use(consent: Consent, voices: Sequence[StoredVoice]) -> ApiError:
    named = ", ".join(repr(voice.name) for voice in voices[:5])
    message = (
        f"The consent {consent.id!r} is in use by {len(voices)} voices ({named}); delete them"
        " first, or add ?cascade=true, which disables them."
    )
    return ApiError(409, message, param="consent_id", code="consent_in_use")
