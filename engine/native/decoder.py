"""decoder.cpp from Python: packed weights, a matrix product, and all layers of a net in one call.

Activations are float32. A weight is kept in one of these forms:

float32   as it is
bfloat16  half the memory, for weights that bfloat16 holds exactly, as published ones are
int8      with one scale for each output
int4      with a scale and an offset for each 64 inputs of each output; a weight whose number of
          inputs is no multiple of 64 is kept as int8

The ctypes structs repeat those of decoder.cpp, field by field. They hold raw pointers: the object
that makes a struct keeps the tensors alive that it points to.
"""

import ctypes
import logging
from ctypes import POINTER, Structure, c_double, c_int, c_int64, c_void_p
from functools import cache
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from engine.layers.attention import TokenBatch
from engine.layers.linear import Product, packed, quantise
from engine.layers.modules import Modules
from engine.layers.norm import RMSNorm
from engine.models.config import DecoderConfig
from engine.models.qwen3_layer import Qwen3Layer
from engine.native import build

log = logging.getLogger(__name__)

Form = Literal["float32", "bfloat16", "int8", "int4"]
FORMS: tuple[Form, ...] = ("float32", "bfloat16", "int8", "int4")
PANEL, GROUP = 16, 64
Packed = dict[str, Tensor]  # weight, and for fewer bits scale, and for int4 zero


class _Matrix(Structure):
    _fields_ = (
        *((name, c_int64) for name in ("form", "out_features", "in_features")),
        *((name, c_void_p) for name in ("weight", "scale", "zero")),
    )


class _Layer(Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("input_norm", "post_norm", "qk_norm")),
        *((name, _Matrix) for name in ("qkv", "o", "gate_up", "down")),
    )


class _Net(Structure):
    _fields_ = (
        *(
            (name, c_int64)
            for name in ("num_layers", "width", "heads", "kv_heads", "head_dim", "inner")
        ),
        ("eps", c_double),
        ("norm", c_void_p),
        ("layers", POINTER(_Layer)),
    )


class _Batch(Structure):
    _fields_ = (
        ("tokens", c_int64),
        *((name, c_void_p) for name in ("rows", "positions", "slots", "tables")),
        *((name, c_int64) for name in ("table_width", "block_size", "num_slots")),
        *((name, c_void_p) for name in ("cos", "sin", "cache")),
    )


@cache
def library() -> ctypes.CDLL | None:
    """The compiled decoder.cpp, or None with the reason in the log."""
    path = build.library()
    if not path.is_file():
        log.warning(
            "the decoder in C++ has not been compiled for this machine (python -m "
            "engine.native.build does it): plain torch takes two to three times as long"
        )
        return None
    _share_openmp()
    return ctypes.CDLL(str(path))


def _share_openmp() -> None:
    """Let our library use the OpenMP that torch has loaded: with a second one there would be two
    sets of threads that wait for each other.
    """
    maps = Path("/proc/self/maps")
    lines = [line for line in maps.read_text().splitlines() if "libgomp" in line]
    paths = {line.split(maxsplit=5)[5] for line in lines}  # which may have spaces
    for path in paths:
        ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)


# ---- weights ----


def fits(weight: Tensor) -> bool:
    out_features, in_features = weight.shape
    return out_features % PANEL == 0 and in_features % PANEL == 0


def pack(weight: Tensor, form: Form | None) -> Packed:
    """weight [N, K]; None: bfloat16 where that loses nothing, else float32. The packed weight is
    [N / 16, K, 16], for bfloat16 [N / 16, K / 2, 16, 2], for int8 [N / 16, K / 4, 16, 4], for
    int4 [N / 16, K / 8, 16, 4].
    """
    if form is None:
        exact = weight.dtype == torch.bfloat16 or bool((weight.bfloat16() == weight).all())
        form = "bfloat16" if exact else "float32"
    if form == "int8" or (form == "int4" and weight.shape[1] % GROUP):
        values, scale = quantise(weight)
        return {"weight": _panels(values, 4), "scale": scale}
    if form == "int4":
        return _pack_int4(weight.float())
    if form == "bfloat16":
        return {"weight": _panels(weight.bfloat16(), 2)}
    return {"weight": _panels(weight.float(), 1).flatten(2)}


