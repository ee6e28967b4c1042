"""Dense projections, and the forms their weights may take. On a CPU:

plain    [out, in] in the model's dtype, torch's own kernel: the reference for the rest.
packed   the same values laid out once for the CPU's matrix kernels (oneDNN). Without this every
         call lays the weight out anew, at several times the cost of the product itself. A row's
         result does not depend on how many rows there are, so a batch equals its sequences alone.
int8     one scale per output channel; int4: one scale and offset per 64 inputs. Weight only:
         activations and accumulation stay as they were. bfloat16 models only.

On a GPU a product of few rows may be fused with what stands around it (kernels/fused.py).
"""

from collections.abc import Callable, Iterable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.layers.norm import RMSNorm

WeightForm = Literal["packed", "int8", "int4"]
Product = Callable[[Tensor], Tensor]  # [n, in] -> [n, out], without bias
# As Linear.forward in one kernel (kernels/fused.py); None: not for this many rows.
Fused = Callable[[Tensor, RMSNorm | None, bool, Tensor | None], Tensor | None]

# Smaller weights stay plain: laying them out anew costs less than the packed kernel's overhead.
PACK_FROM = 1 << 18
INT4_GROUP = 64


class Linear(nn.Module):
    """y = x W^T (+ b); x [..., in], W [out, in]."""

    def __init__(self, in_features: int, out_features: int, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(out_features), requires_grad=False) if bias else None
        self.product: Product | None = None
        self.fused: Fused | None = None

    def forward(
        self,
        x: Tensor,
        *,
        norm: RMSNorm | None = None,
        gated: bool = False,
        residual: Tensor | None = None,
    ) -> Tensor:
        """residual + f(norm(x) W^T + b). `gated`: W holds gate rows, then as many up rows, and f is
        silu(gate) * up. What stands around the product is asked for here so that one kernel may do
        it all.
        """
        if self.fused is not None:
            y = self.fused(x, norm, gated, residual)
            if y is not None:
                return y
        y = self._multiply(x if norm is None else norm(x))
        if gated:
            gate, up = y.chunk(2, dim=-1)
            y = F.silu(gate) * up
        return y if residual is None else residual + y

    def _multiply(self, x: Tensor) -> Tensor:
        if self.product is None:
            return F.linear(x, self.weight, self.bias)
        out = self.product(x.reshape(-1, x.shape[-1])).view(*x.shape[:-1], -1)
        return out if self.bias is None else out + self.bias

    def transform_(self, form: WeightForm) -> None:
        """Give the weight another form and drop the plain one; a weight of fewer numbers than
        PACK_FROM stays plain.
        """
        assert self.product is None, "the weight has been transformed already"
        if self.weight.numel() >= PACK_FROM:
            self.replace_(FORMS[form](self.weight))

    def replace_(self, product: Product) -> None:
        """Multiply so from now on, and drop the plain weight."""
        self.product = product
        self.weight = nn.Parameter(self.weight.new_empty(0), requires_grad=False)


def layer_forms(nets: Iterable[nn.Module], form: WeightForm) -> dict[Linear, WeightForm]:
    """What each Linear of these nets becomes on a CPU: `form` in decoder layers, else packed."""
    return {
        module: form if name.startswith("layers.") else "packed"
        for net in nets
        for name, module in net.named_modules()
        if isinstance(module, Linear)
    }


def packed(weight: Tensor) -> Product:
    """oneDNN's own layout, by the operators that torch's compiler uses for frozen weights."""
    layout = torch.ops.mkldnn._reorder_linear_weight(weight, 8)
    multiply = torch.ops.mkldnn._linear_pointwise.default

    def product(x: Tensor) -> Tensor:
        # One row alone takes another kernel with another order of summation: make it two.
        rows = x.expand(2, -1) if len(x) == 1 else x
        return multiply(rows, layout, None, "none", [], "")[: len(x)]

    return product


def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """weight [N, K] ~ values [N, K] (int8, -127..127) * scale [N, 1] (float32): one scale per
    output channel, returned as [N].
    """
    wide = weight.float()
    scale = wide.abs().amax(dim=1).clamp_min(1e-8) / 127
    values = (wide / scale[:, None]).round_().clamp_(-127, 127).to(torch.int8)
    return values, scale


def int8(weight: Tensor) -> Product:
    values, scale = quantise(weight)
    scale = scale.to(weight.dtype)
    return lambda x: torch._weight_int8pack_mm(x, values, scale)


def int4(weight: Tensor) -> Product:
    """Values 0..15 per group of inputs: w ~ (value - 8) * scale + zero."""
    groups = weight.float().unflatten(1, (-1, INT4_GROUP))
    low, high = groups.amin(-1), groups.amax(-1)
    scale = ((high - low) / 15).clamp_min(1e-8)
    zero = low + 8 * scale
    values = ((groups - low[..., None]) / scale[..., None]).round_().clamp_(0, 15)
    layout = torch._convert_weight_to_int4pack_for_cpu(values.flatten(1).to(torch.int32), 1)
    scale_zero = torch.stack([scale.T, zero.T], dim=-1).to(weight.dtype).contiguous()
    return lambda x: torch._weight_int4pack_mm_for_cpu(x, layout, INT4_GROUP, scale_zero)


FORMS: dict[WeightForm, Callable[[Tensor], Product]] = {
    "packed": packed,
    "int8": int8,
    "int4": int4,
}


def can_pack(dtype: torch.dtype) -> bool:
    """Whether this build and CPU have the packed kernels for `dtype`."""
    if not torch.backends.mkldnn.is_available():
        return False
    weight, x = torch.eye(16, dtype=dtype), torch.ones(3, 16, dtype=dtype)
    try:
        return bool((packed(weight)(x) == x).all())
    except (RuntimeError, AttributeError):
        return False  # a torch without these operators, or a CPU without the dtype
