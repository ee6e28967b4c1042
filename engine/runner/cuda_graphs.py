"""CUDA graphs: device work that is captured once and replayed.

A frame is about a thousand kernels; replaying their graph costs the host one call. A graph reads
and writes the same memory each time, so its inputs are static buffers and its sizes are fixed: a
batch runs in the smallest bucket (number of rows) that holds it, and the rest is the padding row.
"""

import logging
import time
from collections.abc import Callable
from collections.abc import Sequence as Seq
from functools import partial
from typing import Any

import torch
from torch import Tensor

from engine.compare import ALLOWED, difference, reason
from engine.protocol import Check
from engine.runner.row_buffers import RowBuffers
from engine.runner.transfer import upload

log = logging.getLogger(__name__)

# By row and frame, the 16 codes.
Codes = list[list[list[int]]]
# capture(run) runs `run` for real, then captures it: -> (replay, what `run` returned, static).
Replay = Callable[[], object]
Capture = Callable[[Callable[[], Tensor]], tuple[Replay, Tensor]]

# A replay is timed so many times, since it is short.
REPLAYS = 3
# Of codes, which follow from one another: the same kernels ran, so a graph that is right has all
# or, if one was rounded otherwise, those before it; a broken one has none.
MOST_CODES = 0.9

# Rows; the predictor's and talker's kernels are chosen by 16, 32, 64 and 128 rows (kernels/tuning).
BUCKETS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
# Prompt tokens of one prefill step. Reading the weights takes as long as multiplying about 200.
PREFILL_BUCKETS = (16, 32, 64, 128, 256, 512)


class Recorder:
    """Records on the current stream. Graphs of one recorder share memory: they must be replayed on
    one stream, and what one returns is overwritten by the next.
    """

    def __init__(self) -> None:
        self.pool: Any = torch.cuda.graph_pool_handle()

    def __call__(self, run: Callable[[], Tensor]) -> tuple[Replay, Tensor]:
        torch.cuda.current_stream().synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool, stream=torch.cuda.current_stream()):
            out = run()
        return graph.replay, out

    @staticmethod
    def wait() -> None:
        torch.cuda.current_stream().synchronize()


