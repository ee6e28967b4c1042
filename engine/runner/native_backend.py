"""The step's operations where the decoder layers run as a whole (native/decoder.py): sampling in
plain torch, attention inside the layers.
"""

from functools import cache

import torch
from torch import Tensor

from engine.layers.attention import TokenBatch
from engine.layers.rotary import RotaryTable
from engine.models.config import TalkerConfig
from engine.runner.row_buffers import RowBuffers
from engine.runner.torch_backend import TorchBackend
from engine.scheduler.scheduler import PrefillChunk


class NativeBackend(TorchBackend):
    def __init__(
        self,
        config: TalkerConfig,
        buffers: RowBuffers,
        rotary: RotaryTable,
        inner_rotary: RotaryTable,
    ) -> None:
        super().__init__(config, buffers, rotary, inner_rotary)
        inner, num_rows = config.code_predictor_config, buffers.num_rows + 1
        size = config.num_code_groups
        # The predictor's keys and values are pages too: one block of 16 positions per row.
        shape = (num_rows, size, inner.num_key_value_heads, inner.head_dim)
        self.scratch = buffers.hidden.new_zeros(inner.num_hidden_layers, 2, *shape)
        own_block = torch.arange(num_rows)[:, None]

        def one_pass(batch: int, first: int, end: int) -> TokenBatch:
            positions = torch.arange(first, end).repeat(batch)
            rows = torch.arange(batch).repeat_interleave(end - first)
            return TokenBatch(inner_rotary, rows, positions, rows * size + positions, own_block)

        @cache
        def passes(batch: int) -> list[TokenBatch]:
            return [one_pass(batch, g + 1 if g else 0, g + 2) for g in range(size - 1)]

        self.token_passes = passes

    def passes(self, batch: int) -> list[TokenBatch]:
        return self.token_passes(batch)

    def prefill(self, chunks: list[PrefillChunk], rows: Tensor, positions: Tensor) -> TokenBatch:
        return self.decode(rows, positions, self.buffers.slots(rows, positions))

    def decode(self, rows: Tensor, positions: Tensor, slots: Tensor) -> TokenBatch:
        return TokenBatch(self.rotary, rows, positions, slots, self.buffers.block_tables)
