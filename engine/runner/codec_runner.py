"""The codec decoder for many streams at once: frames of codes in, PCM out, without seams.

In: row numbers, and for each row as many frames of 16 codes. Out: a row's samples as bytes, int16
at 24 kHz, 1,920 a frame. A stream's exact decoder state is kept between calls, as one flat vector
in its row, so that a batch costs one gather before and one scatter after.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch
from torch import Tensor

from engine.layers.rotary import RotaryTable
from engine.models.codec_decoder import CodecDecoder
from engine.protocol import Check
from engine.runner.cuda_graphs import Capture, CodecGraphs, GraphCapturer
from engine.runner.transfer import Download, upload

# The official package restarts its decoder every WINDOW frames and warms it with CONTEXT frames
# whose audio it drops.
OFFICIAL_WINDOW, OFFICIAL_CONTEXT = 300, 25


@dataclass
class RowState:
    """Host side of a row: frames decoded since the state began, frames in all, and (official mode)
    the last codes.
    """

    position: int = 0
    num_frames: int = 0
    recent: list[list[int]] = field(default_factory=list)


@dataclass(frozen=True)
class Snapshot:
    """A stream's state after some frames, to start other streams from: what every clone of one
    voice begins with.
    """

    state: Tensor
    row: RowState


class Pcm:
    """Samples on their way to the host: groups of rows, each cut into parts in time."""

    def __init__(self, groups: list[list[Download]]) -> None:
        self._groups = groups

    @property
    def ready(self) -> bool:
        return self._groups[-1][-1].ready

    def result(self) -> list[bytes]:
        """Each row's samples, int16 little-endian; waits for them."""
        pcm = []
        for parts in self._groups:
            whole = torch.cat([part.result() for part in parts], dim=1)
            pcm += [row.numpy().tobytes() for row in whole]
        return pcm


class CodecRunner:
    def __init__(
        self, decoder: CodecDecoder, num_rows: int, max_frames: int, *, official: bool = False
    ) -> None:
        self.decoder, self.official = decoder, official
        self.dtype, self.device = (
            decoder.output_proj.weight.dtype,
            decoder.output_proj.weight.device,
        )
        self.shapes = decoder.state_shapes()
        self.sizes = [torch.Size(shape).numel() for shape in self.shapes.values()]
        self.state = torch.zeros(
            num_rows + 1, sum(self.sizes), dtype=self.dtype, device=self.device
        )
        self.rows = [RowState() for _ in range(num_rows + 1)]
        self.stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        self.graphs: CodecGraphs | None = None
        c = decoder.config
        self.rotary = RotaryTable(c.head_dim, c.rope_theta, max_frames, self.dtype, self.device)

    def capture(
        self, sizes: tuple[int, ...], capturer: Callable[[list[Tensor]], Capture] = GraphCapturer
    ) -> list[Check]:
        """From now on decode chunks of these sizes as recorded graphs; how these compare."""
        num_rows, num_codes = len(self.rows) - 1, self.decoder.config.num_quantizers
        with self._on_stream():
            capture = capturer([self.state[-1:]])  # what padding rows keep
            self.graphs = CodecGraphs(self._run, sizes, num_rows, num_codes, self.device, capture)
        return getattr(capture, "checks", [])

    def _on_stream(self) -> AbstractContextManager[object]:
        return torch.cuda.stream(self.stream)  # without one, nothing changes

    def start(self, row: int, snapshot: Snapshot | None = None) -> None:
        """Begin a stream in this row, silent or from a snapshot."""
        with self._on_stream():
            if snapshot is None:
                self._reset(row)
                return
            self.state[row] = snapshot.state
        self.rows[row] = replace(snapshot.row)

    def _reset(self, row: int) -> None:
        self.state[row] = 0
        self.rows[row] = RowState()

    def snapshot(self, codes: Tensor) -> Snapshot:
        """The state after `codes` [F, 16], without making their audio (in exact mode)."""
        row = len(self.rows) - 1  # a row of its own, behind the streams' rows
        with self._on_stream():
            self._reset(row)
            if self.official:
                self._decode_official(row, codes.tolist())
            else:
                self._advance([row], codes[None], prime=True)
            return Snapshot(self.state[row].clone(), replace(self.rows[row]))

    def decode(self, rows: list[int], frames: list[list[list[int]]]) -> Pcm:
        """The next frames of each row (all rows the same number) -> each row's PCM."""
        with self._on_stream():
            if self.official:
                pairs = zip(rows, frames, strict=True)
                return Pcm(
                    [[Download(self._decode_official(r, codes)[None])] for r, codes in pairs]
                )
            if self.graphs is None:
                return Pcm([[Download(to_pcm(self._advance(rows, upload(frames, self.device))))]])
            return self._replay(self.graphs, rows, frames)

    def _replay(self, graphs: CodecGraphs, rows: list[int], frames: list[list[list[int]]]) -> Pcm:
        """Any number of rows and frames, in the captured sizes."""
        cuts, most, left = [0], len(rows), len(frames[0])
        while left:
            size = max(size for size in graphs.sizes if size <= left)
            cuts.append(cuts[-1] + size)
            most, left = min(most, graphs.max_rows(size)), left - size
        groups = []
        for first in range(0, len(rows), most):
            some, codes = rows[first : first + most], frames[first : first + most]
            parts = [
                Download(graphs(some, self._move(some, b - a), [row[a:b] for row in codes]))
                for a, b in pairwise(cuts)
            ]
            groups.append(parts)
        return Pcm(groups)

    def _advance(self, rows: list[int], codes: Tensor, *, prime: bool = False) -> Tensor:
        """codes [B, F, 16] -> wave [B, F * 1920] (empty when only priming); states move on."""
        at = upload([rows, self._move(rows, codes.shape[1])], self.device)
        return self._wave(at[0], at[1], codes, prime=prime)

    def _move(self, rows: list[int], num_frames: int) -> list[int]:
        """The rows' positions, which move on."""
        positions = [self.rows[row].position for row in rows]
        for row in rows:
            self.rows[row].position += num_frames
        return positions

    def _run(self, rows: Tensor, positions: Tensor, codes: Tensor) -> Tensor:
        return to_pcm(self._wave(rows, positions, codes))

    def _wave(
        self, rows: Tensor, positions: Tensor, codes: Tensor, *, prime: bool = False
    ) -> Tensor:
        """rows, positions [B], codes [B, F, 16] -> wave [B, F * 1920]; all on the device."""
        parts = self.state[rows].split(self.sizes, dim=1)
        state = {
            name: part.view(len(rows), *shape)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }
        run = self.decoder.prime if prime else self.decoder
        wave = run(codes, positions, state, self.rotary)
        self.state[rows] = torch.cat([state[name].flatten(1) for name in self.shapes], dim=1)
        return wave

    def _decode_official(self, row: int, frames: list[list[int]]) -> Tensor:
        """Frame by frame, so that restarts fall where the official package has them."""
        state, pcm = self.rows[row], []
        for frame in frames:
            if state.num_frames and state.num_frames % OFFICIAL_WINDOW == 0:
                self.state[row], state.position = 0, 0
                self._advance([row], torch.tensor([state.recent], device=self.device))
            wave = self._advance([row], torch.tensor([[frame]], device=self.device))
            state.num_frames += 1
            state.recent = [*state.recent, frame][-OFFICIAL_CONTEXT:]
            pcm.append(to_pcm(wave)[0])
        return torch.cat(pcm)


def to_pcm(wave: Tensor) -> Tensor:
    """float [-1, 1] -> int16."""
    return (wave.float() * 32767.0).round_().to(torch.int16)