class GraphCapturer:
    """Records a run, and replays it once beside the run itself. Where that gives something else,
    takes longer or cannot be done, the run goes on as it was, kernel by kernel, with a warning.

    `keep`: what a run changes for the next, put back before each; all else follows from its inputs.
    """

    def __init__(
        self,
        keep: Seq[Tensor] = (),
        record: Any = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.keep = [(tensor, tensor.clone()) for tensor in keep]
        self.record, self.clock = record or Recorder(), clock
        self.checks: list[Check] = []

    def __call__(self, run: Callable[[], Tensor]) -> tuple[Replay, Tensor]:
        run()  # compile kernels and let libraries allocate what they keep
        plain_s, expected = self._time(run)
        expected = expected.clone()
        name = f"graph of {tuple(expected.shape)} {str(expected.dtype).removeprefix('torch.')}"
        allowed = MOST_CODES if expected.dtype == torch.int64 else ALLOWED[expected.dtype]
        try:
            replay, out = self.record(run)
            seconds = min(self._time(replay)[0] for _ in range(REPLAYS))
            check = Check(name, "", difference(out, expected), allowed, seconds, plain_s)
        except RuntimeError as error:
            check = Check(name, error=reason(error), allowed=allowed)
        self.checks.append(check)
        fault = check.fault or ("it is slower" if check.is_slower else "")
        if not fault:
            return replay, out
        log.warning("%s is left out, its kernels are launched one by one: %s", name, fault)
        return (lambda: expected.copy_(run())), expected

    def _time(self, run: Callable[[], object]) -> tuple[float, Any]:
        for tensor, value in self.keep:
            tensor.copy_(value)
        self.record.wait()
        started = self.clock()
        out = run()
        self.record.wait()
        return self.clock() - started, out


def buckets_up_to(most: int, sizes: tuple[int, ...] = BUCKETS) -> list[int]:
    """The sizes below `most`, and `most`."""
    return [*(size for size in sizes if size < most), most]


class FrameGraphs:
    """FrameStep by bucket: one graph for batches with a talker step, one for all-fresh batches."""

    def __init__(
        self,
        run: Callable[[Tensor, bool], Tensor],
        b: RowBuffers,
        capture: Capture,
        feed_backs: tuple[bool, ...] = (True, False),
    ) -> None:
        """run(rows [B], feed_back) -> codes [B, 16]."""
        self.padding, self.device = b.padding, b.device
        self.rows: dict[int, Tensor] = {}
        self.graphs: dict[tuple[int, bool], tuple[Replay, Tensor]] = {}
        self._uploaded: dict[int, list[int]] = {}
        # Largest first: the smaller ones then fit into its memory.
        for size in reversed(buckets_up_to(b.num_rows)):
            rows = self.rows[size] = torch.full((size,), b.padding, device=b.device)
            for feed_back in feed_backs:
                self.graphs[size, feed_back] = capture(partial(run, rows, feed_back))

    def __call__(self, rows: list[int], feed_back: bool) -> Tensor:
        """-> codes [len(rows), 16], overwritten by the next call."""
        size = min(size for size in self.rows if size >= len(rows))
        rows = rows + [self.padding] * (size - len(rows))
        if self._uploaded.get(size) != rows:
            self._uploaded[size] = rows
            self.rows[size].copy_(upload(rows, self.device), non_blocking=True)
        replay, codes = self.graphs[size, feed_back]
        replay()
        return codes


class PrefillGraphs:
    """The talker over prompt tokens, by bucket."""

    def __init__(
        self,
        run: Callable[[Tensor, Tensor, Tensor], Tensor],
        buffers: RowBuffers,
        max_tokens: int,
        capture: Capture,
    ) -> None:
        """run(x [T, H], rows [T], positions [T]) -> states [T, H]."""
        self.padding, self.device = buffers.padding, buffers.device
        hidden_size = buffers.hidden.shape[1]
        self.graphs: dict[int, tuple[Tensor, Tensor, Replay, Tensor]] = {}
        for size in reversed(buckets_up_to(min(max_tokens, PREFILL_BUCKETS[-1]), PREFILL_BUCKETS)):
            # All alike: they are written to one place, and which comes last is chance.
            x = buffers.hidden.new_empty(1, hidden_size).normal_().repeat(size, 1)
            at = torch.zeros(2, size, dtype=torch.int64, device=buffers.device)
            at[0] = buffers.padding
            replay, out = capture(partial(run, x, at[0], at[1]))
            self.graphs[size] = (x, at, replay, out)

    def fits(self, num_tokens: int) -> bool:
        return num_tokens <= max(self.graphs)

    def __call__(self, x: Tensor, rows: list[int], positions: list[int]) -> Tensor:
        """x [T, H] -> states [T or more, H], overwritten by the next call."""
        size = min(size for size in self.graphs if size >= len(x))
        static, at, replay, out = self.graphs[size]
        static[: len(x)] = x
        filling = size - len(x)
        host = [rows + [self.padding] * filling, positions + [0] * filling]
        at.copy_(upload(host, self.device), non_blocking=True)
        replay()
        return out


# Rows times frames of one codec run: bounds the memory of its activations.
CODEC_FRAMES = 128


class CodecGraphs:
    """A codec's run over B rows x F frames, for every F of the chunk ramp and B up to CODEC_FRAMES
    / F.
    """

    def __init__(
        self,
        run: Callable[[Tensor, Tensor, Tensor], Tensor],
        sizes: tuple[int, ...],
        num_rows: int,
        num_codes: int,
        device: torch.device,
        capture: Capture,
    ) -> None:
        """run(rows [B], positions [B], codes [B, F, Q]) -> pcm [B, samples]. Row `num_rows` is for
        padding.
        """
        self.padding, self.device = num_rows, device
        self.sizes = sorted(set(sizes), reverse=True)
        self.graphs: dict[tuple[int, int], tuple[Tensor, Tensor, Replay, Tensor]] = {}
        for frames in self.sizes:
            for batch in reversed(buckets_up_to(min(num_rows, max(1, CODEC_FRAMES // frames)))):
                at = torch.zeros(2, batch, dtype=torch.int64, device=device)
                at[0] = num_rows
                codes = torch.zeros(batch, frames, num_codes, dtype=torch.int64, device=device)
                replay, pcm = capture(partial(run, at[0], at[1], codes))
                self.graphs[frames, batch] = (at, codes, replay, pcm)

    def max_rows(self, frames: int) -> int:
        return max(batch for size, batch in self.graphs if size == frames)

    def __call__(
        self, rows: list[int], positions: list[int], frames: list[list[list[int]]]
    ) -> Tensor:
        """frames [B][F][Q] -> pcm [B, samples], overwritten by the next call."""
        n, size = len(rows), len(frames[0])
        batch = min(b for f, b in self.graphs if f == size and b >= n)
        at, codes, replay, pcm = self.graphs[size, batch]
        filling = batch - n
        host = [rows + [self.padding] * filling, positions + [0] * filling]
        at.copy_(upload(host, self.device), non_blocking=True)
        codes[:n].copy_(upload(frames, self.device), non_blocking=True)
        replay()
        return pcm[:n]
