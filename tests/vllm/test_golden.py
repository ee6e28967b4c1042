"""Codes of the official package, by vLLM: every greedy golden case, alone and in one batch; and our
own engine's codes for many seeds.
"""

import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.config import ModelSpec
from engine.core import EngineCore
from engine.protocol import SamplingParams, Submit
from tests.engine.speaking import REFERENCES, random_params, random_prompt
from tests.models import golden
from tests.models.test_parity import GREEDY, make_core, submission
from tests.vllm.conftest import V2, build_core, feedback

NAMES = list(golden.CASES["checkpoints"])


@pytest.fixture(scope="session")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return golden.write_all(tmp_path_factory.mktemp("golden"))


@pytest.fixture(scope="module", params=NAMES)
def core(request: pytest.FixtureRequest, paths: dict[str, Path]) -> Iterator[EngineCore]:
    spec = ModelSpec(id="m", checkpoint=str(paths[request.param]))
    core = build_core(spec)
    yield core
    core.close()


@pytest.fixture(scope="module")
def own(core: EngineCore) -> EngineCore:
    """Our engine with the same checkpoint."""
    return make_core(Path(core.checkpoints["m"].info.path), None)


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def cases_of(core: EngineCore) -> list[dict[str, Any]]:
    folder = Path(core.checkpoints["m"].info.path).name
    return [case for case in GREEDY if case["checkpoint"].replace("/", "-") == folder]


def assert_official(codes: list[list[int]], case: dict[str, Any]) -> None:
    expected = golden.arrays("speech")[f"{case['id']}.codes"]
    np.testing.assert_array_equal(codes, expected, err_msg=case["id"])


def test_greedy_codes_alone(core: EngineCore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also ends: where a case asks, the end's logit becomes 1.125 times that of a likely code."""
    head = feedback(core).frame.talker.codec_head
    inner = head.forward
    for case in cases_of(core):
        like = case["eos_row_from"]

        def bent(x: torch.Tensor, like: int | None = like) -> torch.Tensor:
            logits = inner(x)
            if like is not None:
                logits[:, 2150] = logits[:, like] * 1.125
            return logits

        monkeypatch.setattr(head, "forward", bent)
        assert_official(golden.speak(core, [submission(core, case)])[1], case)


def test_greedy_codes_in_one_batch(core: EngineCore) -> None:
    cases = [case for case in cases_of(core) if case["eos_row_from"] is None]
    codes = golden.speak(core, [submission(core, case, i) for i, case in enumerate(cases)])
    for i, case in enumerate(cases):
        assert_official(codes[i], case)


def test_a_seed_gives_the_codes_of_our_own_engine(core: EngineCore, own: EngineCore) -> None:
    """Every rule of sampling at once, alone and in a batch."""
    cases = cases_of(core)[:4]
    submits = [drawn(submission(core, case, i), i) for i, case in enumerate(cases)]
    for case in cases:
        submission(own, case)  # registers its reference
    expected = golden.speak(own, submits)
    assert golden.speak(core, submits) == expected
    assert golden.speak(core, submits[:1])[0] == expected[0]
    assert len({str(codes) for codes in expected.values()}) == len(cases)


@pytest.mark.skipif(V2, reason="interpreted kernels would take minutes")
def test_many_seeds_give_the_codes_of_our_own_engine(core: EngineCore, own: EngineCore) -> None:
    """Prompts of every form and rules of every kind, four at a time, coming and going."""
    rng, family = random.Random(14), core.checkpoints["m"].info.model_type
    if family == "base":
        for one, reference in itertools.product((core, own), REFERENCES):
            one.register_voice("m", reference)
    submits = [
        Submit(i, "m", random_prompt(rng, family), random_params(rng, 16)) for i in range(20)
    ]
    assert golden.speak(core, submits) == golden.speak(own, submits)


def drawn(submit: Submit, i: int) -> Submit:
    rules = (
        SamplingParams(seed=1234, max_new_tokens=30, ignore_eos=True),
        SamplingParams(seed=-5, max_new_tokens=25, top_p=0.8, top_k=0, temperature=1.3),
        SamplingParams(seed=2**62, max_new_tokens=12, repetition_penalty=1.5, subtalker_top_k=3),
        SamplingParams(seed=7, max_new_tokens=20, subtalker_temperature=0.0),
    )
    return Submit(submit.id, "m", submit.prompt, rules[i])
