"""vLLM's V1 runner: which row each request of the batch has.

A logits processor is told of every change of the batch before the forward that follows, together
with the request's SamplingParams, in which the row is. Logits it leaves as they are.
"""

from typing import Any

from torch import Tensor
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality

from engine.backends.vllm.worker import feedback_of


class RowOfRequest(LogitsProcessor):
    def __init__(self, vllm_config: Any, device: Any, is_pin_memory: bool) -> None:
        self.config = vllm_config
        self.rows: dict[int, int] = {}  # by index in the batch

    def is_argmax_invariant(self) -> bool:
        return True

    def apply(self, logits: Tensor) -> Tensor:
        return logits

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        if batch_update is not None:
            self._change(batch_update)
        feedback = feedback_of(self.config)
        if feedback is not None:
            feedback.begin([self.rows[i] for i in range(len(self.rows))])

    def _change(self, batch: BatchUpdate) -> None:
        for index in batch.removed:
            self.rows.pop(index, None)
        for index, params, *_ in batch.added:
            assert params.extra_args is not None
            self.rows[index] = params.extra_args["row"]
        for a, b, direction in batch.moved:
            row, other = self.rows.pop(a, None), self.rows.pop(b, None)
            if row is not None:
                self.rows[b] = row
            if other is not None and direction is MoveDirectionality.SWAP:
                self.rows[a] = other
