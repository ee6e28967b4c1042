"""The deployment with an engine that hums in place of a real one, for Ray to import."""

import os
from pathlib import Path
from typing import Any, cast

from ray import serve

from engine import EngineClient
from qtts_openai.ray_serve import Speech, build
from qtts_openai.settings import Settings
from tests.api.fake_engine import FakeEngine, model_info


class Humming(Speech):
    def engine(self, settings: Settings) -> EngineClient:
        tokenizer = Path(os.environ["HUMMING_TOKENIZER"])
        kinds = {"tts-1": "custom_voice", "base": "base"}
        engine = FakeEngine([model_info(name, tokenizer, kind) for name, kind in kinds.items()])
        engine.chunk_delay_s = 0.2
        return cast(EngineClient, engine)


def application(arguments: dict[str, Any]) -> serve.Application:
    return build(arguments, Humming)
