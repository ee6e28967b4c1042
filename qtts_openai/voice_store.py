"""Voices that users made: from a sample of audio or from a description. And their consents."""

import time
from pathlib import Path
from typing import Literal

import msgspec

from engine import ReferenceAudio
from qtts_openai.errors import ApiError
from qtts_openai.records import Record, Records
from qtts_openai.voices import Voice


class StoredVoice(Record, frozen=True, kw_only=True):
    """`seed` makes a described voice sound the same in every request. The bytes beside the record
    are the sample as float32 mono 24 kHz: the user's own, or the first utterance of a described
    voice, whose words are then `ref_text`.
    """

    name: str
    type: Literal["audio_sample", "prompt"]
    prompt: str | None = None
    ref_text: str | None = None
    consent: str | None = None
    seed: int | None = None
    reference_key: str | None = None

    def answer(self) -> dict[str, object]:
        """As OpenAI's API shows it."""
        shown = {"id": self.id, "object": "audio.voice", "created_at": self.created_at}
        shown |= {"name": self.name, "type": self.type}
        return shown | ({"prompt": self.prompt} if self.prompt is not None else {})

    def voice(self) -> Voice:
        return Voice(
            id=self.id,
            name=self.name,
            character=self.prompt or "made from a sample",
            prompt=self.prompt,
            is_stored=True,
            can_clone=self.reference_key is not None,
            reference_text=self.ref_text,
            seed=self.seed,
        )


class Consent(Record, frozen=True, kw_only=True):
    name: str
    language: str

    def answer(self) -> dict[str, object]:
        shown = {"id": self.id, "object": "audio.voice_consent", "created_at": self.created_at}
        return shown | {"name": self.name, "language": self.language}


class VoiceStore:
    def __init__(self, directory: Path, max_voices: int) -> None:
        self.voices = Records(directory / "voices", StoredVoice, "voice", max_voices)
        self.consents = Records(directory / "consents", Consent, "cons", max_voices)

    def find(self, name: str) -> StoredVoice | None:
        """By id, else by name; of several with one name the newest."""
        voice = self.voices.get(name)
        if voice is not None:
            return voice
        wanted = name.strip().lower()
        alike = [voice for voice in self.voices if voice.name.lower() == wanted]
        return alike[-1] if alike else None

    def add_sample(self, name: str, sample: ReferenceAudio, **fields: str | None) -> StoredVoice:
        record = self._new(name, type="audio_sample", reference_key=sample.key, **fields)
        self.voices.put(record, sample.samples)
        return record

    def add_prompt(self, name: str, prompt: str, seed: int, **fields: str | None) -> StoredVoice:
        record = self._new(name, type="prompt", prompt=prompt, seed=seed, **fields)
        self.voices.put(record)
        return record

    def _new(self, name: str, **fields: object) -> StoredVoice:
        self.voices.check_room()
        stored = {"id": self.voices.new_id(), "created_at": int(time.time()), "name": name.strip()}
        return msgspec.convert(stored | fields, StoredVoice)

    def add_consent(self, name: str, language: str, recording: bytes) -> Consent:
        self.consents.check_room()
        fields = {"id": self.consents.new_id(), "created_at": int(time.time())}
        consent = msgspec.convert(fields | {"name": name, "language": language}, Consent)
        self.consents.put(consent, recording)
        return consent

    def consent(self, id_: str) -> Consent:
        consent = self.consents.get(id_)
        if consent is None:
            message = f"There is no voice consent {id_!r}."
            raise ApiError(404, message, param="consent_id", code="consent_not_found")
        return consent

    def keep_utterance(self, voice: StoredVoice, spoken: ReferenceAudio, text: str) -> None:
        """The first utterance of a described voice: later requests are cloned from it."""
        record = msgspec.structs.replace(voice, reference_key=spoken.key, ref_text=text)
        self.voices.put(record, spoken.samples)

    def reference(self, id_: str) -> ReferenceAudio | None:
        voice = self.voices.get(id_)
        samples = self.voices.data(voice) if voice and voice.reference_key else None
        if voice is None or voice.reference_key is None or samples is None:
            return None
        return ReferenceAudio(voice.reference_key, samples)


def unknown_voice(name: str) -> ApiError:
    message = f"There is no stored voice {name!r}."
    return ApiError(404, message, param="voice_id", code="voice_not_found")
