"""The operations of a step in Triton kernels. Nothing is read back to the host, so a whole step can
be a CUDA graph.

Every token has a row, a position and a KV slot, so slices of prompts, decode and the code
predictor's passes all use the same two kernels (rope.py, attention.py).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.kernels.attention import num_splits, paged_attention
from engine.kernels.rope import norm_rope_write
from engine.kernels.sampling import sample_code0, sample_codes
from engine.layers.attention import Attention
from engine.layers.norm import RMSNorm
from engine.layers.rotary import RotaryTable
from engine.runner.predictor_pages import PredictorPages
from engine.runner.torch_backend import StepParts
from engine.scheduler.scheduler import PrefillChunk
from engine.scheduler.sequence import Sequence


@dataclass(frozen=True)
class TokenBatch:
    """T tokens: positions, slot_mapping, rows [T] int64; block_tables [R, N] of all rows."""

    rotary: RotaryTable
    positions: Tensor
    slot_mapping: Tensor
    rows: Tensor
    context_lens: Tensor
    block_tables: Tensor
    splits: int = 1

    def attend(self, qkv: Tensor, qk_norm: RMSNorm, cache: Tensor) -> Tensor:
        """cache [2, num_blocks, block_size, kv_heads, D] of one layer."""
        q = norm_rope_write(
            qkv,
            qk_norm.weight,
            qk_norm.eps,
            self.rotary.cos,
            self.rotary.sin,
            self.positions,
            self.slot_mapping,
            cache,
        )
        return paged_attention(
            q, cache, self.block_tables, self.rows, self.context_lens, splits=self.splits
        )


class TritonBackend(StepParts):
    def __post_init__(self) -> None:
        self.pages = PredictorPages(self.config, self.buffers)
        self.scratch = self.pages.cache
        self.num_sms = _num_multiprocessors(self.buffers.device)
        self._passes: dict[int, list[Attention]] = {}

    def begin(self, seqs: list[Sequence]) -> None:
        pass

    def prefill(self, chunks: list[PrefillChunk], rows: Tensor, positions: Tensor) -> Attention:
        return self._tokens(rows, positions, self.buffers.slots(rows, positions))

    def decode(self, rows: Tensor, positions: Tensor, slots: Tensor) -> Attention:
        return self._tokens(rows, positions, slots)

    def _tokens(self, rows: Tensor, positions: Tensor, slots: Tensor) -> Attention:
        splits = num_splits(len(rows), self.config.num_key_value_heads, self.num_sms)
        lens, tables = positions + 1, self.buffers.block_tables
        return TokenBatch(self.rotary, positions, slots, rows, lens, tables, splits)

    def passes(self, batch: int) -> list[Attention]:
        """Kept, so that a graph's tensors live as long as it may be replayed."""
        if batch not in self._passes:
            tables = self.pages.block_tables
            self._passes[batch] = [
                TokenBatch(self.inner_rotary, positions, slots, rows, positions + 1, tables)
                for rows, positions, slots in self.pages.passes(batch)
            ]
        return self._passes[batch]

    def sample_code0(self, logits: Tensor, rows: Tensor) -> Tensor:
        b, c = self.buffers, self.config
        return sample_code0(
            logits,
            rows,
            b.sampling,
            b.num_frames,
            b.ends_from,
            b.seen,
            c.num_codes,
            c.codec_eos_token_id,
        )

    def sample(self, logits: Tensor, rows: Tensor, codebook: int) -> Tensor:
        b = self.buffers
        return sample_codes(logits, rows, b.sampling, b.num_frames, codebook)


def _num_multiprocessors(device: torch.device) -> int:
    """1 where there is no GPU: kernels are interpreted there."""
    if device.type != "cuda":
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count
