"""What the routes share: made when the engine is ready, given to them by injection."""

import secrets
import time
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from engine import EngineClient, ModelInfo, Prompt, SpeechStream
from qtts_openai.casting import Casting
from qtts_openai.catalog import FAMILIES, Catalog
from qtts_openai.limiter import Limiter
from qtts_openai.metrics import Metrics
from qtts_openai.narration import Narration, PcmStream
from qtts_openai.planning import Planner, Utterance
from qtts_openai.references import References
from qtts_openai.settings import Settings
from qtts_openai.speech_cache import Recording, SpeechCache, cache_key
from qtts_openai.voice_store import VoiceStore
from qtts_openai.voices import Voice, VoiceTable


class Service:
    def __init__(self, settings: Settings, engine: EngineClient) -> None:
        models: dict[str, ModelInfo] = engine.models
        self.settings = settings
        self.engine = engine
        self.created = int(time.time())
        max_bytes = settings.cache.max_bytes
        self.cache = SpeechCache(max_bytes) if max_bytes else None
        self.metrics = Metrics(engine, self.cache)
        self.catalog = Catalog(settings.models, models, settings.text.pretokenizer)
        self.table = VoiceTable(settings.voices.aliases, settings.voices.extra, models.values())
        self.store = VoiceStore(Path(settings.voices.directory), settings.voices.max_voices)
        self.references = References(settings.ref_audio, self.store, self.catalog, engine)
        self.casting = Casting(settings.defaults, self.catalog, self.table, self.references)
        self.planner = Planner(settings, self.casting)
        self.limiter = Limiter(settings.limits)

    @classmethod
    async def begin(cls, settings: Settings, engine: EngineClient) -> "Service":
        """Start the engine, unless it is, and read what the models need here. CheckpointError or
        EngineDeadError when that fails; no worker is left behind then.
        """
        try:
            if engine.status != "ready":
                await engine.start()
            return cls(settings, engine)
        except BaseException:
            await engine.close()
            raise

    def submit(self, utterance: Utterance) -> PcmStream:
        """What was kept, or new work: QueueFullError or EngineDeadError at once, before any."""
        key = cache_key(utterance) if self.cache else None
        if self.cache is None or key is None:
            return self._speak(utterance)
        known = self.cache.get(key)
        self.metrics.cache_answers.labels("hit" if known else "miss").inc()
        return known or Recording(self._speak(utterance), self.cache, key)

    def _speak(self, utterance: Utterance) -> PcmStream:
        """All parts of an utterance share a seed, so that a described voice stays the same."""
        if utterance.params.seed is None and len(utterance.parts) > 1:
            params = msgspec.structs.replace(utterance.params, seed=secrets.randbits(62))
            utterance = msgspec.structs.replace(utterance, params=params)
        submit = partial(self._submit_prompt, utterance)
        first = utterance.parts[0]
        if len(utterance.parts) == 1 and isinstance(first, Prompt):
            return submit(first, 0.0)
        return Narration(submit, utterance.parts)

    def _submit_prompt(self, utterance: Utterance, prompt: Prompt, lead_s: float) -> SpeechStream:
        return self.engine.submit(
            utterance.model.id, prompt, utterance.params, utterance.reference, lead_s
        )

    def noisy_models(self) -> list[str]:
        return [info.id for info in self.catalog.models.values() if info.random_weights]

    def voices(self) -> tuple[list[Voice], list[Voice]]:
        """(presets, stored)"""
        stored = [self.casting.stored_voice(voice) for voice in self.store.voices]
        return list(self.table.voices.values()), stored

    def describe(self, voice: Voice) -> dict[str, Any]:
        """The voice in a listing; `available` and `models` say what the loaded checkpoints can do
        with it.
        """
        families = voice.families()
        able = [info.id for info in self.catalog.models.values() if info.model_type in families]
        return {
            "id": voice.id,
            "object": "audio.voice",
            "name": voice.name,
            "language": voice.language,
            "gender": voice.gender,
            "description": voice.character,
            "type": _kind(voice),
            "available": bool(able),
            "models": able,
            "needs": [FAMILIES[family] for family in families],
        }

    def voices_of(self, model: ModelInfo) -> list[dict[str, str]]:
        presets, stored = self.voices()
        return [
            {"name": voice.name, "language": voice.language}
            for voice in (*presets, *stored)
            if model.model_type in voice.families()
        ]


def _kind(voice: Voice) -> str:
    if voice.speakers:
        return "speaker"
    return "prompt" if voice.prompt is not None else "audio_sample"
