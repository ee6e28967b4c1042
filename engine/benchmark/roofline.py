"""The least time a frame can take on a machine: part by part, bytes that must be read over the
memory's bandwidth, or arithmetic over the matrix rate, whichever takes longer.

A frame (80 ms of speech) is one pass of the talker, fifteen of the code predictor and a share of
one codec chunk. Weights are read once per pass whatever the batch; arithmetic and keys and values
grow with it. Activations are left out, and so is everything that a cache may keep: a small model
can be faster than its floor.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from engine.layers.rotary import RotaryTable
from engine.loader.memory import geometry, token_bytes
from engine.models.codec_decoder import CodecDecoder
from engine.models.config import CodecDecoderConfig, TalkerConfig, layer_weights

READ_BYTES = 1 << 29
SIDES = {"cpu": 2048, "cuda": 8192}  # of the square matrices that are multiplied
# A longer product is not made eight times as long by doubling its sides.
MAX_PRODUCT_S = 0.05
REPEATS = {"cpu": 1, "cuda": 20}  # a GPU gets many before the first one is waited for
# Bytes of one weight of the decoder layers, where they are not in the model's dtype.
WEIGHT_BYTES = {"int8": 1.0, "int4": 0.5}


@dataclass(frozen=True)
class Machine:
    """`flop_s`: of matrix products, by dtype."""

    bandwidth_bytes_s: float
    flop_s: dict[str, float]


@dataclass(frozen=True)
class Work:
    """Of one part in one step."""

    read_bytes: float
    flop: float
    dtype: str

    def least_s(self, machine: Machine) -> float:
        return max(
            self.read_bytes / machine.bandwidth_bytes_s, self.flop / machine.flop_s[self.dtype]
        )


def measure_machine(device: torch.device) -> Machine:
    """Bandwidth of summing and of copying half a gigabyte, the better one; rates in both dtypes."""
    numbers = torch.ones(READ_BYTES // 4, device=device)
    target = torch.empty_like(numbers)
    read = READ_BYTES / seconds(numbers.sum, device)
    copied = 2 * READ_BYTES / seconds(lambda: target.copy_(numbers), device)
    dtypes = (torch.bfloat16, torch.float32)
    return Machine(max(read, copied), {name_of(dtype): flop_s(dtype, device) for dtype in dtypes})


def flop_s(dtype: torch.dtype, device: torch.device) -> float:
    """Of the product of two square matrices. A CPU without bfloat16 is a thousand times slower at
    it; there the matrices stay small.
    """
    side, found = SIDES[device.type], 0.0
    small = min(side, 128)
    while small <= side:
        a = torch.randn(small, small, device=device).to(dtype)
        took = seconds(partial(torch.matmul, a, a), device)
        found = max(found, 2 * small**3 / took)
        if took > MAX_PRODUCT_S:
            break
        small *= 2
    return found


def seconds(run: Callable[[], Any], device: torch.device, times: int = 5) -> float:
    """Of one run: the best of `times`, after one that does not count."""
    found, repeats = [], REPEATS[device.type]
    for _ in range(times + 1):
        wait(device)
        started = time.perf_counter()
        for _ in range(repeats):
            run()
        wait(device)
        found.append((time.perf_counter() - started) / repeats)
    return min(found[1:])


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def talker_work(
    c: TalkerConfig, batch: int, context: float, dtype: torch.dtype, weights: str
) -> Work:
    """`context`: KV positions that a sequence has, on average."""
    layers, head = layer_weights(c), c.vocab_size * c.hidden_size
    read = layers * WEIGHT_BYTES.get(weights, dtype.itemsize) + head * dtype.itemsize
    read += batch * context * token_bytes(geometry(c), dtype)
    attention = 4 * context * c.num_hidden_layers * c.num_attention_heads * c.head_dim
    return Work(read, batch * (2 * (layers + head) + attention), name_of(dtype))


def predictor_work(c: TalkerConfig, batch: int, dtype: torch.dtype, weights: str) -> Work:
    """Fifteen passes, the first over two positions, and a head of its own for each."""
    inner, passes = c.code_predictor_config, c.num_code_groups - 1
    layers, heads = layer_weights(inner), passes * inner.vocab_size * inner.hidden_size
    narrow = inner.hidden_size != c.hidden_size
    projection = c.hidden_size * inner.hidden_size if narrow else 0
    read = passes * layers * WEIGHT_BYTES.get(weights, dtype.itemsize)
    read += (passes * projection + heads) * dtype.itemsize
    flop = 2 * batch * ((passes + 1) * (layers + projection) + heads)
    return Work(read, flop, name_of(dtype))


def codec_work(c: CodecDecoderConfig, batch: int, chunk: int, dtype: torch.dtype) -> Work:
    """One frame's share of a chunk of `chunk` frames."""
    flop, num_weights = _codec_counts(c, chunk)
    return Work(num_weights * dtype.itemsize / chunk, batch * flop, name_of(dtype))


@cache
def _codec_counts(c: CodecDecoderConfig, chunk: int) -> tuple[float, int]:
    """Operations per frame, and weights: counted by running the decoder without data, for its
    convolutions have no short formula.
    """
    nowhere = torch.device("meta")
    with nowhere, torch.inference_mode():
        decoder = CodecDecoder(c)
        codes = torch.zeros(1, chunk, c.num_quantizers, dtype=torch.int64)
        state = {name: torch.zeros(1, *shape) for name, shape in decoder.state_shapes().items()}
        rotary = RotaryTable(c.head_dim, c.rope_theta, chunk, torch.float32, nowhere)
        with FlopCounterMode(display=False) as counter:
            decoder(codes, torch.zeros(1, dtype=torch.int64), state, rotary)
    num_weights = sum(weight.numel() for weight in decoder.parameters())
    return counter.get_total_flops() / chunk, num_weights
