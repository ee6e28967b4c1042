"""What the talker calls in every vLLM worker by collective_rpc: in this process, or in a process of
each rank of a tensor-parallel group.
"""

from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import msgspec
import torch

from engine.backends.vllm.feedback import Drawn, Feedback
from engine.layers.linear import WeightForm, layer_forms
from engine.models.config import ModelConfig, read_config
from engine.runner.cuda_graphs import GraphCapturer
from engine.runner.prompt_embeds import VoicePrompt
from engine.scheduler.sequence import Sequence

# By vLLM's id of an engine: a process may have had others.
_feedbacks: WeakValueDictionary[str, Feedback] = WeakValueDictionary()


class FeedbackPlan(msgspec.Struct, frozen=True, kw_only=True):
    num_rows: int
    num_blocks: int
    block_size: int
    max_tokens: int
    kernels: bool  # Triton's, on a GPU
    cuda_graphs: bool
    # The predictor's layers, on a CPU and on a GPU.
    form: WeightForm | None
    int8: bool


def feedback_of(vllm_config: Any) -> Feedback | None:
    return _feedbacks.get(vllm_config.instance_id)


class TalkerExtension:
    """vLLM mixes this into its worker class."""

    model_runner: Any
    model_config: Any
    vllm_config: Any
    rank: int

    @torch.no_grad()
    def qtts_open(self, plan: FeedbackPlan) -> int:
        """Make what running sequences need; how many KV blocks vLLM has for them."""
        model = self.model_runner.get_model()
        config = read_config(Path(self.model_config.model) / "config.json", ModelConfig)
        on_gpu = model.ends.codec_embedding.is_cuda
        if plan.form is not None:
            for linear, form in layer_forms((model.ends, model.predictor), plan.form).items():
                linear.transform_(form)
        model.feedback = feedback = Feedback(
            config,
            model.ends,
            model.predictor,
            num_rows=plan.num_rows,
            num_blocks=plan.num_blocks,
            block_size=plan.block_size,
            max_tokens=plan.max_tokens,
            kernels=plan.kernels,
        )
        if on_gpu and plan.kernels:
            from engine.kernels.fused import fuse_  # Triton is there only with a GPU

            fuse_(model.ends, model.predictor, plan.num_rows, int8=plan.int8)
            if plan.cuda_graphs:
                feedback.capture(GraphCapturer(feedback.buffers.padding_state()))
        _feedbacks[self.vllm_config.instance_id] = feedback
        return int(self.vllm_config.cache_config.num_gpu_blocks) - 1  # one is vLLM's own

    @property
    def _feedback(self) -> Feedback:
        return _feedbacks[self.vllm_config.instance_id]

    @torch.inference_mode()
    def qtts_start(self, seq: Sequence, run: int, voice: VoicePrompt | None) -> None:
        self._feedback.start(seq, run, voice)

    @torch.inference_mode()
    def qtts_append(self, row: int, first: int, ids: tuple[int, ...], final: bool) -> None:
        self._feedback.append(row, first, ids, final=final)

    def qtts_take(self) -> list[Drawn]:
        return self._feedback.take()
