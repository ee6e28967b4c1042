"""A frame can be a CUDA graph: no step of it asks for a tensor's value or makes a tensor from the
host's numbers, and replaying it with static memory in fixed sizes changes nothing.

Without a GPU a recording is stood in for by running the same function again into the same memory.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from engine.config import ModelSpec, Sampling
from engine.loader.checkpoint import load, load_codec
from engine.models.codec_decoder import CodecDecoder
from engine.runner.codec_runner import CodecRunner
from engine.runner.cuda_graphs import (
    CODEC_FRAMES,
    FrameGraphs,
    GraphCapturer,
    PrefillGraphs,
    Replay,
    buckets_up_to,
)
from engine.runner.talker_runner import TalkerRunner
from engine.scheduler.sequence import Sequence
from tests.engine.scheduler.sequences import make

CPU, FP32 = torch.device("cpu"), torch.float32
SAMPLING = Sampling(0.9, 50, 0.8, 1.05, 0.9, 50, 0.9, seed=3)
# What a graph cannot hold: reading values, sizes that depend on them, numbers from the host.
FORBIDDEN = (
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "unique",
    "lift_fresh",
    "is_nonzero",
)


def record(run: Callable[[], Tensor]) -> tuple[Replay, Tensor]:
    out = run()
    return (lambda: out.copy_(run())), out


class Ops(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module", params=["tiny-0b6", "tiny-1b7"])
def runner(checkpoints: dict[str, Path], request: pytest.FixtureRequest) -> TalkerRunner:
    path = checkpoints[f"custom_voice/{request.param}"]
    checkpoint = load(ModelSpec(id="m", checkpoint=str(path)), path, FP32, CPU)
    c = checkpoint.config.talker_config
    cache = torch.zeros(c.num_hidden_layers, 2, 17, 16, c.num_key_value_heads, c.head_dim)
    return TalkerRunner(checkpoint, cache, num_rows=4, max_tokens=64)


def test_prefill_is_recorded_with_tokens_that_may_run_in_any_order(runner: TalkerRunner) -> None:
    """All of them are padding and go to one place in the cache, a GPU has no order of writes, and
    a recording is kept only if it says the same twice.
    """
    sizes = []

    def last_one_wins(x: Tensor, rows: Tensor, positions: Tensor) -> Tensor:
        place = rows * 64 + positions
        cache = torch.zeros(int(place.max()) + 1, x.shape[1])
        for i in torch.randperm(len(x)):
            cache[place[i]] = x[i]
        return cache[place]

    def capture(run: Callable[[], Tensor]) -> tuple[Replay, Tensor]:
        sizes.append(len(run()))
        assert torch.equal(run(), run())
        return record(run)

    PrefillGraphs(last_one_wins, runner.buffers, 32, capture)
    assert sizes == [32, 16]


def running(runner: TalkerRunner, num: int) -> list[Sequence]:
    """Sequences with a row each, in the middle of their speech."""
    seqs = []
    for row in range(num):
        seq = make(6, 40)
        seq.sampling, seq.row, seq.num_scheduled = SAMPLING, row, 4
        seq.block_table = [3 * row, 3 * row + 1, 3 * row + 2]
        runner.buffers.start(seq)
        runner.buffers.num_tokens[row], runner.buffers.num_frames[row] = 9, 3
        seqs.append(seq)
    return seqs


def test_a_frame_asks_the_host_nothing(runner: TalkerRunner) -> None:
    seqs = running(runner, 3)
    runner.backend.begin(seqs)
    rows = torch.arange(3)
    runner.frame(rows, True)  # what is kept between steps is made in the first
    with Ops() as ops:
        runner.frame(rows, True)
        runner.frame(rows, False)
    assert "embedding" in ops.names
    assert {name for name in ops.names if any(word in name for word in FORBIDDEN)} == set()


class StandIn:
    """As cuda_graphs.Recorder."""

    def __call__(self, run: Callable[[], Tensor]) -> tuple[Replay, Tensor]:
        return record(run)

    def wait(self) -> None:
        pass


@pytest.mark.parametrize("feed_back", [True, False])
def test_a_graph_is_compared_on_a_row_that_stays_as_it_is(
    runner: TalkerRunner, feed_back: bool
) -> None:
    """What a frame of the padding row changes is put back, so that the same codes come again."""
    (seq,) = running(runner, 1)
    seq.row = runner.buffers.padding
    runner.buffers.sampling.set(seq.row, SAMPLING)
    runner.backend.begin([seq])
    runner.buffers.hidden[-1].normal_()
    rows = torch.full((1,), seq.row)
    capture = GraphCapturer(runner.buffers.padding_state(), StandIn())
    capture(partial(runner.frame, rows, feed_back))
    (check,) = capture.checks
    assert check.difference == 0 and check.name == "graph of (1, 16) int64"


def test_buckets_end_with_the_number_of_rows() -> None:
    assert buckets_up_to(1) == [1]
    assert buckets_up_to(8) == [1, 2, 4, 8]
    assert buckets_up_to(20) == [1, 2, 4, 8, 12, 16, 20]


class FakeStep:
    """Counts a row's frames; a padding row stays where it is."""

    def __init__(self, num_rows: int) -> None:
        self.buffers = type("Buffers", (), {})()
        self.buffers.num_rows = self.buffers.padding = num_rows
        self.buffers.device = CPU
        self.frames = torch.zeros(num_rows + 1, dtype=torch.int64)
        self.sizes: list[tuple[int, bool]] = []

    def __call__(self, rows: Tensor, feed_back: bool) -> Tensor:
        self.sizes.append((len(rows), feed_back))
        self.frames[rows] += 1
        self.frames[-1] = 0
        return torch.stack([rows, self.frames[rows]], dim=1)


