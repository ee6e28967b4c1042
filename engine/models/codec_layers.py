"""The stages of the codec decoder, each with explicit streaming state.

    causal conv, kernel k, dilation d       |<- (k-1)*d history ->|<- new ->|
                                            the last (k-1)*d inputs are the next history
    transposed conv, kernel 2r, stride r    |<- out T*r ->|<- r tail ->|
                                            the tail is added to the next out
    attention, window w                     |<- w-1 past keys ->|<- new ->|
                                            query i sees keys i..i+w-1

A stage reads and replaces its own entry in `state`, a dict of tensors named by stage with a leading
row dimension. All states start at zero, which is the padding the model was trained with.

After pack_() on a CPU, every sum is taken in one order whatever the number of frames and rows, so a
stream's samples are the same bits for every cut and in any company: products are packed
(layers/linear.py), convolutions always take oneDNN's kernel, and each query has its window of keys
to itself.
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.layers.linear import PACK_FROM, Linear, Product, packed
from engine.layers.modules import Modules
from engine.layers.norm import RMSNorm
from engine.layers.rotary import rotate
from engine.models.config import CodecDecoderConfig
from engine.models.weights import ParamView

State = dict[str, Tensor]
Shapes = Iterator[tuple[str, tuple[int, ...]]]
Slots = Iterator[tuple[str, ParamView]]
# From x [B, latent_dim, T] to the wave [B, samples]; the state moves on.
Convolutions = Callable[[Tensor, State], Tensor]


def _parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(*shape), requires_grad=False)


class CausalConv(nn.Module):
    """Conv1d that carries its left context: x [B, C, T] -> [B, out, T]."""

    def __init__(
        self, name: str, in_: int, out: int, kernel: int, dilation: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        self.name, self.dilation, self.groups, self.kernel = name, dilation, groups, kernel
        self.history = (kernel - 1) * dilation
        self.in_ = in_
        self.weight, self.bias = _parameter(out, in_ // groups, kernel), _parameter(out)
        self.product: Product | None = None
        self.one_kernel = False

    def forward(self, x: Tensor, state: State) -> Tensor:
        if self.history:
            x = torch.cat([state[self.name], x], dim=-1)
            state[self.name] = x[..., -self.history :]
        if self.product is None:
            return self._convolve(x)
        taps = x.unfold(2, self.history + 1, 1)[..., :: self.dilation]  # [B, C, T, kernel]
        rows = taps.transpose(1, 2).flatten(2)  # [B, T, C * kernel]
        return (self.product(rows.flatten(0, 1)) + self.bias).unflatten(0, rows.shape[:2]).mT

    def _convolve(self, x: Tensor) -> Tensor:
        if not self.one_kernel:
            return F.conv1d(x, self.weight, self.bias, dilation=self.dilation, groups=self.groups)
        # F.conv1d sends small inputs to another kernel, which sums in another order.
        images, weight = x[:, :, None], self.weight[:, :, None]
        dilation = [1, self.dilation]
        return torch.mkldnn_convolution(
            images, weight, self.bias, [0, 0], [1, 1], dilation, self.groups
        )[:, :, 0]

    def pack_(self, pack: Callable[[Tensor], Product] = packed) -> None:
        """Compute as one packed matrix product, where the weight is large enough for it to pay."""
        self.one_kernel = True
        if self.groups == 1 and self.weight.numel() >= PACK_FROM:
            self.product = pack(self.weight.flatten(1))
            self.weight = _parameter(0)

    def state_shapes(self) -> Shapes:
        if self.history:
            yield self.name, (self.in_, self.history)

    def weight_map(self, prefix: str) -> Slots:
        yield f"{prefix}.weight", ParamView(self.weight)
        yield f"{prefix}.bias", ParamView(self.bias)


class CausalUpsample(nn.Module):
    """ConvTranspose1d with kernel r or 2r and stride r: [B, C, T] -> [B, out, T * r].

    Computed as a matrix product: every input frame makes kernel x out samples, of which those
    beyond its own r are added to the next frame's. The last frame's overlap is the state.
    """

    def __init__(self, name: str, in_: int, out: int, kernel: int, stride: int) -> None:
        super().__init__()
        assert kernel in (stride, 2 * stride)
        self.name, self.out, self.stride, self.overlaps = name, out, stride, kernel > stride
        self.weight, self.bias = _parameter(in_, out, kernel), _parameter(out)
        self.product: Product | None = None

    def forward(self, x: Tensor, state: State) -> Tensor:
        rows = x.mT.flatten(0, 1)
        product = self.product or (lambda rows: rows @ self.weight.flatten(1))
        y = product(rows).view(x.shape[0], x.shape[2], self.out, -1, self.stride)
        own = y[:, :, :, 0]  # [B, T, out, r]
        if self.overlaps:
            late = torch.cat([state[self.name][:, None], y[:, :, :, 1]], dim=1)
            own, state[self.name] = own + late[:, :-1], late[:, -1]
        return own.transpose(1, 2).flatten(2) + self.bias[:, None]

    def pack_(self, pack: Callable[[Tensor], Product] = packed) -> None:
        """Compute as one packed matrix product."""
        self.product = pack(self.weight.flatten(1).mT.contiguous())
        self.weight = _parameter(0)

    def state_shapes(self) -> Shapes:
        if self.overlaps:
            yield self.name, (self.out, self.stride)

    def weight_map(self, prefix: str) -> Slots:
        yield f"{prefix}.weight", ParamView(self.weight)
        yield f"{prefix}.bias", ParamView(self.bias)


class SnakeBeta(nn.Module):
    """x + sin^2(a x) / b per channel; a and b are stored as logarithms and folded once after
    loading.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha, self.beta = _parameter(channels), _parameter(channels)

    def finish_loading(self) -> None:
        """From logarithms to the factors a and 1 / b."""
        self.alpha.exp_()
        self.beta.exp_().add_(1e-9).reciprocal_()

    def forward(self, x: Tensor) -> Tensor:
        wave = torch.sin(x * self.alpha[:, None]).square_()
        return torch.addcmul(x, wave, self.beta[:, None])

    def weight_map(self, prefix: str) -> Slots:
        yield f"{prefix}.alpha", ParamView(self.alpha)
        yield f"{prefix}.beta", ParamView(self.beta)


