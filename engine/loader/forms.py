"""Which form the weights of talker and predictor take on a device, one Linear at a time while they
are loaded, and on a CPU those of the codec decoder.

On a CPU with the compiled decoder (native/): its panels, activations in float32. On a CPU without:
torch's packed, int8 and int4 products. On a GPU the kernels bring their own forms (kernels/fused).
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from engine.config import EngineConfig, Quantization
from engine.errors import CheckpointError
from engine.layers.linear import Linear, WeightForm, can_pack, layer_forms, packed
from engine.loader import packed_cache
from engine.models.code_predictor import CodePredictor
from engine.models.codec_decoder import CodecDecoder
from engine.models.config import ModelConfig, TalkerConfig, layer_weights, read_config
from engine.models.talker import Talker
from engine.native import codec as native_codec
from engine.native import decoder as native

log = logging.getLogger(__name__)

# Of the 80 ms that a frame lasts: what talker and predictor may take, the codec taking the rest.
WEIGHTS_S = 0.045
# How far a sample of the compiled codec may be from the plain layers', on latents of about the
# usual size: trained nets are 1e-6 off, random ones may make 1e-3 of what is rounded otherwise,
# wrong code is far off.
MOST_OFF = 1e-2
Complete = Callable[[Linear], None]


def use_native(config: EngineConfig, device: torch.device) -> bool:
    """CheckpointError: it is asked for by name and cannot be had."""
    wanted = config.kernels == "native"
    if device.type != "cpu" or config.dtype == "bfloat16":
        if wanted:
            raise CheckpointError("engine.kernels native needs a CPU and engine.dtype float32")
        return False
    if config.kernels not in ("auto", "native"):
        return False
    if native.library() is None and wanted:
        raise CheckpointError(
            "engine.kernels is native, but the decoder has not been compiled for this machine: "
            "python -m engine.native.build"
        )
    return native.library() is not None


def choose_quantization(
    config: EngineConfig, device: torch.device, native_: bool, paths: list[Path]
) -> Quantization:
    """For "auto": int8 where reading a frame's weights in 16 bits takes longer than WEIGHTS_S."""
    if config.quantization != "auto":
        return config.quantization
    if device.type != "cpu" or not native_:
        return "none"
    nets = [read_config(path / "config.json", ModelConfig).talker_config for path in paths]
    frame_bytes = 2 * max(_frame_weights(c) for c in nets)
    seconds = frame_bytes * _seconds_per_byte()
    chosen: Quantization = "none" if seconds <= WEIGHTS_S else "int8"
    log.info(
        "quantization auto: a frame's weights in 16 bits take %.0f ms, of %.0f that real time "
        "leaves beside the codec: %s",
        *(seconds * 1e3, WEIGHTS_S * 1e3, chosen),
    )
    return chosen


def _frame_weights(c: TalkerConfig) -> int:
    """Weights that one frame multiplies with: the talker once, the predictor for each code."""
    passes, inner = c.num_code_groups - 1, c.code_predictor_config
    heads = passes * inner.vocab_size * inner.hidden_size
    return layer_weights(c) + passes * layer_weights(inner) + heads


