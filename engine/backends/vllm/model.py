"""The model class that vLLM loads: its own Qwen3 layers, between our inputs and our frames."""

from collections.abc import Iterable
from typing import Any, ClassVar

import msgspec
import torch
from torch import Tensor, nn
from vllm.config import VllmConfig
from vllm.forward_context import get_forward_context
from vllm.model_executor.models.qwen3 import Qwen3Model
from vllm.model_executor.models.utils import maybe_prefix

from engine.backends.vllm.feedback import Feedback
from engine.errors import CheckpointError
from engine.models.code_predictor import CodePredictor
from engine.models.config import TalkerConfig
from engine.models.talker import Talker

LAYERS = "talker.model."


class TalkerForVllm(nn.Module):
    """`ends` and `predictor` are whole on every rank of a tensor-parallel group: they draw the same
    codes there, and splitting the predictor would cost 150 exchanges a frame.
    """

    packed_modules_mapping: ClassVar = {
        "qkv_proj": ["q_proj", "k_proj", "v_proj"],
        "gate_up_proj": ["gate_proj", "up_proj"],
    }

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        config = vllm_config.model_config.hf_config
        c = msgspec.convert(config.talker_config, TalkerConfig, strict=False)
        self.model = Qwen3Model(vllm_config=vllm_config, prefix=maybe_prefix(prefix, "model"))
        self.ends = Talker(msgspec.structs.replace(c, num_hidden_layers=0))
        self.predictor = CodePredictor(c)
        self.feedback: Feedback | None = None  # made when memory and rows are known (worker.py)

    @staticmethod
    def get_model_state_cls() -> type[Any]:
        """Asked for by the V2 runner."""
        from engine.backends.vllm.runner_v2 import TalkerModelState

        return TalkerModelState

    def embed_input_ids(self, input_ids: Tensor) -> Tensor:
        return self.model.embed_input_ids(input_ids)

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: Any = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """The V2 runner brings inputs_embeds; the V1 runner has no place to make them but here."""
        if inputs_embeds is None:
            inputs_embeds = self._inputs(positions)
        return self.model(None, positions, None, inputs_embeds)

    def _inputs(self, positions: Tensor) -> Tensor:
        layers = get_forward_context().attn_metadata
        if self.feedback is None or not isinstance(layers, dict):  # vLLM measures
            return self.ends.codec_embedding.new_zeros(len(positions), self.ends.config.hidden_size)
        starts = next(iter(layers.values())).query_start_loc
        return self.feedback.inputs(positions, starts)

    def compute_logits(self, hidden_states: Tensor) -> Tensor:
        if self.feedback is None:
            vocab_size = self.ends.config.vocab_size
            return hidden_states.new_zeros(len(hidden_states), vocab_size, dtype=torch.float32)
        return self.feedback.draw(hidden_states)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Layers by vLLM's loader (which may quantise them), the rest by ours."""
        ours = dict(self.ends.weight_map()) | dict(self.predictor.weight_map())
        layers = []
        for name, tensor in weights:
            if name in ours:
                ours.pop(name).view.copy_(tensor)
            if name.startswith(LAYERS) and "text_embedding" not in name:
                layers.append((name.removeprefix(LAYERS), tensor))
        if ours:
            raise CheckpointError(f"model.safetensors lacks {', '.join(sorted(ours)[:5])}")
        layers = [(name.replace("codec_embedding", "embed_tokens"), w) for name, w in layers]
        loaded = {f"model.{name}" for name in self.model.load_weights(layers)}
        return loaded | {n for n, _ in self.named_parameters() if not n.startswith("model.")}
