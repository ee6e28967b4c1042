"""Equality with the official package, from text to codes, over every golden case.

The prompts are built by the HTTP side from the case's text, so the tokenizer, the layouts, the
talker, the code predictor and the sampler are all in the comparison.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.config import EngineConfig, ModelSpec
from engine.core import EngineCore
from engine.layers import linear
from engine.layers.linear import can_pack
from engine.loader.checkpoint import load, load_codec
from engine.loader.forms import Forms
from engine.native import build
from engine.protocol import ReferenceAudio, Submit
from engine.runner import sampler
from engine.runner.codec_runner import CodecRunner
from engine.runner.own_talker import OwnTalkerEngine
from engine.runner.talker_runner import TalkerRunner
from qtts_openai.text.prompt_builder import PromptBuilder, find_language
from tests.models import golden

CPU, FP32 = torch.device("cpu"), torch.float32
# The official package reads a template's control tokens in a text as such. Ours never does, so its
# prompt for that text is another one; tests/gpu still speaks the case from its recorded ids.
SPEECH = [case for case in golden.CASES["speech"] if case["id"] != "cv7_special_text"]
CONFIG = EngineConfig(max_num_seqs=4, max_model_len=512, max_num_batched_tokens=512)


# What this machine's engine runs: compiled layers where there is a compiler.
OWN_FORM = "plain" if build.build() else "native"
FORMS = ("plain", "packed", "native")


@pytest.fixture(scope="module")
def cores_of(checkpoints: dict[str, Path]) -> Callable[[str], dict[str, EngineCore]]:
    """Each form is made once, in whatever order the tests ask for them."""
    return cache(lambda form: make_cores(checkpoints, form))


@pytest.fixture(params=FORMS)
def cores(
    cores_of: Callable[[str], dict[str, EngineCore]], request: pytest.FixtureRequest
) -> dict[str, EngineCore]:
    """A core for each checkpoint: with torch's plain weights, and as a CPU engine runs."""
    if request.param == "packed" and not can_pack(FP32):
        pytest.skip("no packed kernels on this CPU")
    if request.param == "native" and (reason := build.build()):
        pytest.skip(reason)
    return cores_of(request.param)


def make_cores(checkpoints: dict[str, Path], form: str) -> dict[str, EngineCore]:
    forms = None
    if form != "plain":
        forms = Forms("none", FP32, CPU, native=form == "native")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linear, "PACK_FROM", 1)  # tiny weights would stay plain
        cores = {name: make_core(path, forms) for name, path in checkpoints.items()}
    runners = [core.talker.runners["m"] for core in cores.values()]
    assert {runner.kernels == "native" for runner in runners} == {form == "native"}
    return cores


def make_core(path: Path, forms: Forms | None) -> EngineCore:
    checkpoint = load(ModelSpec(id="m", checkpoint=str(path)), path, FP32, CPU, forms)
    c = checkpoint.config.talker_config
    shape = (c.num_hidden_layers, 2, 64, 16, c.num_key_value_heads, c.head_dim)
    codec = CodecRunner(load_codec(path, FP32, CPU), CONFIG.max_num_seqs, CONFIG.max_model_len)
    runner = TalkerRunner(checkpoint, torch.zeros(shape), CONFIG.max_num_seqs, CONFIG.max_model_len)
    talker = OwnTalkerEngine(
        {"m": runner}, CONFIG.max_num_seqs, CONFIG.max_num_batched_tokens, overlap=False
    )
    return EngineCore(CONFIG, {"m": checkpoint}, talker, {"m": codec})


def submission(core: EngineCore, case: dict[str, Any], id_: int = 1) -> Submit:
    """A golden case as the HTTP side would submit it; a reference recording is registered first."""
    info = core.checkpoints["m"].info
    builder = PromptBuilder(info)
    key = None
    if case["reference"] is not None:
        key = repr(case["reference"])
        wave = golden.reference_wave(case["reference"])
        core.register_voice("m", ReferenceAudio(key, wave.tobytes()))
    speaker = case["speaker"]
    prompt = builder.build(
        case["text"],
        language=find_language(case["language"], info),
        instruct=case["instruct"] if info.supports_instruct else None,
        speakers=((info.speakers[speaker.lower()], 1.0),) if speaker else (),
        reference=key,
        reference_text=None if case["x_vector_only"] else case["ref_text"],
        streaming_text=case["streaming_text"],
    )
    return Submit(id_, "m", prompt, golden.params(case["sampling"]))


