"""The operations of a step for the compiled decoder (native/decoder.py), which does attention
itself: row numbers, positions and KV slots for it, and sampling in plain torch.
"""

from functools import cache

from torch import Tensor

from engine.layers.attention import TokenBatch
from engine.runner.predictor_pages import PredictorPages
from engine.runner.torch_backend import TorchBackend
from engine.scheduler.scheduler import PrefillChunk


class NativeBackend(TorchBackend):
    def __post_init__(self) -> None:
        super().__post_init__()
        pages, inner_rotary = PredictorPages(self.config, self.buffers), self.inner_rotary
        self.scratch = pages.cache
        self._passes = cache(
            lambda batch: [
                TokenBatch(inner_rotary, *one, pages.block_tables) for one in pages.passes(batch)
            ]
        )

    def prefill(self, chunks: list[PrefillChunk], rows: Tensor, positions: Tensor) -> TokenBatch:
        return self.decode(rows, positions, self.buffers.slots(rows, positions))

    def decode(self, rows: Tensor, positions: Tensor, slots: Tensor) -> TokenBatch:
        return TokenBatch(self.rotary, rows, positions, slots, self.buffers.block_tables)
