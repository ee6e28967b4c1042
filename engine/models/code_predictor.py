"""The code predictor: given the talker's state and codebook 0 of a frame, codebooks 1..15 one after
another.
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.layers.linear import Linear
from engine.layers.norm import RMSNorm
from engine.layers.rotary import RotaryTable
from engine.models.config import TalkerConfig
from engine.models.qwen3_layer import Qwen3Layer
from engine.models.weights import Slot

# choose(logits [B, vocab] float32, codebook) -> codes [B] int64
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
        self.layers = nn.ModuleList(Qwen3Layer(inner) for _ in range(inner.num_hidden_layers))
        self.norm = RMSNorm(inner.hidden_size, eps=inner.rms_norm_eps)
        self.heads = nn.ModuleList(
            Linear(inner.hidden_size, inner.vocab_size) for _ in range(self.num_residual)
        )

    def scratch(self, batch: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """KV scratch for up to `batch` rows: [layers, 2, B, kv_heads, 16, head_dim]."""
        c = self.config
        shape = (
            len(self.layers),
            2,
            batch,
            c.num_key_value_heads,
            self.num_residual + 1,
            c.head_dim,
        )
        return torch.zeros(shape, dtype=dtype, device=device)

    def forward(
        self, hidden: Tensor, code0: Tensor, scratch: Tensor, rotary: RotaryTable, choose: Choose
    ) -> Tensor:
        """hidden [B, H] talker state, code0 [B, H] embedding of codebook 0 -> codes 1..15 [B, 15]
        int64.
        """
        x = torch.stack([hidden, code0], dim=1)  # [B, 2, H]
        codes: list[Tensor] = []
        for g in range(self.num_residual):
            logits = self.heads[g](self._positions(x, g, scratch, rotary))
            codes.append(choose(logits.float(), g + 1))
            x = F.embedding(codes[-1], self.codec_embedding[g])[:, None]
        return torch.stack(codes, dim=1)

    def _positions(self, x: Tensor, g: int, scratch: Tensor, rotary: RotaryTable) -> Tensor:
        """Run x [B, n, H] at the positions that end at g + 1; the last position's normed state [B,
        width].
        """
        if self.projection is not None:
            x = self.projection(x)
        batch, n = x.shape[:2]
        end = g + 2
        start = end - n
        x = x.reshape(batch * n, -1)
        cos = rotary.cos[start:end].repeat(batch, 1)[:, None]
        sin = rotary.sin[start:end].repeat(batch, 1)[:, None]
        for layer, kv in zip(self.layers, scratch, strict=True):
            x = layer(x, cos, sin, lambda q, k, v, kv=kv: _attend(q, k, v, kv, batch, start, end))
        return self.norm(x.view(batch, n, -1)[:, -1])

    def embed_residual(self, codes: Tensor) -> Tensor:
        """Codes 1..15 [..., 15] -> their embeddings [..., 15, H]."""
        offsets = torch.arange(self.num_residual, device=codes.device) * self.config.vocab_size
        return F.embedding(codes + offsets, self.codec_embedding.flatten(0, 1))

    def slots(self) -> Iterator[tuple[str, Slot]]:
        """Where each tensor of the checkpoint goes."""
        prefix = "talker.code_predictor"
        for g in range(self.num_residual):
            yield f"{prefix}.model.codec_embedding.{g}.weight", Slot(self.codec_embedding[g])
            yield f"{prefix}.lm_head.{g}.weight", Slot(self.heads[g].weight)
        yield f"{prefix}.model.norm.weight", Slot(self.norm.weight)
        if self.projection is not None:
            yield f"{prefix}.small_to_mtp_projection.weight", Slot(self.projection.weight)
            yield f"{prefix}.small_to_mtp_projection.bias", Slot(self.projection.bias)
        for i, layer in enumerate(self.layers):
            yield from layer.slots(f"{prefix}.model.layers.{i}")


def _attend(
    q: Tensor, k: Tensor, v: Tensor, kv: Tensor, batch: int, start: int, end: int
) -> Tensor:
    """Append k, v [B * n, kv_heads, D] at positions start..end and attend causally; [B * n, heads *
    D].

    kv [2, >= B, kv_heads, 16, D]. n is 2 (the first pass) or 1.
    """
    n, kv_heads, head_dim = end - start, k.shape[1], k.shape[2]
    for cache, new in zip(kv, (k, v), strict=True):
        cache[:batch, :, start:end] = new.view(batch, n, kv_heads, head_dim).transpose(1, 2)
    keys, values = kv[0, :batch, :, :end], kv[1, :batch, :, :end]
    grouped = q.view(batch, n, kv_heads, -1, head_dim).permute(
        0, 2, 3, 1, 4
    )  # [B, kv_heads, group, n, D]
    group = grouped.shape[2]
    mask = None
    if n > 1:
        mask = torch.ones(n, end, dtype=torch.bool, device=q.device).tril(start).repeat(group, 1)
    out = F.scaled_dot_product_attention(
        grouped.reshape(batch, kv_heads, group * n, head_dim), keys, values, attn_mask=mask
    )
    return (
        out.view(batch, kv_heads, group, n, head_dim).permute(0, 3, 1, 2, 4).reshape(batch * n, -1)
    )
