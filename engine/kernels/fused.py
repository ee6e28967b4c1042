"""Which products of a checkpoint run in the fused kernel, chosen by measuring each kind among those
configurations that give plain torch's result here.

Layers' products of one kind (all qkv, all gate_up, ...) have one shape and share a choice. Up to
ROWS[-1] rows are fused where that is faster; more run the plain way, as large batches and long
prompts do. int8 weights have no plain way, so their products are always fused.
"""

import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import triton
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
        *,
        compile_only: bool = False,
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
            compile_only=compile_only,
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

    def trials(name: str, kind: Kind) -> list[_Trial]:
        quantised = int8 and not name.endswith("heads")
        fused = [FusedLinear(linear, int8=quantised) for linear, *_ in kind]
        counts = ROWS[: 1 + (max_rows > ROWS[0])]
        return [_Trial(f"{name}, {rows} rows", kind, fused, rows, shared) for rows in counts]

    started, checks = time.monotonic(), []
    _compile(
        [
            trial
            for name, kind in kinds(talker, predictor).items()
            for trial in trials(name, kind[:1])
        ]
    )
    log.info("products compiled in %.1f s", time.monotonic() - started)
    for name, kind in kinds(talker, predictor).items():
        tried = trials(name, kind)
        checks += [trial.choose(measure) for trial in tried]
        for (linear, *_), one in zip(kind, tried[0].fused, strict=True):
            linear.fused = one
            if one.scale is not None:
                linear.weight = nn.Parameter(linear.weight.new_empty(0), requires_grad=False)
    return checks


@dataclass
class _Trial:
    """Products of one kind, at one number of rows, with random inputs."""

    name: str
    kind: Kind
    fused: list[FusedLinear]
    rows: int
    shared: int
    x: Tensor = field(init=False)
    residual: Tensor | None = field(init=False)
    configs: list[LinearConfig] = field(init=False)

    def __post_init__(self) -> None:
        linear, _, gated, adds = self.kind[0]
        out_features, in_features = linear.weight.shape
        out_features //= 1 + gated
        new = linear.weight.new_empty
        self.x = new(self.rows, in_features).normal_()
        self.residual = new(self.rows, out_features).normal_() if adds else None
        weight_dtype = self.fused[0].weight.dtype
        self.configs = candidates(
            self.rows, out_features, in_features, gated, self.x.dtype, self.shared, weight_dtype
        )

    def choose(self, measure: Measure) -> Check:
        """Set the fastest configuration; how it compares with plain torch."""
        started, device = time.monotonic(), self.x.device
        linear, norm, gated, _ = self.kind[0]
        first, has_plain = self.fused[0], self.fused[0].scale is None
        plain = _plainly(linear, first)(self.x, norm=norm, gated=gated, residual=self.residual)

        def gap(config: LinearConfig) -> float:
            return difference(first.run(config, self.x, norm, gated, self.residual), plain)

        configs = [*self.configs, *([None] if has_plain else [])]
        choice = choose(self.run, configs, device, measure, gap, ALLOWED[self.x.dtype])
        for one in self.fused:
            one.by_rows[self.rows] = choice.config
        check = self._check(choice)
        log.info(
            "%s: %.1f us a product, %s (%.1f s)",
            *(self.name, check.seconds * 1e6),
            *(choice.config or "plain", time.monotonic() - started),
        )
        return check

    def run(self, config: LinearConfig | None) -> None:
        for (linear, norm, gated, _), one in zip(self.kind, self.fused, strict=True):
            if config is None:
                linear(self.x, norm=norm, gated=gated, residual=self.residual)
            else:
                one.run(config, self.x, norm, gated, self.residual)

    def _check(self, choice: Choice) -> Check:
        """Of a single product. int8 weights have no plain time: nothing is slower than none."""
        number, name = len(self.kind), f"{self.name}: {'kernel' if choice.config else 'torch'}"
        seconds, plain = choice.seconds / number, (choice.plain_seconds or choice.seconds) / number
        return Check(name, "", choice.gap, ALLOWED[self.x.dtype], seconds, plain)


def _compile(trials: list[_Trial]) -> None:
    """All that will be tried, on all cores: one after the other it takes a minute. What cannot be
    compiled says so when its turn comes.
    """
    pool = ThreadPoolExecutor(os.cpu_count())
    with pool, triton.AsyncCompileMode(pool, ignore_errors=True):
        for trial in trials:
            _, norm, gated, _ = trial.kind[0]
            for config in trial.configs:
                trial.fused[0].run(config, trial.x, norm, gated, trial.residual, compile_only=True)


def _plainly(linear: Linear, fused: FusedLinear) -> Linear:
    """A plain product with the weight that `fused` has."""
    if fused.scale is None:
        return linear
    out_features, in_features = linear.weight.shape
    plain = Linear(in_features, out_features)
    weight = (fused.weight * fused.scale[:, None]).to(linear.weight.dtype)
    plain.weight, plain.bias = nn.Parameter(weight, requires_grad=False), linear.bias
    return plain
