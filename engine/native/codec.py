"""codec.cpp called from Python: the codec decoder's convolutions, from latents to samples, in one
call.

NativeConvolutions is a `Convolutions` (models/codec_layers.py), so it can replace
CodecDecoder.convolve. Weights and activations are float32. The ctypes structs repeat those of
codec.cpp, field by field.
"""

import math
from ctypes import POINTER, Structure, byref, c_int, c_int64, c_void_p

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.models.codec_decoder import CodecDecoder
from engine.models.codec_layers import (
    CausalConv,
    CausalUpsample,
    Convolutions,
    ResidualUnit,
    SnakeBeta,
    State,
    UpsampleBlock,
)
from engine.native.decoder import PANEL, library

TILE_INPUTS = 32


class _Snake(Structure):
    _fields_ = (("alpha", c_void_p), ("beta", c_void_p))


class _Conv(Structure):
    _fields_ = (
        *((name, c_int64) for name in ("in_channels", "out_channels", "kernel", "dilation")),
        *((name, c_void_p) for name in ("weight", "bias", "halves")),
    )


class _Unit(Structure):
    _fields_ = (("act1", _Snake), ("conv1", _Conv), ("act2", _Snake), ("conv2", _Conv))


class _Block(Structure):
    _fields_ = (("act", _Snake), ("up", _Conv), ("rate", c_int64), ("units", _Unit * 3))


class _Codec(Structure):
    _fields_ = (
        ("first", _Conv),
        ("num_blocks", c_int64),
        ("blocks", POINTER(_Block)),
        ("last_act", _Snake),
        ("last", _Conv),
    )


class _State(Structure):
    _fields_ = (
        ("before", c_void_p),
        ("stride", c_int64),
        ("after", c_void_p),
        *((name, c_int64) for name in ("channels", "length")),
    )


class NativeConvolutions:
    """Made from a decoder whose weights are loaded and not yet packed."""

    def __init__(self, decoder: CodecDecoder) -> None:
        self._kept: list[Tensor] = []  # what the structs point to
        self.hop = math.prod(decoder.config.upsample_rates)  # samples a latent
        native = library()
        assert native is not None
        self._has_tiles = bool(native.qtts_has_tiles())
        blocks = [self._block(block) for block in decoder.blocks]
        self._blocks = (_Block * len(blocks))(*blocks)
        first, last = self._conv(decoder.first_conv), self._last(decoder.last_conv)
        self._codec = _Codec(first, len(blocks), self._blocks, self._snake(decoder.last_act), last)
        stages: list[CausalConv | CausalUpsample] = [decoder.first_conv]
        for block in decoder.blocks:
            stages += [block.upsample, *(unit.conv1 for unit in block.units)]
        self._states = [_state(stage) for stage in (*stages, decoder.last_conv)]

    def __call__(self, x: Tensor, state: State) -> Tensor:
        """x [B, latent_dim, T] -> wave [B, samples]; the state moves on."""
        native = library()
        assert native is not None
        x = x.contiguous()
        rows, _, latents = x.shape
        wave = x.new_empty(rows, latents * self.hop)
        states = (_State * len(self._states))()
        before = []  # keeps the old states alive until the call is over
        for at, (name, channels, length) in enumerate(self._states):
            old = state[name]
            if old.stride()[1:] != (length, 1):
                old = old.contiguous()
            new = x.new_empty(rows, channels, length)
            states[at] = _State(old.data_ptr(), old.stride(0), new.data_ptr(), channels, length)
            before.append(old)
            state[name] = new
        native.qtts_convolve(
            byref(self._codec),
            states,
            c_void_p(x.data_ptr()),
            c_int64(rows),
            c_int64(latents),
            c_void_p(wave.data_ptr()),
            c_int64(wave.shape[1]),
            c_int(torch.get_num_threads()),
        )
        return wave

    def _keep(self, tensor: Tensor, dtype: torch.dtype = torch.float32) -> int:
        self._kept.append(tensor.to(dtype).contiguous())
        return self._kept[-1].data_ptr()

    def _snake(self, snake: SnakeBeta) -> _Snake:
        return _Snake(self._keep(_padded(snake.alpha)), self._keep(_padded(snake.beta)))

    def _conv(self, conv: CausalConv) -> _Conv:
        out, in_, kernel = conv.weight.shape
        taps = conv.weight.permute(2, 1, 0)  # [kernel, in, out]
        return self._product(taps.flatten(0, 1), conv.bias, (in_, out, kernel, conv.dilation))

    def _product(self, taps: Tensor, bias: Tensor, sizes: tuple[int, int, int, int]) -> _Conv:
        """taps [kernel * in, out]; sizes: in, out, kernel, dilation"""
        panels, kept = _panels(taps), self._keep(_padded(bias))
        if self._has_tiles and sizes[0] % TILE_INPUTS == 0:
            halves = _halves(panels.unflatten(1, (sizes[2], -1)))
            return _Conv(*sizes, None, kept, self._keep(halves, torch.bfloat16))
        return _Conv(*sizes, self._keep(panels), kept, None)

    def _last(self, conv: CausalConv) -> _Conv:
        """Its one output's taps as they lie in time: [kernel, in]."""
        out, in_, kernel = conv.weight.shape
        assert out == 1
        weight, bias = self._keep(_padded(conv.weight[0].T)), self._keep(conv.bias)
        return _Conv(in_, out, kernel, conv.dilation, weight, bias, None)

    def _upsample(self, up: CausalUpsample) -> _Conv:
        """[in, out, 2 * rate] -> columns by own or late, time and channel."""
        in_, out, kernel = up.weight.shape
        columns = _padded(up.weight.permute(0, 2, 1)).flatten(1)
        return self._product(columns, up.bias, (in_, kernel * _up_to_panel(out), 1, 1))

    def _unit(self, unit: ResidualUnit) -> _Unit:
        first, second = self._conv(unit.conv1), self._conv(unit.conv2)
        return _Unit(self._snake(unit.act1), first, self._snake(unit.act2), second)

    def _block(self, block: UpsampleBlock) -> _Block:
        units = (_Unit * 3)(*(self._unit(unit) for unit in block.units))
        return _Block(
            self._snake(block.act), self._upsample(block.upsample), block.upsample.stride, units
        )


