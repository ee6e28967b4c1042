"""vLLM's V2 runner: which row each request of the batch has, and the layers' inputs.

Inputs are made outside the graphs of the layers, into a buffer that the graphs were recorded with.
"""

from typing import Any

import torch
from vllm.v1.worker.gpu.model_states.default import DefaultModelState


class TalkerModelState(DefaultModelState):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.rows = [0] * self.max_num_reqs  # by vLLM's slot of a request
        shape = (self.max_num_tokens, self.inputs_embeds_size)
        self.x = torch.zeros(shape, dtype=self.dtype, device=self.device)

    def add_request(self, req_index: int, new_req_data: Any) -> None:
        super().add_request(req_index, new_req_data)
        self.rows[req_index] = (new_req_data.sampling_params.extra_args or {}).get("row", 0)

    def prepare_inputs(self, input_batch: Any, req_states: Any) -> dict[str, Any]:
        feedback, n = self.model.feedback, input_batch.num_tokens
        if feedback is not None:
            slots = input_batch.idx_mapping_np[: input_batch.num_reqs]
            feedback.begin([self.rows[slot] for slot in slots])
            starts = input_batch.query_start_loc[: input_batch.num_reqs + 1]
            self.x[:n] = feedback.inputs(input_batch.positions[:n], starts)
        return {"inputs_embeds": self.x[: input_batch.num_tokens_after_padding]}

    def prepare_dummy_inputs(self, num_reqs: int, num_tokens: int) -> dict[str, Any]:
        return {"inputs_embeds": self.x[:num_tokens]}
