"""The step's operations where the decoder layers run as a whole (native/decoder.py): sampling in
plain torch, attention inside the layers.
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
