"""Voices by name: the table of presets, the checkpoint's own speakers, and mixes of them.

A Voice says how it can be spoken: with speakers (CustomVoice), with a description (VoiceDesign) or
with reference audio (Base). Which of these a loaded checkpoint can do is model_registry.py's
business.
"""

import re
import zlib
from collections.abc import Iterable, Mapping
from importlib import resources

import msgspec

from engine import ModelInfo
from qtts_openai.errors import invalid
from qtts_openai.settings import Gender, VoiceEntry
from qtts_openai.voices import names

_MIX_PART = re.compile(r"^\s*([^()+]+?)\s*(?:\(\s*(\d{1,4}(?:\.\d{1,4})?)\s*\))?\s*$")


class Voice(msgspec.Struct, frozen=True, kw_only=True):
    """`speakers` are (name, weight) pairs whose weights sum to 1. A stored voice has a record in
    the VoiceStore; where it `can_clone`, that has its reference audio or can get it. `seed` keeps
    a described voice the same in every request.
    """

    id: str
    name: str
    gender: Gender = "neutral"
    language: str = "Auto"
    description: str = ""
    speakers: tuple[tuple[str, float], ...] = ()
    prompt: str | None = None
    is_stored: bool = False
    can_clone: bool = False
    reference_text: str | None = None
    seed: int | None = None
    consent: str | None = None

    def families(self) -> tuple[str, ...]:
        """Model types that can speak this voice, best first."""
        ways = {
            "custom_voice": bool(self.speakers),
            "base": self.can_clone,
            "voice_design": self.prompt is not None,
        }
        return tuple(family for family, can in ways.items() if can)


def packaged_entries() -> list[VoiceEntry]:
    data = resources.files("qtts_openai.voices").joinpath("voices.yaml").read_bytes()
    return msgspec.yaml.decode(data, type=list[VoiceEntry])


class VoiceTable:
    """Preset voices and the loaded checkpoints' speakers, by names.key."""

    def __init__(
        self, aliases: Mapping[str, str], extra: Iterable[VoiceEntry], models: Iterable[ModelInfo]
    ) -> None:
        speaker_of = {names.key(name): speaker.lower() for name, speaker in aliases.items()}
        entries = {names.key(entry.name): entry for entry in (*packaged_entries(), *extra)}
        for name in speaker_of.keys() - entries.keys():
            entries[name] = VoiceEntry(name=name)
        for speaker in sorted({speaker for model in models for speaker in model.speakers}):
            if speaker not in entries:
                entries[speaker] = VoiceEntry(name=speaker, gender=_guess(speaker), speaker=speaker)
        self.voices = {
            name: _voice(entry, speaker_of.get(name, entry.speaker))
            for name, entry in entries.items()
        }

    def get(self, name: str) -> Voice | None:
        return self.voices.get(names.key(name))

    def mix(self, text: str) -> Voice:
        """`vivian(2)+ryan(1)`: a blend of speakers. Raises a 400 that shows the form."""
        weights: dict[str, float] = {}
        for part in text.split("+"):
            name, weight = self._mix_part(part, text)
            for speaker, share in self._speakers_of(name):
                weights[speaker] = weights.get(speaker, 0.0) + weight * share
        total = sum(weights.values())
        if total <= 0:
            raise invalid(f"voice {text!r}: the weights of a mix must not all be 0.", "voice")
        speakers = tuple(
            (speaker, weight / total) for speaker, weight in weights.items() if weight > 0
        )
        return Voice(id=text, name=text, speakers=speakers)

    def _mix_part(self, part: str, text: str) -> tuple[str, float]:
        match = _MIX_PART.match(part)
        if match is None:
            raise invalid(f"voice {text!r}: write a mix as 'vivian(2)+ryan(1)'.", "voice")
        return match[1], float(match[2] or 1)

    def _speakers_of(self, name: str) -> tuple[tuple[str, float], ...]:
        voice = self.get(name)
        if voice is None or not voice.speakers:
            message = (
                f"voice {name!r} has no speaker and cannot be mixed; use names such as 'vivian'."
            )
            raise invalid(message, "voice")
        return voice.speakers

    def unknown(self, name: str) -> Exception:
        known = ", ".join(sorted(self.voices))
        return invalid(f"There is no voice {name!r}. Known voices: {known}.", "voice")

    def rows(self, voice: Voice, model: ModelInfo) -> tuple[tuple[int, float], ...]:
        """(codec row, weight) for each speaker, with a stand-in of the same gender where `model`
        lacks one.
        """
        weights: dict[int, float] = {}
        for speaker, weight in voice.speakers:
            row = model.speakers[self.stand_in(speaker, voice, model)]
            weights[row] = weights.get(row, 0.0) + weight
        return tuple(weights.items())

    def gain_db(self, voice: Voice, model: ModelInfo) -> float:
        """What makes it as loud as the model's other speakers."""
        gains = model.speaker_gains_db
        return sum(
            weight * gains.get(self.stand_in(speaker, voice, model), 0.0)
            for speaker, weight in voice.speakers
        )

    def stand_in(self, speaker: str, voice: Voice, model: ModelInfo) -> str:
        """`speaker` itself where the checkpoint has it, else one of the same gender, the same one
        every time.
        """
        if speaker in model.speakers:
            return speaker
        gender = voice.gender if voice.gender != "neutral" else self._gender(speaker)
        everyone = sorted(model.speakers)
        alike = [name for name in everyone if self._gender(name) == gender]
        pool = alike or everyone
        return pool[zlib.crc32(voice.name.encode()) % len(pool)]

    def _gender(self, speaker: str) -> Gender:
        voice = self.voices.get(speaker)
        return voice.gender if voice else _guess(speaker)


def _guess(speaker: str) -> Gender:
    words = set(re.split(r"[^a-z]+", speaker.lower()))
    if words & {"female", "woman", "girl", "f"}:
        return "female"
    return "male" if words & {"male", "man", "boy", "m"} else "neutral"


def _voice(entry: VoiceEntry, speaker: str | None) -> Voice:
    return Voice(
        id=entry.name,
        name=entry.name,
        gender=entry.gender,
        language=entry.language,
        description=entry.description,
        speakers=((speaker.lower(), 1.0),) if speaker else (),
        prompt=entry.prompt,
        seed=zlib.crc32(entry.name.encode()),
    )
