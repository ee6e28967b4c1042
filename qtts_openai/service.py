"""What the routes share: made when the engine is ready, given to them by injection."""

import time
from typing import Any

from engine import EngineClient, ModelInfo, SpeechStream
from qtts_openai.catalog import FAMILIES, Catalog
from qtts_openai.metrics import Metrics
from qtts_openai.planning import Planner, Utterance
from qtts_openai.settings import Settings
from qtts_openai.voices import Voice, VoiceTable


class Service:
    def __init__(self, settings: Settings, engine: EngineClient) -> None:
        models: dict[str, ModelInfo] = engine.models
        self.settings = settings
        self.engine = engine
        self.created = int(time.time())
        self.metrics = Metrics(engine)
        self.catalog = Catalog(settings.models, models, settings.text.pretokenizer)
        self.table = VoiceTable(settings.voices.aliases, settings.voices.extra, models.values())
        self.planner = Planner(settings, self.catalog, self.table)

    def submit(self, utterance: Utterance) -> SpeechStream:
        return self.engine.submit(
            utterance.model.id, utterance.prompt, utterance.params, utterance.reference
        )

    def noisy_models(self) -> list[str]:
        return [info.id for info in self.catalog.models.values() if info.random_weights]

    def describe(self, voice: Voice) -> dict[str, Any]:
        """The voice in a listing; `available` and `models` say what the loaded checkpoints can do
        with it.
        """
        able = [
            info.id for info in self.catalog.models.values() if info.model_type in voice.families()
        ]
        return {
            "id": voice.id,
            "object": "audio.voice",
            "name": voice.name,
            "language": voice.language,
            "gender": voice.gender,
            "description": voice.character,
            "type": "prompt" if not voice.speakers else "speaker",
            "available": bool(able),
            "models": able,
            "needs": [FAMILIES[family] for family in voice.families()],
        }

    def voices_of(self, model: ModelInfo) -> list[dict[str, str]]:
        voices = self.table.voices.values()
        return [
            {"name": voice.name, "language": voice.language}
            for voice in voices
            if model.model_type in voice.families()
        ]
