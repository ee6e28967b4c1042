"""Root-mean-square norm in the order of operations the model was trained with."""

import torch
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """x / rms(x) in float32, cast back to x's dtype, then times the weight in that dtype."""

    def __init__(self, *shape: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(*shape), requires_grad=False)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        variance = wide.square().mean(-1, keepdim=True)
        return (wide * torch.rsqrt(variance + self.eps)).to(x.dtype) * self.weight
