"""Two ranks: two processes of vLLM's beside ours, which draw the same codes."""

from pathlib import Path

import pytest

from engine.config import VllmOptions
from engine.core import EngineCore
from engine.protocol import SamplingParams, Submit
from tests.engine.conftest import models
from tests.engine.speaking import assert_idle, prompt, speak
from tests.models.test_parity import make_core
from tests.vllm.conftest import build_core

__all__ = ["models"]


@pytest.mark.timeout(900)
def test_two_ranks_give_our_engines_codes(models) -> None:
    submits = [
        Submit(i, "m", prompt(), SamplingParams(seed=i, max_new_tokens=16)) for i in range(3)
    ]
    own: EngineCore = make_core(Path(models[0].checkpoint), None)
    expected = {id_: heard.codes for id_, heard in speak(own, submits).items()}
    two = VllmOptions(enforce_eager=True, tensor_parallel_size=2)
    core = build_core(models[0].__class__(id="m", checkpoint=models[0].checkpoint), vllm=two)
    heard = speak(core, submits)
    assert {id_: one.codes for id_, one in heard.items()} == expected
    assert_idle(core)
    core.close()
