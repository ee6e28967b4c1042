"""Which products of a checkpoint run in the fused kernel, chosen by measuring each kind among those
configurations that give plain torch's result here.

Layers' products of one kind (all qkv, all gate_up, ...) have one shape and share a choice. Up to
ROWS[-1] rows are fused where that is faster; more run the plain way, as large batches and long
prompts do. int8 weights have no plain way, so their products are always fused.
"""

import logging
import time

import torch
from torch import Tensor, nn

from engine.compare import ALLOWED, Measure, difference
from engine.kernels.linear import LinearConfig, fused_linear
from engine.kernels.tuning import Choice, candidates, choose, graph_seconds, shared_limit
from engine.layers.linear import Linear, quantise
from engine.layers.modules import Modules
from engine.layers.norm import RMSNorm
from engine.models.code_predictor import CodePredictor
from engine.models.qwen3_layer import Qwen3Layer
from engine.models.talker import Talker
from engine.protocol import Check

log = logging.getLogger(__name__)

# A configuration is chosen for each of these numbers of rows, and serves those below it.
ROWS = (16, 64)


class FusedLinear:
    """Linear.forward in one kernel, for the numbers of rows that have a configuration."""

    def __init__(self, linear: Linear, *, int8: bool = False) -> None:
        self.weight, self.scale, self.bias = linear.weight.data, None, linear.bias
        if int8:
            self.weight, self.scale = quantise(self.weight)
        self.by_rows: dict[int, LinearConfig | None] = {}

    def __call__(
        self, x: Tensor, norm: RMSNorm | None, gated: bool, residual: Tensor | None
    ) -> Tensor | None:
        num_rows = x.numel() // x.shape[-1]
        config = next((c for rows, c in self.by_rows.items() if num_rows <= rows), None)
        if config is None and self.scale is not None:
            config = list(self.by_rows.values())[-1]  # there is no plain weight: more programs
        if config is None:
            return None
        return self.run(config, x, norm, gated, residual)

    def run(
        self,
        config: LinearConfig,
        x: Tensor,
        norm: RMSNorm | None,
        gated: bool,
        residual: Tensor | None,
    ) -> Tensor:
        return fused_linear(
            x,
            self.weight,
            config,
            bias=self.bias,
            scale=self.scale,
            norm=None if norm is None else norm.weight,
            eps=0.0 if norm is None else norm.eps,
            gated=gated,
            residual=residual,
        )


# (linear, the norm before it, gated, whether a residual is added): what a call of it looks like.
Kind = list[tuple[Linear, RMSNorm | None, bool, bool]]


def kinds(talker: Talker, predictor: CodePredictor) -> dict[str, Kind]:
    """Products that share a shape and a use, by name."""
    found: dict[str, Kind] = {}
    nets: list[tuple[str, Modules[Qwen3Layer]]] = [
        ("talker", talker.layers),
        ("predictor", predictor.layers),
    ]
    for net, layers in nets:
        found[f"{net}.qkv"] = [(layer.qkv, layer.input_norm, False, False) for layer in layers]
        found[f"{net}.o"] = [(layer.o, None, False, True) for layer in layers]
        found[f"{net}.gate_up"] = [
            (layer.gate_up, layer.post_norm, True, False) for layer in layers
        ]
        found[f"{net}.down"] = [(layer.down, None, False, True) for layer in layers]
    found["predictor.heads"] = [(head, None, False, False) for head in predictor.heads]
    return found


def fuse_(
    talker: Talker,
    predictor: CodePredictor,
    max_rows: int,
    *,
    int8: bool = False,
    shared: int | None = None,
    measure: Measure = graph_seconds,
) -> list[Check]:
    """Measure every kind and set its choice; how these compare with plain torch. `int8`: the
    decoder layers' weights in 8 bits, the full ones dropped. `shared`: bytes of shared memory per
    program, asked of the device by default.
    """
    shared = shared_limit(talker.codec_embedding.device) if shared is None else shared
    checks = []
    for name, kind in kinds(talker, predictor).items():
        quantised = int8 and not name.endswith("heads")
        fused = [FusedLinear(linear, int8=quantised) for linear, *_ in kind]
        for rows in ROWS[: 1 + (max_rows > ROWS[0])]:
            started = time.monotonic()
            choice = _choose(kind, fused, rows, shared, measure)
            for one in fused:
                one.by_rows[rows] = choice.config
            checks.append(_check(f"{name}, {rows} rows", choice, kind))
            log.info(
                "%s, %d rows: %.1f us a product, %s (%.1f s)",
                *(name, rows, checks[-1].seconds * 1e6),
                *(choice.config or "plain", time.monotonic() - started),
            )
        for (linear, *_), one in zip(kind, fused, strict=True):
            linear.fused = one
            if quantised:
                linear.weight = nn.Parameter(linear.weight.new_empty(0), requires_grad=False)
    return checks


def _check(name: str, choice: Choice, kind: Kind) -> Check:
    """Of a single product. int8 weights have no plain time: nothing is slower than none."""
    number, dtype = len(kind), kind[0][0].weight.dtype
    name += f": {'torch' if choice.config is None else 'kernel'}"
    seconds, plain = choice.seconds / number, (choice.plain_seconds or choice.seconds) / number
    return Check(name, "", choice.gap, ALLOWED[dtype], seconds, plain)


def _choose(
    kind: Kind, fused: list[FusedLinear], rows: int, shared: int, measure: Measure
) -> Choice:
    linear, norm, gated, adds = kind[0]
    out_features, in_features = linear.weight.shape
    out_features //= 1 + gated
    x = linear.weight.new_empty(rows, in_features).normal_()
    residual = linear.weight.new_empty(rows, out_features).normal_()
    weight_dtype = fused[0].weight.dtype
    configs: list[LinearConfig | None] = list(
        candidates(rows, out_features, in_features, gated, x.dtype, shared, weight_dtype)
    )
    if weight_dtype != torch.int8:
        configs.append(None)

    def run(config: LinearConfig | None) -> None:
        for (linear, norm, gated, adds), one in zip(kind, fused, strict=True):
            added = residual if adds else None
            if config is None:
                linear(x, norm=norm, gated=gated, residual=added)
            else:
                one.run(config, x, norm, gated, added)

    added = residual if adds else None
    plain = _plainly(linear, fused[0])(x, norm=norm, gated=gated, residual=added)

    def gap(config: LinearConfig) -> float:
        return difference(fused[0].run(config, x, norm, gated, added), plain)

    return choose(run, configs, x.device, measure, gap, ALLOWED[x.dtype])


def _plainly(linear: Linear, fused: FusedLinear) -> Linear:
    """A plain product with the weight that `fused` has."""
    if fused.scale is None:
        return linear
    out_features, in_features = linear.weight.shape
    plain = Linear(in_features, out_features)
    weight = (fused.weight * fused.scale[:, None]).to(linear.weight.dtype)
    plain.weight, plain.bias = nn.Parameter(weight, requires_grad=False), linear.bias
    return plain
