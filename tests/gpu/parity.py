"""Golden cases for an engine built the usual way. Prompts come from the recorded ids, so neither
the tokenizer nor the HTTP side is needed.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from engine.config import EngineConfig, ModelSpec
from engine.core import EngineCore
from engine.protocol import ModelInfo, Prompt, ReferenceAudio, Submit
from engine.startup import build
from tests.models import golden

EOS = 2150
GREEDY = [case for case in golden.CASES["speech"] if case["seed"] is None]


def make_core(path: Path, **changes: Any) -> EngineCore:
    config = EngineConfig(
        **{
            "dtype": "float32",
            "max_num_seqs": 4,
            "max_model_len": 512,
            "kv_cache_memory": "32MB",
            "threads": 1,
            **changes,
        }
    )
    core, _ = build(config, [ModelSpec(id="m", checkpoint=str(path))])
    return core


def submission(core: EngineCore, case: dict[str, Any], id_: int = 1) -> Submit:
    """A reference recording is registered first."""
    info, ids, key = core.checkpoints["m"].info, case["ids"], None
    if case["reference"] is not None:
        key = repr(case["reference"])
        wave = golden.reference_wave(case["reference"])
        core.register_voice("m", ReferenceAudio(key, wave.tobytes()))
    speaker = (case["speaker"] or "").lower()
    prompt = Prompt(
        role=tuple(ids["assistant"][:3]),
        text=tuple(ids["assistant"][3:-5]),
        instruct=tuple(ids["instruct"] or ()) if info.supports_instruct else (),
        language_id=language_id(info, case["language"].lower(), speaker),
        speakers=((info.speakers[speaker], 1.0),) if speaker else (),
        reference=key,
        reference_text=() if case["x_vector_only"] else tuple((ids["reference"] or ())[3:-2]),
        streaming_text=case["streaming_text"],
    )
    return Submit(id_, "m", prompt, golden.params(case["sampling"]))


def language_id(info: ModelInfo, language: str, speaker: str) -> int | None:
    """A speaker of a dialect speaks it where the language is auto or Chinese."""
    if language in ("auto", "chinese"):
        language = info.speaker_dialects.get(speaker, language)
    return None if language == "auto" else info.languages[language]


@contextmanager
def end_row(core: EngineCore, case: dict[str, Any]) -> Iterator[None]:
    """Lets the end token win where a case asks: its row becomes 1.125 times that of a likely code.

    In place, so that a recorded graph sees it.
    """
    weight, like = core.talker.runners["m"].talker.codec_head.weight, case["eos_row_from"]
    with torch.inference_mode():
        before = weight[EOS].clone()
        if like is not None:
            weight[EOS] = weight[like] * 1.125
        try:
            yield
        finally:
            weight[EOS] = before