@settings(max_examples=50, deadline=None)
@given(
    batches=st.lists(
        st.tuples(st.sets(st.integers(0, 10), min_size=1), st.booleans()), min_size=1, max_size=12
    )
)
def test_a_batch_runs_in_the_smallest_bucket(batches: list[tuple[set[int], bool]]) -> None:
    step = FakeStep(11)
    graphs = FrameGraphs(step, step.buffers, record)  # type: ignore[arg-type]
    step.frames.zero_()
    taken = [0] * 11
    for rows, feed_back in batches:
        step.sizes.clear()
        codes = graphs(sorted(rows), feed_back)[: len(rows)]
        (size,) = step.sizes
        assert size == (min(s for s in buckets_up_to(11) if s >= len(rows)), feed_back)
        for row in rows:
            taken[row] += 1
        assert codes.tolist() == [[row, taken[row]] for row in sorted(rows)]


# ---- the codec ----


@pytest.fixture(scope="module")
def decoder(checkpoints: dict[str, Path]) -> CodecDecoder:
    return load_codec(checkpoints["custom_voice/tiny-0b6"], FP32, CPU)


def recorded(decoder: CodecDecoder, num_rows: int, sizes: tuple[int, ...]) -> CodecRunner:
    codec = CodecRunner(decoder, num_rows, 512)
    codec.capture(sizes, lambda _: record)
    return codec


@pytest.fixture(scope="module")
def codec(decoder: CodecDecoder) -> CodecRunner:
    return recorded(decoder, 3, (1, 2, 5))


@settings(max_examples=15, deadline=None)
@given(
    cuts=st.lists(st.integers(1, 13), min_size=1, max_size=4),
    num_rows=st.integers(1, 3),
    seed=st.integers(0, 2**16),
)
def test_recorded_chunks_equal_one_pass(
    decoder: CodecDecoder, codec: CodecRunner, cuts: list[int], num_rows: int, seed: int
) -> None:
    """Any number of frames, in recorded sizes and with padding rows, equals a run of its own."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 2048, (num_rows, sum(cuts), 16)).tolist()
    rows = rng.permutation(3)[:num_rows].tolist()
    for row in rows:
        codec.start(row)
    parts: list[list[bytes]] = [[] for _ in rows]
    start = 0
    for cut in cuts:
        pcm = codec.decode(rows, [row[start : start + cut] for row in codes]).result()
        for part, new in zip(parts, pcm, strict=True):
            part.append(new)
        start += cut
    whole = CodecRunner(decoder, 3, 512).decode(rows, codes).result()
    for part, expected in zip(parts, whole, strict=True):
        got = np.frombuffer(b"".join(part), "<i2").astype(int)
        np.testing.assert_allclose(got, np.frombuffer(expected, "<i2"), atol=4)


def test_many_rows_are_decoded_in_groups(decoder: CodecDecoder) -> None:
    """What one run may hold is bounded; the rest follows in another."""
    num_rows, size = CODEC_FRAMES // 64 + 1, 64
    codec = recorded(decoder, num_rows, (size,))
    codes = np.random.default_rng(0).integers(0, 2048, (num_rows, size, 16)).tolist()
    together = codec.decode(list(range(num_rows)), codes).result()
    for row, pcm in enumerate(together):
        alone = CodecRunner(decoder, num_rows, 512).decode([row], [codes[row]]).result()[0]
        got, expected = (np.frombuffer(x, "<i2").astype(int) for x in (pcm, alone))
        np.testing.assert_allclose(got, expected, atol=4)
