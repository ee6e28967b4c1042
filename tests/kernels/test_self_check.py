"""What start-up asks of a GPU, asked of triton's interpreter: right kernels pass, others do not."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

from engine.compare import compare
from engine.dummy.checkpoint import write_random_checkpoint
from engine.kernels.linear import LinearConfig
from engine.kernels.tuning import choose
from engine.models.config import ModelConfig, TalkerConfig, read_config
from engine.protocol import Check
from engine.runner import self_check


def ticks(*seconds: float) -> Callable[..., float]:
    """A clock that runs the work once and says these seconds, in turn."""
    said = itertools.cycle(seconds)

    def measure(work: Callable[[], object], _: torch.device) -> float:
        work()
        return next(said)

    return measure


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TalkerConfig:
    path: Path = tmp_path_factory.mktemp("check") / "tiny"
    write_random_checkpoint(path, model_type="custom_voice", shape="tiny-0b6")
    return read_config(path / "config.json", ModelConfig).talker_config


def check(config: TalkerConfig, device: str) -> dict[str, Check]:
    checks = self_check.check_kernels(
        [config, config], torch.float32, torch.device(device), 16, lambda *_: 1e-5
    )
    return {one.name.partition(" (")[0]: one for one in checks}


@pytest.mark.skipif(
    not torch.cuda.is_available() and triton.__version__ < "3.7", reason="as test_attention.py"
)
def test_our_kernels_are_right_and_wrong_ones_are_named(
    config: TalkerConfig, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One pass for all: the interpreter takes seconds. One kernel is spoilt on purpose."""
    monkeypatch.setattr(self_check, "TOKENS", 3)

    def off_by_one(logits: Tensor, *args: object) -> Tensor:
        return (sample_codes(logits, *args) + 1) % logits.shape[1]

    sample_codes = self_check.sample_codes
    monkeypatch.setattr(self_check, "sample_codes", off_by_one)
    found = check(config, device)
    faults = {name: one.fault for name, one in found.items() if one.fault}
    assert "differs by 1," in faults.pop("drawing codes")
    assert not faults
    assert {"norm, rotation, write", "attention", "drawing codebook 0"} <= found.keys()


def test_a_write_that_is_left_out_is_seen(
    config: TalkerConfig, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The queries are right, but nothing is put into the cache."""

    def only_queries(qkv: Tensor, *_: object) -> Tensor:
        return tokens._heads()[0]

    monkeypatch.setattr(self_check, "norm_rope_write", only_queries)
    tokens = self_check._Tokens(config, torch.float32, torch.device(device), 16, 2)
    one = compare("x", tokens.rotated, tokens.rotated_plainly, torch.device(device), ticks(1, 1))
    assert one.fault.startswith("it differs")


@triton.jit
def _does_not_compile(x):
    tl.store(x, no_such_name)  # noqa: F821


def test_what_does_not_compile_is_an_answer(device: str) -> None:
    x = torch.ones(4, device=device)

    def kernel() -> Tensor:
        _does_not_compile[(1,)](x)
        return x

    one = compare("broken", kernel, lambda: x, torch.device(device), ticks(1, 1))
    assert "no_such_name" in one.error and one.fault.startswith("it does not run")


@pytest.mark.parametrize(("seconds", "slower"), [((1.0, 2.0), False), ((2.0, 1.0), True)])
def test_a_clock_tells_what_is_slower(seconds: tuple[float, float], slower: bool) -> None:
    x = torch.ones(4)
    one = compare("x", lambda: x, lambda: x, torch.device("cpu"), ticks(*seconds))
    assert (one.seconds, one.plain_seconds) == seconds
    assert one.is_slower == slower and not one.fault


def test_not_a_number_is_a_fault() -> None:
    x = torch.ones(4)
    one = compare("x", lambda: x * float("nan"), lambda: x, torch.device("cpu"), ticks(1, 1))
    assert one.fault


def test_a_product_that_is_wrong_or_raises_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    """However fast it is; plain torch is always among the choices."""
    wrong, raises, right = (LinearConfig(16, 8, 16 * n, 1, 2) for n in (1, 2, 3))
    seconds = {wrong: 1.0, raises: 2.0, right: 3.0, None: 4.0}
    asked: list[LinearConfig | None] = []

    def run(config: LinearConfig | None) -> None:
        asked.append(config)
        if config is raises:
            raise RuntimeError("the driver says no")

    def measure(work: Callable[[], object], _: torch.device) -> float:
        work()
        return seconds[asked[-1]]

    gaps = {wrong: 0.5, raises: 0.0, right: 0.001}
    cpu = torch.device("cpu")
    best = choose(run, list(seconds), cpu, measure, gaps.__getitem__, 0.01)
    assert (best.config, best.plain_seconds, best.gap) == (right, 4.0, 0.001)
    assert "differs from torch by 0.5" in caplog.text and "the driver says no" in caplog.text
    gaps[right] = float("nan")
    assert choose(run, list(seconds), cpu, measure, gaps.__getitem__, 0.01).config is None
