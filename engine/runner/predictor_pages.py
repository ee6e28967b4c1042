"""The code predictor's keys and values as pages, for backends whose attention reads pages."""

import torch
from torch import Tensor

from engine.models.config import TalkerConfig
from engine.runner.row_buffers import RowBuffers


class PredictorPages:
    """One block of 16 positions per row, written anew for every frame.

    cache [layers, 2, R + 1, 16, kv_heads, D]
    block_tables [R + 1, 1]  each row's own block
    """

    def __init__(self, config: TalkerConfig, buffers: RowBuffers) -> None:
        c, num_blocks = config.code_predictor_config, buffers.num_rows + 1
        self.block_size, self.device = config.num_code_groups, buffers.device
        shape = (num_blocks, self.block_size, c.num_key_value_heads, c.head_dim)
        self.cache = buffers.hidden.new_zeros(c.num_hidden_layers, 2, *shape)
        self.block_tables = torch.arange(num_blocks, device=self.device)[:, None]

    def passes(self, batch: int) -> list[tuple[Tensor, Tensor, Tensor]]:
        """(rows, positions, slots) [T] of each of the 15 passes over a frame of `batch` rows. The
        first has two positions of a row, the others one.
        """
        return [self._pass(batch, g + 1 if g else 0, g + 2) for g in range(self.block_size - 1)]

    def _pass(self, batch: int, first: int, end: int) -> tuple[Tensor, Tensor, Tensor]:
        positions = torch.arange(first, end, device=self.device).repeat(batch)
        rows = torch.arange(batch, device=self.device).repeat_interleave(end - first)
        return rows, positions, rows * self.block_size + positions