@torch.inference_mode()
def _seconds_per_byte() -> float:
    """Of one row times a weight too large for a cache: the median of a few."""
    product = native.NativeProduct(native.pack(torch.zeros(16384, 2048), "bfloat16"))
    x, times = torch.zeros(1, 2048), []
    for _ in range(7):
        started = time.perf_counter()
        product(x)
        times.append(time.perf_counter() - started)
    return sorted(times)[len(times) // 2] / product.packed["weight"].nbytes


class Forms:
    def __init__(
        self,
        quantization: Quantization,
        dtype: torch.dtype,
        device: torch.device,
        *,
        native: bool,
        own_int8: bool = False,
    ) -> None:
        """`native`: the compiled decoder, where a checkpoint's widths suit it. `own_int8`: the
        device's kernels make int8 themselves.
        """
        self.quantization, self.dtype, self.device = quantization, dtype, device
        self.native, self.own_int8 = native, own_int8

    @contextmanager
    def of(self, weights: Path, talker: Talker, predictor: CodePredictor) -> Iterator[Complete]:
        """What to do with each Linear when its weight is there; at the end the nets are ready."""
        c = talker.config
        if self.native and native.suits(c) and native.suits(c.code_predictor_config):
            packing = _NativePacking(weights, self.quantization, talker, predictor)
            yield packing.complete
            packing.finish()
        elif self.device.type == "cpu":
            yield self._torch_form(talker, predictor)
        else:
            if self.quantization != "none" and not self.own_int8:
                raise CheckpointError(f"engine.quantization {self.quantization} needs a CPU")
            yield lambda linear: None

    def _torch_form(self, talker: Talker, predictor: CodePredictor) -> Complete:
        form = torch_form(self.quantization, self.dtype)
        if form is None:
            return lambda linear: None
        forms = layer_forms((talker, predictor), form)
        return lambda linear: linear.transform_(forms[linear])


def torch_form(quantization: Quantization, dtype: torch.dtype) -> WeightForm | None:
    """What torch has on a CPU for the weights of decoder layers; None: they stay plain."""
    if can_pack(dtype) and quantization == "none":
        return "packed"
    if can_pack(dtype) and dtype == torch.bfloat16:
        return "int8" if quantization == "int8" else "int4"
    if quantization == "none":
        return None
    raise CheckpointError(
        f"engine.quantization {quantization} needs the own engine's compiled decoder (python -m "
        "engine.native.build), or a CPU with bfloat16 and engine.dtype bfloat16"
    )


class _NativePacking:
    """Panels for one checkpoint, from the cache where they are there."""

    def __init__(
        self, weights: Path, quantization: Quantization, talker: Talker, predictor: CodePredictor
    ) -> None:
        self.quantization, self.talker, self.predictor = quantization, talker, predictor
        self.names = {
            id(module): f"{label}.{name}"
            for label, net in (("talker", talker), ("predictor", predictor))
            for name, module in net.named_modules()
            if isinstance(module, Linear) and native.fits(module.weight)
        }
        self.file = packed_cache.cache_file(weights, quantization)
        kept = packed_cache.read(self.file) if self.file else {}
        self.is_cached = bool(kept)
        for module in self._linears() if kept else []:
            prefix = self.names[id(module)] + "."
            module.product = native.NativeProduct(
                {
                    name.removeprefix(prefix): tensor
                    for name, tensor in kept.items()
                    if name.startswith(prefix)
                }
            )

    def _linears(self) -> list[Linear]:
        return [
            module
            for net in (self.talker, self.predictor)
            for module in net.modules()
            if isinstance(module, Linear) and id(module) in self.names
        ]

    def complete(self, linear: Linear) -> None:
        name = self.names.get(id(linear))
        if name is not None:
            linear.replace_(native.NativeProduct(native.pack(linear.weight.data, self._form(name))))

    def _form(self, name: str) -> native.Form | None:
        """The predictor's heads have at least 8 bits; what stands outside the layers is whole."""
        if self.quantization not in ("int8", "int4"):
            return None
        if name.startswith("predictor.heads."):
            return "int8"
        return self.quantization if ".layers." in name else None

    def finish(self) -> None:
        for linear in self._linears():
            assert linear.product is not None
            linear.replace_(linear.product)  # those from the cache still have their empty weight
        # The talker's tables are the file's own pages already.
        self.predictor.codec_embedding = _in_few_bits(self.predictor.codec_embedding)
        for net in (self.talker, self.predictor):
            net.whole = native.NativeDecoder(net.config, net.layers, net.norm)
        if self.file is not None and not self.is_cached:
            packed_cache.write(self.file, self._tensors())

    def _tensors(self) -> dict[str, torch.Tensor]:
        return {
            f"{self.names[id(linear)]}.{part}": tensor
            for linear in self._linears()
            if isinstance(linear.product, native.NativeProduct)
            for part, tensor in linear.product.packed.items()
        }


def _in_few_bits(table: nn.Parameter) -> nn.Parameter:
    """In bfloat16, if that holds the same values."""
    few = table.data.bfloat16()
    return nn.Parameter(few, requires_grad=False) if bool((few == table).all()) else table


def pack_codec_(decoder: CodecDecoder, *, compiled: bool) -> None:
    """Into the CPU's own layouts; with compiled convolutions where they are allowed and right."""
    pack = packed
    if compiled and native.library() is not None:
        pack, convolutions = native.product, native_codec.NativeConvolutions(decoder)
        off = native_codec.difference(convolutions, decoder)
        if off <= MOST_OFF:
            decoder.use_kernels_(convolutions)
        else:
            log.warning("the codec's compiled convolutions differ by %g and are left out", off)
    if can_pack(torch.float32):
        decoder.pack_(pack)
