"""Which configuration a product runs with: the fastest of a handful, by measurement.

What is fastest depends on the GPU, on the shape and on the batch, in ways that no rule here would
foresee; a measurement takes milliseconds once the candidates are compiled (triton keeps those on
disk). With the plain path among the candidates, the answer is never slower than that.
"""

import logging
import statistics
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import torch
from triton.runtime.errors import OutOfResources

from engine.compare import Measure, reason
from engine.kernels.linear import LinearConfig

log = logging.getLogger(__name__)

WARM_UPS = 3
REPLAYS = 20
STAGES = 4  # steps in flight, where shared memory has room for them

# block_m: (block_n, block_k, num_warps). Small block_n for more programs than the GPU has
# processors, large for less work per weight; the rest is what kept registers from spilling.
SHAPES = {
    16: ((8, 256, 4), (16, 256, 4), (16, 512, 8), (32, 128, 4), (32, 256, 8)),
    32: ((8, 256, 8), (16, 256, 8), (32, 128, 4), (32, 256, 8)),
    64: ((16, 128, 8), (16, 256, 8), (32, 128, 8)),
}


class Choice(NamedTuple):
    config: LinearConfig | None  # None: the plain path
    seconds: float  # of one run
    plain_seconds: float = 0.0  # of the plain path's, if there is one
    gap: float = 0.0


Run = Callable[[LinearConfig | None], None]
# How far a configuration's result is from the plain one's.
Gap = Callable[[LinearConfig], float]


def shared_limit(device: torch.device) -> int:
    """Bytes of shared memory that one program may take."""
    properties = torch.cuda.get_device_properties(device)
    # torch has it, its type stubs do not.
    return int(getattr(properties, "shared_memory_per_block_optin"))  # noqa: B009


def candidates(
    M: int,
    N: int,
    K: int,
    gated: bool,
    dtype: torch.dtype,
    shared: int,
    weight_dtype: torch.dtype | None = None,
) -> list[LinearConfig]:
    """Configurations worth measuring for x [M, K] in `dtype` and N output channels (gated: N
    pairs), on a device with `shared` bytes of shared memory per program.
    """
    block_m = next((b for b in SHAPES if b >= M), max(SHAPES))
    shapes = [s for s in SHAPES[block_m] if s[0] > 8 or N <= 4096]  # enough programs as it is
    # A step that does not divide K wastes loads, unless there is no other.
    shapes = [s for s in shapes if K % s[1] == 0] or shapes
    configs = []
    for block_n, block_k, num_warps in shapes:
        for stages in range(STAGES, 1, -1):
            config = LinearConfig(block_m, block_n, block_k, num_warps, stages)
            if footprint(config, gated, dtype, weight_dtype or dtype) <= shared:
                configs.append(config)
                break
    return configs


def footprint(
    config: LinearConfig, gated: bool, dtype: torch.dtype, weight_dtype: torch.dtype
) -> int:
    """Upper bound of the shared memory of one program in bytes; what it needs after the loop lies
    where the tiles were.
    """
    rows = config.block_m * config.block_k * dtype.itemsize
    norm = config.block_k * dtype.itemsize
    weights = config.block_n * config.block_k * weight_dtype.itemsize * (2 if gated else 1)
    # One more tile of rows: normalised rows change hands through shared memory in triton 3.6.
    tiles = (config.num_stages - 1) * (rows + norm + weights) + rows
    sums = config.num_warps * config.block_m * config.block_n * 4
    return max(tiles, sums) + 1024


def graph_seconds(work: Callable[[], object], device: torch.device) -> float:
    """Median time of `work` replayed as a CUDA graph, as decoding runs it: no launch is waited
    for. The warm-ups before compile what has to be compiled.
    """
    with torch.cuda.device(device):
        for _ in range(WARM_UPS):
            work()
        torch.cuda.synchronize()
        replay = _recorded(work)
        replay()
        return statistics.median(_seconds(replay) for _ in range(REPLAYS))


def _recorded(work: Callable[[], object]) -> Callable[[], object]:
    """`work` itself where a graph cannot be recorded."""
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            work()
    except RuntimeError as error:
        log.debug("timed without a graph: %s", error)
        return work
    return graph.replay


def _seconds(work: Callable[[], object]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    work()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def choose(
    run: Run,
    configs: Iterable[LinearConfig | None],
    device: torch.device,
    measure: Measure = graph_seconds,
    gap: Gap = lambda config: 0.0,
    allowed: float = 0.0,
) -> Choice:
    """The fastest of `configs`, where None is the plain path. ValueError: none fits the device.
    What does not run here, or has a `gap` beyond `allowed`, is left out with a warning.

    run(config) passes once over all the layers' products of one kind, so that weights come from
    memory as in decoding and not from the cache.
    """
    choices = []
    for config in configs:
        try:
            found = 0.0 if config is None else gap(config)
            if not found <= allowed:
                log.warning("%s is left out: it differs from torch by %.2g", config, found)
                continue
            choices.append(Choice(config, measure(partial(run, config), device), gap=found))
        except OutOfResources as error:
            log.debug("%s does not fit %s: %s", config, device, error)
        except Exception as error:  # whatever compiler and driver raise
            log.warning("%s is left out on %s: %s", config or "plain torch", device, reason(error))
    if not choices:
        raise ValueError(f"no configuration of the product fits {device}")
    best = min(choices, key=lambda choice: choice.seconds)
    log.debug("%s: %s of %d choices", device, best, len(choices))
    plain = next((choice.seconds for choice in choices if choice.config is None), 0.0)
    return best._replace(plain_seconds=plain)
