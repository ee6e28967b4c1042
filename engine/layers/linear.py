"""Dense projections whose weights may be full precision or int8.

`Linear.quantize_()` turns a bf16/fp32 weight into per-output-channel symmetric int8 in place
(weight only: activations and accumulation stay as they were). The kernel is torch's own
`_weight_int8pack_mm`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Linear(nn.Module):
    """y = x W^T (+ b); x [..., in], W [out, in]."""

    def __init__(self, in_features: int, out_features: int, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(out_features), requires_grad=False) if bias else None
        self.scale: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.scale is None:
            return F.linear(x, self.weight, self.bias)
        flat = torch._weight_int8pack_mm(x.reshape(-1, x.shape[-1]), self.weight, self.scale)
        out = flat.view(*x.shape[:-1], -1)
        return out if self.bias is None else out + self.bias

    def quantize_(self) -> None:
        """Replace the weight by int8 values and one scale per output channel."""
        assert self.scale is None, "already int8"
        weight = self.weight.float()
        scale = weight.abs().amax(dim=1).clamp_min(1e-8) / 127
        self.scale = scale.to(self.weight.dtype)
        quantized = (weight / scale[:, None]).round_().clamp_(-127, 127).to(torch.int8)
        self.weight = nn.Parameter(quantized, requires_grad=False)