def _panels(values: Tensor, inputs: int) -> Tensor:
    """[N, K] -> [N / 16, K / inputs, 16, inputs]"""
    return values.view(-1, PANEL, values.shape[1] // inputs, inputs).transpose(1, 2).contiguous()


def _pack_int4(weight: Tensor) -> Packed:
    """w ~ value * scale + zero, values 0..15."""
    groups = weight.unflatten(1, (-1, GROUP))
    low, high = groups.amin(-1), groups.amax(-1)
    scale = ((high - low) / 15).clamp_min(1e-8)
    values = ((groups - low[..., None]) / scale[..., None]).round_().clamp_(0, 15)
    fours = _panels(values.flatten(1).to(torch.uint8), 4)
    packed = fours[:, 0::2] | fours[:, 1::2] << 4
    by_panel = (_panels(values, 1).flatten(2) for values in (scale, low))
    return {"weight": packed, **dict(zip(("scale", "zero"), by_panel, strict=True))}


def unpack(packed: Packed) -> Tensor:
    """[N, K] float32: what the packed weight stands for."""
    weight = packed["weight"]
    if weight.dtype == torch.uint8:
        weight = torch.stack([weight & 15, weight >> 4], dim=2).flatten(1, 2)
    plain: Tensor = weight.float().view(len(weight), -1, PANEL, weight[0, 0].numel() // PANEL)
    plain = plain.transpose(1, 2).flatten(2).flatten(0, 1)
    if packed["weight"].dtype == torch.int8:
        return plain * packed["scale"][:, None]
    if packed["weight"].dtype != torch.uint8:
        return plain
    scale, zero = (
        packed[name].transpose(1, 2).flatten(0, 1)[..., None] for name in ("scale", "zero")
    )
    plain = (plain.unflatten(1, (-1, GROUP)) * scale + zero).flatten(1)
    return plain


def _form(packed: Packed) -> Form:
    dtype = packed["weight"].dtype
    if dtype == torch.int8:
        return "int8"
    return "int4" if dtype == torch.uint8 else "bfloat16" if dtype == torch.bfloat16 else "float32"


def _matrix(packed: Packed) -> _Matrix:
    weight, form = packed["weight"], _form(packed)
    at = [packed[name].data_ptr() if name in packed else None for name in ("scale", "zero")]
    in_features = weight[0].numel() // PANEL * (2 if form == "int4" else 1)
    return _Matrix(FORMS.index(form), len(weight) * PANEL, in_features, weight.data_ptr(), *at)


class NativeProduct:
    """x [n, in] float32 -> [n, out], for Linear.product."""

    def __init__(self, packed: Packed) -> None:
        self.packed, self.matrix = packed, _matrix(packed)

    def __call__(self, x: Tensor) -> Tensor:
        x = x.contiguous()
        y = x.new_empty(len(x), self.matrix.out_features)
        found = library()
        assert found is not None and x.dtype == torch.float32
        found.qtts_multiply(
            ctypes.byref(self.matrix),
            c_void_p(x.data_ptr()),
            c_int64(len(x)),
            c_void_p(y.data_ptr()),
            c_int(torch.get_num_threads()),
        )
        return y


def product(weight: Tensor) -> Product:
    """weight [N, K] float32, multiplied with here where it is whole panels."""
    return NativeProduct(pack(weight, "float32")) if fits(weight) else packed(weight)


class NativeDecoder:
    """All layers of a net and its last norm in one call; the layers' weights are NativeProducts."""

    def __init__(self, config: DecoderConfig, layers: Modules[Qwen3Layer], norm: RMSNorm) -> None:
        self.kept = [layers, norm]  # what the structs point to
        structs = (_Layer * len(layers))(*(_layer(layer) for layer in layers))
        self.net = _Net(
            *(len(layers), config.hidden_size, config.num_attention_heads),
            *(config.num_key_value_heads, config.head_dim, config.intermediate_size),
            *(config.rms_norm_eps, norm.weight.data_ptr(), structs),
        )

    def __call__(self, x: Tensor, kv_cache: Tensor, batch: TokenBatch) -> Tensor:
        """x [T, H] float32 -> normed states [T, H]. kv_cache [layers, 2, blocks, block_size,
        kv_heads, D] float32.
        """
        found, out = library(), x.clone(memory_format=torch.contiguous_format)
        assert found is not None and x.dtype == kv_cache.dtype == torch.float32
        assert kv_cache.is_contiguous() and batch.block_tables.stride(1) == 1
        indices = (batch.rows, batch.positions, batch.slots, batch.block_tables)
        tensors = (batch.rotary.cos, batch.rotary.sin, kv_cache)
        assert all(i.dtype == torch.int64 for i in indices)
        call = _Batch(
            *(len(x), *(tensor.data_ptr() for tensor in indices)),
            *(batch.block_tables.stride(0), kv_cache.shape[3]),
            *(kv_cache.shape[2] * kv_cache.shape[3], *(tensor.data_ptr() for tensor in tensors)),
        )
        found.qtts_forward(
            ctypes.byref(self.net),
            ctypes.byref(call),
            c_void_p(out.data_ptr()),
            c_int(torch.get_num_threads()),
        )
        return out


def _layer(layer: Qwen3Layer) -> _Layer:
    norms = (layer.input_norm, layer.post_norm, layer.qk_norm)
    products = [linear.product for linear in (layer.qkv, layer.o, layer.gate_up, layer.down)]
    assert all(isinstance(product, NativeProduct) for product in products)
    return _Layer(
        *(norm.weight.data_ptr() for norm in norms),
        *(product.matrix for product in products if isinstance(product, NativeProduct)),
    )


def suits(config: DecoderConfig) -> bool:
    """Whether these widths are whole panels."""
    c = config
    widths = (c.hidden_size, c.intermediate_size, c.num_attention_heads * c.head_dim)
    kv = c.num_key_value_heads * c.head_dim
    return c.head_dim % PANEL == 0 and kv % PANEL == 0 and all(w % PANEL == 0 for w in widths)
