"""On a GPU: graphs, kernels run one by one, plain torch there, and the CPU say the same codes."""

import random
from collections.abc import Iterator

import pytest
import torch

from engine.config import EngineConfig, ModelSpec
from engine.core import EngineCore
from engine.protocol import FinishReason, Submit
from engine.startup import build
from tests.engine.conftest import write_models
from tests.engine.speaking import REFERENCES, Utterance, assert_idle, random_submit, speak

pytestmark = pytest.mark.gpu

SUBMITS = [random_submit(random.Random(i), i, 4 + i) for i in range(32)]
WAYS = {
    "cpu": {"device": "cpu"},
    "plain torch": {"device": "cuda", "kernels": "torch"},
    "kernels": {"device": "cuda", "cuda_graphs": False},
    "graphs": {"device": "cuda"},
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[ModelSpec]:
    return write_models(tmp_path_factory.mktemp("models"))


def make_core(models: list[ModelSpec], **changes: object) -> EngineCore:
    fields = {
        "dtype": "float32",
        "max_num_seqs": 8,
        "max_model_len": 512,
        "max_num_batched_tokens": 64,
    }
    return build(EngineConfig(**(fields | changes), kv_cache_memory="64MB"), models)[0]


@pytest.fixture(scope="module")
def expected(models: list[ModelSpec]) -> dict[int, Utterance]:
    """Each utterance by itself on the CPU."""
    core = make_core(models, **WAYS["cpu"])
    return {one.id: speak(core, [one])[one.id] for one in SUBMITS}


@pytest.fixture(scope="module", params=["plain torch", "kernels", "graphs"])
def core(models: list[ModelSpec], request: pytest.FixtureRequest) -> Iterator[EngineCore]:
    core = make_core(models, **WAYS[request.param])
    yield core
    core.close()


def assert_same(heard: Utterance, expected: Utterance, one: Submit) -> None:
    assert heard.codes == expected.codes, one
    assert heard.finished == expected.finished
    assert len(heard.pcm) == len(expected.pcm)
    if len(heard.pcm):
        loudest = abs(heard.samples - expected.samples).max()
        assert loudest <= 32, f"{one}: a sample differs by {loudest} of 32767"


def test_all_at_once_equals_alone_on_the_cpu(
    core: EngineCore, expected: dict[int, Utterance]
) -> None:
    heard = speak(core, SUBMITS)
    for one in SUBMITS:
        assert_same(heard[one.id], expected[one.id], one)
    assert_idle(core)


def test_again_and_in_another_order(core: EngineCore, expected: dict[int, Utterance]) -> None:
    """Rows, blocks and graphs that have been used, known beginnings, other buckets."""
    shuffled = random.Random(1).sample(SUBMITS, len(SUBMITS))
    heard = speak(core, shuffled)
    for one in SUBMITS:
        assert_same(heard[one.id], expected[one.id], one)


def test_aborts_under_way_harm_nobody(core: EngineCore, expected: dict[int, Utterance]) -> None:
    from tests.engine.speaking import Speaker

    rng = random.Random(2)
    with Speaker(core) as speaker:
        for one in SUBMITS:
            speaker.add(one)
        gone = set()
        while core.has_work:
            speaker.step()
            alive = [i for i in core.sequences if i % 3 == 0]
            if alive and rng.random() < 0.3:
                gone.add(alive[0])
                core.abort(alive[0])
    for one in SUBMITS:
        heard = speaker.heard[one.id]
        if one.id in gone:
            assert heard.finished is not None and heard.finished.reason is FinishReason.ABORT
        else:
            assert_same(heard, expected[one.id], one)
    assert_idle(core)


def test_half_precision_and_int8_agree_with_full(models: list[ModelSpec]) -> None:
    """How many frames agree until the first difference, printed; the first code at least."""
    greedy = [one for one in SUBMITS if one.params.temperature == 0.0]
    full = make_core(models, device="cuda")
    expected = speak(full, greedy)
    full.close()
    for changes in ({"dtype": "bfloat16"}, {"dtype": "bfloat16", "quantization": "int8"}):
        core = make_core(models, device="cuda", **changes)
        heard = speak(core, greedy)
        core.close()
        shares = []
        for one in greedy:
            pairs = zip(heard[one.id].codes, expected[one.id].codes, strict=False)
            equal = [a == b for a, b in pairs]
            shares.append([*equal, False].index(False) / max(len(equal), 1))
        print(f"{changes}: {sum(shares) / len(shares):.0%} of frames before the first difference")
        assert all(len(heard[one.id].pcm) % 3840 == 0 for one in greedy)


def test_memory_beside_weights_and_kv_is_bounded(models: list[ModelSpec]) -> None:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    core = make_core(models[:1], device="cuda")
    speak(core, [one for one in SUBMITS if one.model == models[0].id])
    assert REFERENCES  # the speaking helpers register recordings for the base models only
    peak = torch.cuda.max_memory_allocated() - before
    core.close()
    assert peak < 1.5 * 2**30 + 64 * 10**6
