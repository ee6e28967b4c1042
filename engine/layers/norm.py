"""Root-mean-square norm in the order of operations the model was trained with."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """x / rms(x) in float32, cast back to x's dtype, then times the weight in that dtype."""

    def __init__(self, *shape: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(*shape), requires_grad=False)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        # With a weight, torch's norm would multiply before the cast.
        return F.rms_norm(x, x.shape[-1:], None, self.eps) * self.weight