def _state(stage: CausalConv | CausalUpsample) -> tuple[str, int, int]:
    """Its name, channels and length."""
    ((name, (channels, length)),) = stage.state_shapes()
    return name, channels, length


def _up_to_panel(n: int) -> int:
    return -(-n // PANEL) * PANEL


def _padded(x: Tensor) -> Tensor:
    """The last dimension up to a whole number of panels, with zeros."""
    return F.pad(x, (0, _up_to_panel(x.shape[-1]) - x.shape[-1]))


def _panels(weight: Tensor) -> Tensor:
    """[inputs, outputs] -> [outputs / 16, inputs, 16]."""
    panels: Tensor = _padded(weight).unflatten(1, (-1, PANEL)).transpose(0, 1)
    return panels


def _halves(panels: Tensor) -> Tensor:
    """[panels, kernel, in, 16] -> bfloat16 [panels, in / 32, kernel, 2, 16, 16, 2], pairs of inputs
    side by side: each weight rounded, and what that leaves of it.
    """
    high: Tensor = panels.bfloat16()
    low = (panels - high.float()).bfloat16()
    both: Tensor = torch.stack([high, low], dim=1).unflatten(3, (-1, TILE_INPUTS // 2, 2))
    return both.permute(0, 3, 2, 1, 4, 6, 5)


@torch.inference_mode()
def difference(native: NativeConvolutions, decoder: CodecDecoder) -> float:
    """The largest one of a sample from the plain layers'."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, decoder.config.latent_dim, 4, generator=generator)
    waves = []
    ways: tuple[Convolutions, ...] = (decoder.convolve, native)
    for convolve in ways:
        state = {name: torch.zeros(2, *shape) for name, shape in decoder.state_shapes().items()}
        waves.append(torch.cat([convolve(x[..., :1], state), convolve(x[..., 1:], state)], dim=1))
    return float((waves[0] - waves[1]).abs().max())
