"""The pre-norm Qwen3 decoder layer that talker and code predictor share, with fused projections."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from engine.layers.attention import Attend
from engine.layers.linear import Linear
from engine.layers.norm import RMSNorm
from engine.models.config import DecoderConfig
from engine.models.weights import ParamView


class Qwen3Layer(nn.Module):
    """q, k, v are one matrix, gate and up another; the per-head norms of q and k are one norm over
    both.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = (
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
        )
        width, eps = config.hidden_size, config.rms_norm_eps
        self.input_norm = RMSNorm(width, eps=eps)
        self.qkv = Linear(width, (self.heads + 2 * self.kv_heads) * self.head_dim)
        self.qk_norm = RMSNorm(self.heads + self.kv_heads, self.head_dim, eps=eps)
        self.o = Linear(self.heads * self.head_dim, width)
        self.post_norm = RMSNorm(width, eps=eps)
        self.gate_up = Linear(width, 2 * config.intermediate_size)
        self.down = Linear(config.intermediate_size, width)

    def forward(self, x: Tensor, attend: Attend) -> Tensor:
        """x [T, H] -> [T, H]."""
        qkv = self.qkv(x, norm=self.input_norm).view(x.shape[0], -1, self.head_dim)
        x = self.o(attend(qkv, self.qk_norm), residual=x)
        return self.down(self.gate_up(x, norm=self.post_norm, gated=True), residual=x)

    def weight_map(self, prefix: str) -> Iterator[tuple[str, ParamView]]:
        """Where each tensor of the checkpoint goes."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attn, mlp = f"{prefix}.self_attn", f"{prefix}.mlp"
        for name, part in zip(("q", "k", "v"), self.qkv.weight.split([q, kv, kv]), strict=True):
            yield f"{attn}.{name}_proj.weight", ParamView(part, owner=self.qkv)
        norms = self.qk_norm.weight.split([self.heads, self.kv_heads])
        for name, part in zip(("q", "k"), norms, strict=True):
            yield f"{attn}.{name}_norm.weight", ParamView(part, torch.Size([self.head_dim]))
        yield f"{attn}.o_proj.weight", ParamView(self.o.weight, owner=self.o)
        for name, part in zip(("gate", "up"), self.gate_up.weight.chunk(2), strict=True):
            yield f"{mlp}.{name}_proj.weight", ParamView(part, owner=self.gate_up)
        yield f"{mlp}.down_proj.weight", ParamView(self.down.weight, owner=self.down)
        yield f"{prefix}.input_layernorm.weight", ParamView(self.input_norm.weight)
        yield f"{prefix}.post_attention_layernorm.weight", ParamView(self.post_norm.weight)