class ResidualUnit(nn.Module):
    def __init__(self, name: str, channels: int, dilation: int) -> None:
        super().__init__()
        self.act1, self.act2 = SnakeBeta(channels), SnakeBeta(channels)
        self.conv1 = CausalConv(f"{name}.conv1", channels, channels, 7, dilation)
        self.conv2 = CausalConv(f"{name}.conv2", channels, channels, 1)

    def forward(self, x: Tensor, state: State) -> Tensor:
        return x + self.conv2(self.act2(self.conv1(self.act1(x), state)), state)

    def weight_map(self, prefix: str) -> Slots:
        yield from self.act1.weight_map(f"{prefix}.act1")
        yield from self.conv1.weight_map(f"{prefix}.conv1.conv")
        yield from self.act2.weight_map(f"{prefix}.act2")
        yield from self.conv2.weight_map(f"{prefix}.conv2.conv")


class UpsampleBlock(nn.Module):
    """Snake, upsample by r, three residual units with dilations 1, 3, 9."""

    def __init__(self, name: str, in_: int, rate: int) -> None:
        super().__init__()
        self.act = SnakeBeta(in_)
        self.upsample = CausalUpsample(f"{name}.up", in_, in_ // 2, 2 * rate, rate)
        self.units = Modules(ResidualUnit(f"{name}.unit{d}", in_ // 2, d) for d in (1, 3, 9))

    def forward(self, x: Tensor, state: State) -> Tensor:
        x = self.upsample(self.act(x), state)
        for unit in self.units:
            x = unit(x, state)
        return x

    def weight_map(self, prefix: str) -> Slots:
        yield from self.act.weight_map(f"{prefix}.block.0")
        yield from self.upsample.weight_map(f"{prefix}.block.1.conv")
        for i, unit in enumerate(self.units):
            yield from unit.weight_map(f"{prefix}.block.{i + 2}")


class ConvNeXt(nn.Module):
    """Depthwise causal conv, then a pointwise MLP, scaled and added."""

    def __init__(self, name: str, channels: int) -> None:
        super().__init__()
        self.dwconv = CausalConv(f"{name}.dw", channels, channels, 7, groups=channels)
        self.norm_weight, self.norm_bias = _parameter(channels), _parameter(channels)
        self.pwconv1 = Linear(channels, 4 * channels, bias=True)
        self.pwconv2 = Linear(4 * channels, channels, bias=True)
        self.gamma = _parameter(channels)

    def forward(self, x: Tensor, state: State) -> Tensor:
        y = self.dwconv(x, state).transpose(1, 2)
        y = F.layer_norm(y, y.shape[-1:], self.norm_weight, self.norm_bias, 1e-6)
        y = self.gamma * self.pwconv2(F.gelu(self.pwconv1(y)))
        return x + y.transpose(1, 2)

    def weight_map(self, prefix: str) -> Slots:
        yield from self.dwconv.weight_map(f"{prefix}.dwconv.conv")
        yield f"{prefix}.norm.weight", ParamView(self.norm_weight)
        yield f"{prefix}.norm.bias", ParamView(self.norm_bias)
        for name, linear in (("pwconv1", self.pwconv1), ("pwconv2", self.pwconv2)):
            yield f"{prefix}.{name}.weight", ParamView(linear.weight)
            assert linear.bias is not None
            yield f"{prefix}.{name}.bias", ParamView(linear.bias)
        yield f"{prefix}.gamma", ParamView(self.gamma)


class WindowLayer(nn.Module):
    """Transformer layer whose queries see the last `window` keys, themselves included."""

    def __init__(self, name: str, config: CodecDecoderConfig) -> None:
        super().__init__()
        c = config
        self.name, self.heads, self.head_dim, self.past = (
            name,
            c.num_attention_heads,
            c.head_dim,
            c.sliding_window - 1,
        )
        width = self.heads * self.head_dim
        self.input_norm, self.post_norm = (
            RMSNorm(c.hidden_size, eps=c.rms_norm_eps) for _ in range(2)
        )
        self.qkv, self.o = Linear(c.hidden_size, 3 * width), Linear(width, c.hidden_size)
        self.gate_up = Linear(c.hidden_size, 2 * c.intermediate_size)
        self.down = Linear(c.intermediate_size, c.hidden_size)
        self.attn_scale, self.mlp_scale = _parameter(c.hidden_size), _parameter(c.hidden_size)
        self.by_window = False

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, state: State) -> Tensor:
        """x [B, F, hidden]; cos, sin [B, 1, F, D]; mask [B, 1, F, past + F]."""
        q, k, v = (
            self.qkv(self.input_norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        )
        kv = torch.stack([rotate(k, cos, sin), v], dim=1)  # [B, 2, heads, F, D]
        kv = torch.cat([state[self.name], kv], dim=3)
        state[self.name] = kv[:, :, :, -self.past :]
        attend = _attend_by_window if self.by_window else F.scaled_dot_product_attention
        y = attend(rotate(q, cos, sin), kv[:, 0], kv[:, 1], mask)
        x = x + self.attn_scale * self.o(y.transpose(1, 2).flatten(2))
        gate, up = self.gate_up(self.post_norm(x)).chunk(2, dim=-1)
        return x + self.mlp_scale * self.down(F.silu(gate) * up)

    def state_shapes(self) -> Shapes:
        yield self.name, (2, self.heads, self.past, self.head_dim)

    def weight_map(self, prefix: str) -> Slots:
        for name, part in zip(("q", "k", "v"), self.qkv.weight.chunk(3), strict=True):
            yield f"{prefix}.self_attn.{name}_proj.weight", ParamView(part)
        yield f"{prefix}.self_attn.o_proj.weight", ParamView(self.o.weight)
        for name, part in zip(("gate", "up"), self.gate_up.weight.chunk(2), strict=True):
            yield f"{prefix}.mlp.{name}_proj.weight", ParamView(part)
        yield f"{prefix}.mlp.down_proj.weight", ParamView(self.down.weight)
        yield f"{prefix}.input_layernorm.weight", ParamView(self.input_norm.weight)
        yield f"{prefix}.post_attention_layernorm.weight", ParamView(self.post_norm.weight)
        yield f"{prefix}.self_attn_layer_scale.scale", ParamView(self.attn_scale)
        yield f"{prefix}.mlp_layer_scale.scale", ParamView(self.mlp_scale)


def _attend_by_window(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """As scaled_dot_product_attention for queries [B, H, F, D] whose window begins at their own
    place in keys and values [B, H, past + F, D]. A row at a time, since the windows are copied.
    """
    window = k.shape[2] - q.shape[2] + 1
    masks = mask.unfold(3, window, 1).diagonal(dim1=2, dim2=3).mT  # [B, 1, F, window]
    rows = zip(q, k.unfold(2, window, 1).mT, v.unfold(2, window, 1).mT, masks, strict=True)
    return torch.stack([_attend_windows(*row) for row in rows])


def _attend_windows(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """q [H, F, D]; k, v [H, F, window, D]; mask [1, F, window] -> [H, F, D]."""
    scores = (k * q[:, :, None]).sum(-1) * q.shape[-1] ** -0.5
    weights = scores.masked_fill(~mask, float("-inf")).softmax(-1)
    return (weights[:, :, None] @ v)[:, :, 0]
