"""Rotary position embedding, half-split ("rotate half") form.

The talker's three multimodal position rows are always identical, so its interleaved form equals
this plain one.
"""

import torch
from torch import Tensor


class RotaryTable:
    """cos/sin for positions 0..max_positions-1, computed in float32 and cast to `dtype`."""

    def __init__(
        self,
        head_dim: int,
        theta: float,
        max_positions: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        exponent = torch.arange(0, head_dim, 2, dtype=torch.int64, device=device).float() / head_dim
        angles = torch.outer(
            torch.arange(max_positions, device=device).float(), 1.0 / theta**exponent
        )
        self.cos = torch.cat([angles.cos(), angles.cos()], dim=-1).to(dtype)
        # The sign of rotate_half is folded into the table: rotation is x * cos + roll(x) * sin.
        self.sin = torch.cat([-angles.sin(), angles.sin()], dim=-1).to(dtype)

    def at(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos, sin [..., head_dim] for int64 positions [...]."""
        return self.cos[positions], self.sin[positions]


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [..., head_dim]; cos and sin broadcast against it."""
    return x * cos + x.roll(x.shape[-1] // 2, dims=-1) * sin
