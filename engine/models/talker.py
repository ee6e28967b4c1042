"""The talker: a Qwen3 decoder over mixed text + codec embeddings that predicts codebook 0, one
frame per step.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.layers.attention import Attention, TokenBatch, WholeDecoder
from engine.layers.linear import Linear
from engine.layers.modules import Modules
from engine.layers.norm import RMSNorm
from engine.models.config import TalkerConfig
from engine.models.qwen3_layer import Qwen3Layer
from engine.models.weights import ParamView


class Talker(nn.Module):
    """Tensors in, tensors out: scheduling, sampling and the frame loop live in the runner."""

    def __init__(self, config: TalkerConfig) -> None:
        super().__init__()
        self.config = config
        self.text_embedding = _table(config.text_vocab_size, config.text_hidden_size)
        self.text_fc1 = Linear(config.text_hidden_size, config.text_hidden_size, bias=True)
        self.text_fc2 = Linear(config.text_hidden_size, config.hidden_size, bias=True)
        self.codec_embedding = _table(config.vocab_size, config.hidden_size)
        self.layers = Modules(Qwen3Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.codec_head = Linear(config.hidden_size, config.vocab_size)
        self.whole: WholeDecoder | None = None

    def embed_text(self, ids: Tensor) -> Tensor:
        """Text ids [T] -> rows [T, H] as the talker sees them."""
        rows = F.embedding(ids, self.text_embedding).to(self.norm.weight.dtype)
        return self.text_fc2(F.silu(self.text_fc1(rows)))

    def embed_codec(self, ids: Tensor) -> Tensor:
        """Codec vocabulary ids (codes, control rows, speakers, languages) [T] -> [T, H]."""
        return F.embedding(ids, self.codec_embedding).to(self.norm.weight.dtype)

    def forward(self, x: Tensor, kv_cache: Tensor, batch: Attention | TokenBatch) -> Tensor:
        """x [T, H] -> normed hidden states [T, H]. kv_cache [layers, 2, num_blocks, block_size,
        kv_heads, D].
        """
        if isinstance(batch, TokenBatch):
            assert self.whole is not None
            return self.whole(x, kv_cache, batch)
        for layer, cache in zip(self.layers, kv_cache, strict=True):
            x = layer(x, lambda qkv, norm, cache=cache: batch.attend(qkv, norm, cache))
        return self.norm(x)

    def weight_map(self) -> Iterator[tuple[str, ParamView]]:
        """Where each tensor of the checkpoint goes."""
        yield "talker.model.text_embedding.weight", ParamView(self.text_embedding, table=True)
        yield "talker.model.codec_embedding.weight", ParamView(self.codec_embedding, table=True)
        yield "talker.model.norm.weight", ParamView(self.norm.weight)
        yield "talker.codec_head.weight", ParamView(self.codec_head.weight, owner=self.codec_head)
        for name, linear in (("linear_fc1", self.text_fc1), ("linear_fc2", self.text_fc2)):
            yield f"talker.text_projection.{name}.weight", ParamView(linear.weight, owner=linear)
            assert linear.bias is not None
            yield f"talker.text_projection.{name}.bias", ParamView(linear.bias)
        for i, layer in enumerate(self.layers):
            yield from layer.weight_map(f"talker.model.layers.{i}")


def _table(rows: int, width: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(rows, width), requires_grad=False)
