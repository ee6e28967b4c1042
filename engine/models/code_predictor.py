"""The code predictor: given the talker's state and codebook 0 of a frame, codebooks 1..15 one after
another.
"""

from collections.abc import Callable, Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.layers.attention import Attention, TokenBatch, WholeDecoder, rotated_heads
from engine.layers.linear import Linear
from engine.layers.modules import Modules
from engine.layers.norm import RMSNorm
from engine.layers.rotary import RotaryTable
from engine.models.config import DecoderConfig, TalkerConfig
from engine.models.qwen3_layer import Qwen3Layer
from engine.models.weights import ParamView

# choose(logits [B, vocab], codebook) -> codes [B] int64
Choose = Callable[[Tensor, int], Tensor]


class CodePredictor(nn.Module):
    """One frame: a prefill of two positions (talker state, codebook 0), then one position per
    further codebook.

    The KV of a frame is thrown away with it, so it lives in dense scratch, not in pages.
    """

    def __init__(self, config: TalkerConfig) -> None:
        super().__init__()
        self.config = inner = config.code_predictor_config
        self.num_residual = config.num_code_groups - 1
        self.codec_embedding = nn.Parameter(
            torch.empty(self.num_residual, inner.vocab_size, config.hidden_size),
            requires_grad=False,
        )
        self.projection = (
            Linear(config.hidden_size, inner.hidden_size, bias=True)
            if inner.hidden_size != config.hidden_size
            else None
        )
        self.layers = Modules(Qwen3Layer(inner) for _ in range(inner.num_hidden_layers))
        self.norm = RMSNorm(inner.hidden_size, eps=inner.rms_norm_eps)
        self.heads = Modules(
            Linear(inner.hidden_size, inner.vocab_size) for _ in range(self.num_residual)
        )
        self.whole: WholeDecoder | None = None

    def forward(
        self,
        hidden: Tensor,
        code0: Tensor,
        scratch: Tensor,
        passes: Seq[Attention | TokenBatch],
        choose: Choose,
    ) -> Tensor:
        """hidden [B, H] talker state, code0 [B, H] embedding of codebook 0 -> codes 1..15 [B, 15]
        int64. scratch [layers, ...] holds the frame's keys and values as the passes lay them out.
        """
        x = torch.stack([hidden, code0], dim=1)  # [B, 2, H]
        codes: list[Tensor] = []
        for g in range(self.num_residual):
            logits = self.heads[g](self._positions(x, scratch, passes[g]))
            codes.append(choose(logits, g + 1))
            x = self._embedded(codes[-1], self.codec_embedding[g])[:, None]
        return torch.stack(codes, dim=1)

    def _positions(self, x: Tensor, scratch: Tensor, batch: Attention | TokenBatch) -> Tensor:
        """Run x [B, n, H] at the next n positions; the last one's normed state [B, width]."""
        if self.projection is not None:
            x = self.projection(x)
        rows, n = x.shape[:2]
        x = x.reshape(rows * n, -1)
        if isinstance(batch, TokenBatch):
            assert self.whole is not None
            return self.whole(x, scratch, batch).view(rows, n, -1)[:, -1]
        for layer, kv in zip(self.layers, scratch, strict=True):
            x = layer(x, lambda qkv, norm, kv=kv: batch.attend(qkv, norm, kv))
        return self.norm(x.view(rows, n, -1)[:, -1])

    def embed_residual(self, codes: Tensor) -> Tensor:
        """Codes 1..15 [..., 15] -> their embeddings [..., 15, H]."""
        offsets = torch.arange(self.num_residual, device=codes.device) * self.config.vocab_size
        return self._embedded(codes + offsets, self.codec_embedding.flatten(0, 1))

    def _embedded(self, ids: Tensor, table: Tensor) -> Tensor:
        """A table may be kept in fewer bits than the net runs in."""
        return F.embedding(ids, table).to(self.norm.weight.dtype)

    def weight_map(self) -> Iterator[tuple[str, ParamView]]:
        """Where each tensor of the checkpoint goes."""
        prefix = "talker.code_predictor"
        for g, head in enumerate(self.heads):
            yield f"{prefix}.model.codec_embedding.{g}.weight", ParamView(self.codec_embedding[g])
            yield f"{prefix}.lm_head.{g}.weight", ParamView(head.weight, owner=head)
        yield f"{prefix}.model.norm.weight", ParamView(self.norm.weight)
        if self.projection is not None:
            yield (
                f"{prefix}.small_to_mtp_projection.weight",
                ParamView(self.projection.weight, owner=self.projection),
            )
            assert self.projection.bias is not None
            yield f"{prefix}.small_to_mtp_projection.bias", ParamView(self.projection.bias)
        for i, layer in enumerate(self.layers):
            yield from layer.weight_map(f"{prefix}.model.layers.{i}")


@dataclass(frozen=True)
class DensePass:
    """One pass of B rows at positions start..end - 1 over dense scratch [2, >= B, kv_heads, 16, D]:
    the plain torch form of Attention. The first pass has two positions, the others one.
    """

    rotary: RotaryTable
    batch: int
    start: int
    end: int

    @staticmethod
    def all(rotary: RotaryTable, batch: int, num_residual: int) -> list[Attention]:
        return [DensePass(rotary, batch, g + 1 if g else 0, g + 2) for g in range(num_residual)]

    @staticmethod
    def scratch(
        c: DecoderConfig, batch: int, num_positions: int, dtype: torch.dtype, device: torch.device
    ) -> Tensor:
        shape = (c.num_hidden_layers, 2, batch, c.num_key_value_heads, num_positions, c.head_dim)
        return torch.zeros(shape, dtype=dtype, device=device)

    @cached_property
    def _angles(self) -> tuple[Tensor, Tensor]:
        tables = (self.rotary.cos, self.rotary.sin)
        cos, sin = (t[self.start : self.end].repeat(self.batch, 1)[:, None] for t in tables)
        return cos, sin

    def attend(self, qkv: Tensor, qk_norm: RMSNorm, cache: Tensor) -> Tensor:
        q, k, v = rotated_heads(qkv, qk_norm, *self._angles)
        batch, n = self.batch, self.end - self.start
        kv_heads, head_dim = k.shape[1:]
        for kept, new in zip(cache, (k, v), strict=True):
            kept[:batch, :, self.start : self.end] = new.view(
                batch, n, kv_heads, head_dim
            ).transpose(1, 2)
        keys, values = cache[0, :batch, :, : self.end], cache[1, :batch, :, : self.end]
        # [B, kv_heads, group, n, D]
        grouped = q.view(batch, n, kv_heads, -1, head_dim).permute(0, 2, 3, 1, 4)
        group = grouped.shape[2]
        mask = None
        if n > 1:
            mask = torch.ones(n, self.end, dtype=torch.bool, device=q.device)
            mask = mask.tril(self.start).repeat(group, 1)
        out = F.scaled_dot_product_attention(
            grouped.reshape(batch, kv_heads, group * n, head_dim), keys, values, attn_mask=mask
        )
        out = out.view(batch, kv_heads, group, n, head_dim)
        return out.permute(0, 3, 1, 2, 4).reshape(batch * n, -1)
