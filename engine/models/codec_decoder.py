"""The codec decoder, streaming from the first frame: frames of 16 codes -> 1,920 samples each at 24
kHz.

Every stage is causal, so the exact state of a stream is small and explicit (codec_layers.py),
nothing is ever decoded twice, and streaming equals one whole pass for every cut: to the last bit
once packed on a CPU, within rounding elsewhere. Rows of many streams go through together.
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.layers.linear import Linear, Product, packed
from engine.layers.modules import Modules
from engine.layers.norm import RMSNorm
from engine.layers.rotary import RotaryTable
from engine.models.codec_layers import (
    CausalConv,
    CausalUpsample,
    ConvNeXt,
    Convolutions,
    SnakeBeta,
    State,
    UpsampleBlock,
    WindowLayer,
)
from engine.models.config import CodecDecoderConfig
from engine.models.weights import ParamView

Slots = Iterator[tuple[str, ParamView]]

# Frames of left context beyond which nothing reaches the output through the convolutions after the
# transformer (9.4 for the official shape; the rest is margin).
CONV_CONTEXT = 24


class Codebooks(nn.Module):
    """Residual codebooks: codes -> latent. Table rows are embedding_sum / cluster_usage, computed
    after loading.

    The first codebook and the other fifteen have an output projection of their own.
    """

    def __init__(self, config: CodecDecoderConfig) -> None:
        super().__init__()
        n, width = config.num_quantizers, config.codebook_dim // 2
        self.tables = nn.Parameter(torch.empty(n, config.codebook_size, width), requires_grad=False)
        self.usage = nn.Parameter(torch.empty(n, config.codebook_size), requires_grad=False)
        self.first_out, self.rest_out = (Linear(width, config.codebook_dim) for _ in range(2))

    def finish_loading(self) -> None:
        self.tables.div_(self.usage.clamp_min(1e-5)[..., None])

    def forward(self, codes: Tensor) -> Tensor:
        """codes [B, F, Q] -> [B, F, codebook_dim]."""
        offsets = torch.arange(codes.shape[-1], device=codes.device) * self.tables.shape[1]
        rows = F.embedding(codes + offsets, self.tables.flatten(0, 1))
        return self.first_out(rows[:, :, 0]) + self.rest_out(rows[:, :, 1:].sum(2))

    def weight_map(self) -> Slots:
        for branch, linear, first, count in (
            ("first", self.first_out, 0, 1),
            ("rest", self.rest_out, 1, None),
        ):
            prefix = f"decoder.quantizer.rvq_{branch}"
            shape = torch.Size([*linear.weight.shape, 1])
            yield f"{prefix}.output_proj.weight", ParamView(linear.weight[..., None], shape)
            tables = range(first, len(self.tables) if count is None else count)
            for i in tables:
                codebook = f"{prefix}.vq.layers.{i - first}._codebook"
                yield f"{codebook}.embedding_sum", ParamView(self.tables[i])
                yield f"{codebook}.cluster_usage", ParamView(self.usage[i])


class CodecDecoder(nn.Module):
    def __init__(self, config: CodecDecoderConfig) -> None:
        super().__init__()
        assert config.num_attention_heads == config.num_key_value_heads, (
            "the codec has no grouped queries"
        )
        self.config = c = config
        self.codebooks = Codebooks(c)
        self.pre_conv = CausalConv("pre", c.codebook_dim, c.latent_dim, 3)
        self.input_proj = Linear(c.latent_dim, c.hidden_size, bias=True)
        self.layers = Modules(WindowLayer(f"attn{i}", c) for i in range(c.num_hidden_layers))
        self.norm = RMSNorm(c.hidden_size, eps=c.rms_norm_eps)
        self.output_proj = Linear(c.hidden_size, c.latent_dim, bias=True)
        ratios = list(enumerate(c.upsampling_ratios))
        self.upsample = Modules(
            CausalUpsample(f"up{i}", c.latent_dim, c.latent_dim, r, r) for i, r in ratios
        )
        self.mix = Modules(ConvNeXt(f"next{i}", c.latent_dim) for i, _ in ratios)
        self.first_conv = CausalConv("first", c.latent_dim, c.decoder_dim, 7)
        self.blocks = Modules(
            UpsampleBlock(f"block{i}", c.decoder_dim >> i, r)
            for i, r in enumerate(c.upsample_rates)
        )
        last = c.decoder_dim >> len(c.upsample_rates)
        self.last_act, self.last_conv = SnakeBeta(last), CausalConv("last", last, 1, 7)
        self.fused: Convolutions | None = None
        self._conv_state_names = [
            n for n in self.state_shapes() if n != "pre" and not n.startswith("attn")
        ]

    def finish_loading(self) -> None:
        """What is computed once from the file's tensors."""
        self.codebooks.finish_loading()
        for module in self.modules():
            if isinstance(module, SnakeBeta):
                module.finish_loading()

    def pack_(self, pack: Callable[[Tensor], Product] = packed) -> None:
        """Weights into the CPU's own layout, and sums in an order that no cut changes
        (codec_layers.py). `pack`: for what comes before the convolutions.
        """
        convolutions = set(self._convolutions())
        for module in self.modules():
            if isinstance(module, WindowLayer):
                module.by_window = True
            elif isinstance(module, Linear):
                module.replace_(pack(module.weight.data))
            elif isinstance(module, CausalConv | CausalUpsample):
                if module not in convolutions:
                    module.pack_(pack)
                elif self.fused is None:
                    module.pack_()

    def _convolutions(self) -> Iterator[CausalConv | CausalUpsample]:
        """What `convolve` runs through."""
        for part in (self.first_conv, self.blocks, self.last_conv):
            for module in part.modules():
                if isinstance(module, CausalConv | CausalUpsample):
                    yield module

    def use_kernels_(self, convolutions: Convolutions) -> None:
        """In place of `convolve`, whose weights are dropped (kernels/codec.py, native/codec.py)."""
        self.fused = convolutions
        for module in self._convolutions():
            module.weight = nn.Parameter(module.weight.new_empty(0), requires_grad=False)
            module.product = None

    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of one row's state tensor."""
        return {
            name: shape
            for module in self.modules()
            if isinstance(module, CausalConv | CausalUpsample | WindowLayer)
            for name, shape in module.state_shapes()
        }

    def forward(
        self, codes: Tensor, positions: Tensor, state: State, rotary: RotaryTable
    ) -> Tensor:
        """codes [B, F, Q] int64 of streams that have decoded positions [B] frames -> wave [B, F *
        1920].

        `state` holds the rows' tensors [B, ...] by name; each is replaced by its successor.
        """
        return self._synthesise(self._latents(codes, positions, state, rotary), state)

    def prime(self, codes: Tensor, positions: Tensor, state: State, rotary: RotaryTable) -> Tensor:
        """As forward, for frames whose audio is not needed: only the state moves on. Returns an
        empty wave [B, 0].

        The convolutions see no further back than CONV_CONTEXT frames, so only the last ones go
        through them.
        """
        x = self._latents(codes, positions, state, rotary)
        if x.shape[-1] > CONV_CONTEXT:
            for name in self._conv_state_names:
                state[name] = torch.zeros_like(state[name])
            x = x[..., -CONV_CONTEXT:]
        return self._synthesise(x, state)[:, :0]

    def _latents(
        self, codes: Tensor, positions: Tensor, state: State, rotary: RotaryTable
    ) -> Tensor:
        x = self.codebooks(codes).transpose(1, 2)
        x = self.pre_conv(x, state).transpose(1, 2)
        return self._transform(x, positions, state, rotary).transpose(1, 2)

    def _synthesise(self, x: Tensor, state: State) -> Tensor:
        for up, mix in zip(self.upsample, self.mix, strict=True):
            x = mix(up(x, state), state)
        return (self.fused or self.convolve)(x, state)

    def convolve(self, x: Tensor, state: State) -> Tensor:
        """x [B, latent_dim, T] -> wave [B, samples]."""
        x = self.first_conv(x, state)
        for block in self.blocks:
            x = block(x, state)
        return self.last_conv(self.last_act(x), state)[:, 0].clamp(-1, 1)

    def _transform(self, x: Tensor, positions: Tensor, state: State, rotary: RotaryTable) -> Tensor:
        num_frames, past = x.shape[1], self.config.sliding_window - 1
        frames = torch.arange(num_frames, device=x.device)
        cos, sin = (table[:, None] for table in rotary.at(positions[:, None] + frames))
        keys = torch.arange(past + num_frames, device=x.device)
        mask = (keys >= frames[:, None]) & (keys <= frames[:, None] + past)  # window, [F, past + F]
        mask = mask & (keys >= past - positions[:, None])[:, None]  # keys before the stream began
        x = self.input_proj(x)
        for layer in self.layers:
            x = layer(x, cos, sin, mask[:, None], state)
        return self.output_proj(self.norm(x))

    def weight_map(self) -> Slots:
        """Where each tensor of the checkpoint goes."""
        yield from self.codebooks.weight_map()
        yield from self.pre_conv.weight_map("decoder.pre_conv.conv")
        for name, linear in (("input_proj", self.input_proj), ("output_proj", self.output_proj)):
            yield f"decoder.pre_transformer.{name}.weight", ParamView(linear.weight)
            assert linear.bias is not None
            yield f"decoder.pre_transformer.{name}.bias", ParamView(linear.bias)
        yield "decoder.pre_transformer.norm.weight", ParamView(self.norm.weight)
        for i, layer in enumerate(self.layers):
            yield from layer.weight_map(f"decoder.pre_transformer.layers.{i}")
        for i, (up, mix) in enumerate(zip(self.upsample, self.mix, strict=True)):
            yield from up.weight_map(f"decoder.upsample.{i}.0.conv")
            yield from mix.weight_map(f"decoder.upsample.{i}.1")
        yield from self.first_conv.weight_map("decoder.decoder.0.conv")
        for i, block in enumerate(self.blocks):
            yield from block.weight_map(f"decoder.decoder.{i + 1}")
        n = len(self.blocks)
        yield from self.last_act.weight_map(f"decoder.decoder.{n + 1}")
        yield from self.last_conv.weight_map(f"decoder.decoder.{n + 2}.conv")


def is_unused(name: str) -> bool:
    """Tensors of the codec file that decoding never reads: the encoder's, and the codebooks' input
    projections.
    """
    return name.startswith("encoder.") or name.endswith(".input_proj.weight")
