"""What is left out on a GPU, decided without one: recordings are stood in for."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from engine import accelerate
from engine.accelerate import CODEC, keep_the_faster, leave_out
from engine.check_gpu import report
from engine.config import EngineConfig, ModelSpec
from engine.core import EngineCore
from engine.dummy.checkpoint import write_random_checkpoint
from engine.errors import CheckpointError
from engine.protocol import Check, Prompt, SamplingParams, Submit
from engine.runner import cuda_graphs
from engine.runner.cuda_graphs import GraphCapturer, Replay
from engine.startup import build
from engine.what_fits import Asked
from tests.engine.speaking import speak

AUTO, ASKED = EngineConfig(), EngineConfig(kernels="triton")
GOOD = Check("attention", "", 1e-5, 1e-3, 1.0, 2.0)
WRONG = Check("attention", "", 0.4, 1e-3, 1.0, 2.0)
BROKEN = Check("drawing codes", "CompilationError: no")
SLOW = Check(CODEC, "", 0.0, 1e-3, 2.0, 1.0)


def test_what_is_broken_is_left_out_and_named(caplog: pytest.LogCaptureFixture) -> None:
    assert leave_out(AUTO, [GOOD, WRONG, BROKEN, SLOW]) == {
        "attention",
        "drawing codes",
        CODEC,
    }
    for said in ("attention is left out", "differs by 0.4", "CompilationError", CODEC):
        assert said in caplog.text
    assert leave_out(AUTO, [GOOD]) == set()


def test_a_kernel_of_a_step_is_not_left_out_for_its_own_time() -> None:
    """Steps are recorded with all of them or not at all; frames as a whole are timed later."""
    assert leave_out(AUTO, [GOOD, Check("attention", "", 0.0, 1.0, 2.0, 1.0)]) == set()


@pytest.mark.parametrize("check", [WRONG, BROKEN])
def test_a_broken_kernel_that_was_asked_for_is_an_error(check: Check) -> None:
    with pytest.raises(CheckpointError, match=f"engine.kernels is triton, but {check.name}"):
        leave_out(ASKED, [GOOD, check])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_report_says_that_there_is_no_gpu() -> None:
    found = report(Asked(EngineConfig(), [ModelSpec("embedded", "embedded")]))
    assert found.error is not None and "sees no GPU" in found.error and not found.checks


class Recorder:
    """As cuda_graphs.Recorder: a recording is what `make` gives for a run."""

    def __init__(self, make: Callable[[Callable[[], Tensor]], tuple[Replay, Tensor]]) -> None:
        self.make = make

    def __call__(self, run: Callable[[], Tensor]) -> tuple[Replay, Tensor]:
        return self.make(run)

    def wait(self) -> None:
        pass


class Counter:
    """A run that depends on what it left behind."""

    def __init__(self) -> None:
        self.state = torch.zeros(3)

    def run(self) -> Tensor:
        self.state += 1
        return self.state * 2


def again(run: Callable[[], Tensor]) -> tuple[Replay, Tensor]:
    out = run()
    return (lambda: out.copy_(run())), out


def stale(run: Callable[[], Tensor]) -> tuple[Replay, Tensor]:
    """A recording whose replay changes nothing."""
    return (lambda: None), torch.zeros_like(run())


def refused(run: Callable[[], Tensor]) -> tuple[Replay, Tensor]:
    raise RuntimeError("operation not permitted when stream is capturing")


def ticking(*spent: float) -> Callable[[], float]:
    """The clock of runs that take so long: the plain one, then replays."""
    times = [t for start, s in enumerate(spent) for t in (100.0 * start, 100.0 * start + s)]
    return iter(times).__next__


@pytest.mark.parametrize(
    ("make", "clock", "fault"),
    [
        (again, ticking(2, 1, 1, 1), ""),
        (again, ticking(1, 5, 4, 3), "slower"),
        (stale, ticking(2, 1, 1, 1), "differs"),
        (refused, ticking(2), "not permitted"),
    ],
    ids=["good", "slow", "stale", "refused"],
)
def test_a_graph_is_taken_only_if_it_is_as_good(
    make: Callable, clock: Callable[[], float], fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Either way what the caller gets does the work, into one tensor."""
    counter = Counter()
    capture = GraphCapturer([counter.state], Recorder(make), clock)
    replay, out = capture(counter.run)
    counter.state.fill_(10)
    replay()
    assert out.tolist() == [22.0] * 3
    (check,) = capture.checks
    assert (fault in caplog.text) and bool(fault) == ("left out" in caplog.text)
    assert bool(check.fault or check.is_slower) == bool(fault)


@pytest.fixture
def core(tmp_path: Path) -> Iterator[EngineCore]:
    write_random_checkpoint(tmp_path / "m", model_type="custom_voice", shape="tiny-0b6")
    fields = {"threads": 1, "max_num_seqs": 2, "kv_cache_memory": "16MB", "kernels": "torch"}
    core, _ = build(EngineConfig(**fields), [ModelSpec("m", str(tmp_path / "m"))])
    yield core
    core.close()


def say(core: EngineCore) -> tuple[list[list[int]], int]:
    prompt = Prompt(role=(1, 2, 3), text=(9, 8), speakers=((3066, 1.0),))
    heard = speak(core, [Submit(1, "m", prompt, SamplingParams(max_new_tokens=4, seed=1))])[1]
    return heard.codes, len(heard.pcm)


def test_plain_torch_stays_where_frames_are_faster(
    core: EngineCore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (runner,) = core.talker.runners.values()
    before, backend = say(core), runner.backend
    seconds = iter([1.0, 5.0, 5.0, 1.0, 5.0, 1.0])
    monkeypatch.setattr(accelerate, "time_frames", lambda *_: next(seconds))
    keep_the_faster(AUTO, core, {"m": runner})
    keep_the_faster(ASKED, core, {"m": runner})
    assert runner.backend is backend and "left out" not in caplog.text
    (check,) = keep_the_faster(AUTO, core, {"m": runner})
    assert check.is_slower and runner.backend is not backend and "5000.0 ms" in caplog.text
    assert say(core) == before


def test_without_triton_the_codec_alone_is_recorded(
    core: EngineCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_graphs, "Recorder", lambda: Recorder(again))
    monkeypatch.setattr(Check, "is_slower", False)  # a stand-in for a graph is
    before, runners = say(core), list(core.talker.runners.values())
    checks = accelerate.accelerate(AUTO, runners, core.codecs, {"Triton"}, int8=False)
    assert len(checks) > 4 and not any(check.fault for check in checks)
    assert all(check.name.startswith("graph of") for check in checks)
    assert runners[0].frames is None and core.codecs["m"].graphs is not None
    assert say(core) == before