@pytest.fixture
def end_row(cores: dict[str, EngineCore], monkeypatch: pytest.MonkeyPatch):
    """Lets EOS win where a case asks: its logit becomes 1.125 times that of a likely code."""

    def apply(case: dict[str, Any]) -> None:
        like = case["eos_row_from"]
        if like is None:
            return
        head = cores[case["checkpoint"]].talker.runners["m"].talker.codec_head
        inner = head.forward

        def forward(x: torch.Tensor) -> torch.Tensor:
            logits = inner(x)
            logits[:, 2150] = logits[:, like] * 1.125
            return logits

        monkeypatch.setattr(head, "forward", forward)

    return apply


def ids(cases: list[dict[str, Any]]) -> list[str]:
    return [case["id"] for case in cases]


GREEDY = [case for case in SPEECH if case["seed"] is None]
SAMPLED = [case for case in SPEECH if case["seed"] is not None]
FIRST = {case["checkpoint"]: case for case in reversed(GREEDY)}.values()
ENDING = [case for case in GREEDY if case["eos_row_from"] is not None]


def test_enough_cases() -> None:
    assert len(GREEDY) >= 26
    assert len({case["checkpoint"] for case in GREEDY}) == 6


@pytest.mark.parametrize("case", SPEECH, ids=ids(SPEECH))
def test_prompt(cores: dict[str, EngineCore], case: dict[str, Any]) -> None:
    """Ids equal the official processor's; prompt and trailing rows equal what its talker gets."""
    core = cores[case["checkpoint"]]
    prompt = submission(core, case).prompt
    expected = case["ids"]["assistant"]
    assert list(prompt.role + prompt.text) == expected[:-5]
    reference = case["ids"]["reference"]
    assert list(prompt.reference_text) == (reference[3:-2] if reference else [])
    voice = None
    if prompt.reference is not None:
        encoder = core.voices["m"]
        voice = encoder.request(prompt.reference, bool(prompt.reference_text)).result()
    rows, trailing = core.talker.runners["m"].prompts.build(prompt, voice)
    data = golden.arrays("speech")
    np.testing.assert_allclose(rows.numpy(), data[f"{case['id']}.prompt"], atol=2e-5)
    pad = core.talker.runners["m"].prompts.pad
    trailing = trailing if len(trailing) else pad
    np.testing.assert_allclose(trailing.numpy(), data[f"{case['id']}.trailing"], atol=1e-5)


# Alone, what this machine's engine runs speaks every case, the other forms one of each checkpoint
# and those that end; all the rest they speak in a batch, below.
ALONE = [
    pytest.param(form, case, id=f"{form}-{case['id']}")
    for form in FORMS
    for case in GREEDY
    if form == OWN_FORM or case in (*FIRST, *ENDING)
]


@pytest.mark.parametrize(("cores", "case"), ALONE, indirect=["cores"])
def test_greedy_codes(cores: dict[str, EngineCore], case: dict[str, Any], end_row) -> None:
    end_row(case)
    core = cores[case["checkpoint"]]
    codes = golden.speak(core, [submission(core, case)])[1]
    np.testing.assert_array_equal(codes, golden.arrays("speech")[f"{case['id']}.codes"])


@pytest.mark.parametrize("case", SAMPLED, ids=ids(SAMPLED))
def test_sampled_codes(
    cores: dict[str, EngineCore], case: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the official generator in place of ours, the distributions drawn from are the same."""
    monkeypatch.setattr(
        sampler, "invert_cdf", lambda probs, uniform: torch.multinomial(probs, 1)[:, 0]
    )
    core = cores[case["checkpoint"]]
    submit = submission(core, case)
    torch.manual_seed(case["seed"])
    codes = golden.speak(core, [submit])[1]
    np.testing.assert_array_equal(codes, golden.arrays("speech")[f"{case['id']}.codes"])


@pytest.mark.parametrize("name", golden.CASES["checkpoints"])
def test_greedy_codes_in_one_batch(cores: dict[str, EngineCore], name: str) -> None:
    """All greedy cases of a checkpoint at once, rows reused: each equals the official codes."""
    core = cores[name]
    cases = [c for c in GREEDY if c["checkpoint"] == name and c["eos_row_from"] is None]
    codes = golden.speak(core, [submission(core, case, i) for i, case in enumerate(cases)])
    for i, case in enumerate(cases):
        np.testing.assert_array_equal(
            codes[i], golden.arrays("speech")[f"{case['id']}.codes"], err_msg=case["id"]
        )
