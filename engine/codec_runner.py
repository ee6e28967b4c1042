"""The codec as a post-stage: frames of many streams in, PCM out, each stream's exact state kept in
its row.

A row's whole state is one flat vector, so a batch is one gather before and one scatter after.
"""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from engine.layers.rotary import RotaryTable
from engine.models.codec_decoder import CodecDecoder
from engine.transfer import Download

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
    """int16 [B, samples] on its way to the host."""

    def __init__(self, pcm: Tensor) -> None:
        self._pcm = Download(pcm)

    @property
    def ready(self) -> bool:
        return self._pcm.ready

    def result(self) -> list[bytes]:
        """Each row's samples, little-endian; waits for them."""
        return [row.numpy().tobytes() for row in self._pcm.result()]


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
        c = decoder.config
        self.rotary = RotaryTable(c.head_dim, c.rope_theta, max_frames, self.dtype, self.device)

    def start(self, row: int, snapshot: Snapshot | None = None) -> None:
        """Begin a stream in this row, silent or from a snapshot."""
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
        self._reset(row)
        if self.official:
            self._decode_official(row, codes.tolist())
        else:
            self._advance([row], codes[None], prime=True)
        return Snapshot(self.state[row].clone(), replace(self.rows[row]))

    def decode(self, rows: list[int], frames: list[list[list[int]]]) -> Pcm:
        """The next frames of each row (all rows the same number) -> each row's PCM."""
        if self.official:
            pcm = [
                self._decode_official(row, codes) for row, codes in zip(rows, frames, strict=True)
            ]
            return Pcm(torch.stack(pcm))
        return Pcm(to_pcm(self._advance(rows, torch.tensor(frames, device=self.device))))

    def _advance(self, rows: list[int], codes: Tensor, *, prime: bool = False) -> Tensor:
        """codes [B, F, 16] -> wave [B, F * 1920] (empty when only priming); states move on."""
        index = torch.tensor(rows, device=self.device)
        parts = self.state[index].split(self.sizes, dim=1)
        state = {
            name: part.view(len(rows), *shape)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }
        positions = torch.tensor([self.rows[row].position for row in rows], device=self.device)
        run = self.decoder.prime if prime else self.decoder
        wave = run(codes, positions, state, self.rotary)
        self.state[index] = torch.cat([state[name].flatten(1) for name in self.shapes], dim=1)
        for row in rows:
            self.rows[row].position += codes.shape[1]
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
