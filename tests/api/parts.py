"""The server's parts without a server: real objects on a FakeEngine and a fake decoder."""

import hashlib
from pathlib import Path

import numpy as np

from engine import ModelInfo, ReferenceAudio
from qtts_openai.http.callers import ANONYMOUS, Caller
from qtts_openai.schemas import SpeechRequest
from qtts_openai.settings import (
    CloningSettings,
    Defaults,
    ModelSettings,
    RefAudioSettings,
    Settings,
    VoiceEntry,
)
from qtts_openai.speech.planner import LivePlan, Planner, SpeechPlan
from qtts_openai.voices.likeness import Likeness
from qtts_openai.voices.model_registry import Catalog
from qtts_openai.voices.presets import VoiceTable
from qtts_openai.voices.records import StoredVoice
from qtts_openai.voices.references import References
from qtts_openai.voices.resolver import ResolvedVoice, VoiceResolver
from qtts_openai.voices.store import VoiceStore
from tests.api.fake_engine import FakeEngine, model_info

FAMILIES = {"custom": "custom_voice", "design": "voice_design", "base": "base"}
NARRATOR = VoiceEntry(name="narrator", prompt="A calm, low voice.")


class FakeDecoder:
    """The bytes of a "file" are its samples."""

    def __init__(self) -> None:
        self.error: Exception | None = None

    async def decode(self, data: bytes) -> ReferenceAudio:
        if self.error is not None:
            raise self.error
        return ReferenceAudio(hashlib.sha256(data).hexdigest(), data)


class Parts:
    """Models named in `loaded`; `tts-1` is an alias of the first."""

    def __init__(
        self,
        tokenizer_dir: Path,
        folder: Path,
        loaded: tuple[str, ...] = ("custom",),
        defaults: Defaults | None = None,
        ref_audio: RefAudioSettings | None = None,
        instructions_chars: int | None = None,
        **changes: object,
    ) -> None:
        models = tuple(
            ModelSettings(
                id=name,
                checkpoint="unused",
                aliases=("tts-1",) if not at else (),
                instructions_chars=instructions_chars,
            )
            for at, name in enumerate(loaded)
        )
        infos = {
            name: model_info(name, tokenizer_dir, FAMILIES[name], **changes) for name in loaded
        }
        self.settings = Settings(models=models, defaults=defaults or Defaults())
        self.engine = FakeEngine(list(infos.values()))
        self.engine.models = infos
        self.decoder = FakeDecoder()
        self.store = VoiceStore(folder, max_voices=10)
        self.catalog = Catalog(models, infos, "auto")
        self.table = VoiceTable({}, [NARRATOR], infos.values())
        self.references = References(
            ref_audio or RefAudioSettings(),
            self.store,
            self.catalog,
            self.engine.submit,
            self.decoder,
            Likeness(CloningSettings(), self.engine, self.store, self.decoder),
        )
        self.resolver = VoiceResolver(
            self.settings.defaults, self.catalog, self.table, self.references
        )
        self.planner = Planner(self.settings, self.resolver)

    def model(self, name: str) -> ModelInfo:
        return self.catalog.models[name]

    async def resolve(self, caller: Caller = ANONYMOUS, **fields: object) -> ResolvedVoice:
        return await self.resolver.resolve(request(**fields), caller)

    async def plan(self, **fields: object) -> SpeechPlan:
        return await self.planner.plan(request(**fields))

    async def plan_live(self, **fields: object) -> LivePlan:
        return await self.planner.plan_live(request(**fields))

    def add_sample(self, name: str, owner: str | None = None) -> StoredVoice:
        samples = np.full(24_000, 0.1, "<f4").tobytes()
        key = hashlib.sha256(samples).hexdigest()
        fields = {"reference_key": key, "consent": "I allow it.", "ref_text": "What it says."}
        voice = self.store.new_voice(name, owner, type="audio_sample", **fields)
        return self.store.add(voice, samples)

    def add_prompt(self, name: str) -> StoredVoice:
        voice = self.store.new_voice(name, None, type="prompt", prompt="A dry voice.", seed=5)
        return self.store.add(voice)


def request(**fields: object) -> SpeechRequest:
    """`...` leaves a field out."""
    known = {"input": "Hello there.", "model": "tts-1", "voice": "vivian", **fields}
    return SpeechRequest(**{name: value for name, value in known.items() if value is not ...})
