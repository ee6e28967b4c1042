"""Decoder layers alone on a CPU: torch's packed products beside the compiled decoder's forms.

The code predictor's five layers of the published shape (79 M weights), all with the values of one
random layer; one pass over so many rows, each a sequence of its own at position 3. CPU time of one
thread, so that neighbours on the machine disturb less than in wall time: medians of passes that the
forms take in turns.

    python -m benchmarks.cpu_layers --rows 1,4,8,46

A table of ms per pass; the last line is one JSON document with `ratio`, packed over each form.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from engine.layers.attention import TokenBatch
from engine.layers.linear import can_pack, packed
from engine.layers.modules import Modules
from engine.layers.norm import RMSNorm
from engine.layers.rotary import RotaryTable
from engine.models.code_predictor import DensePass
from engine.models.config import DecoderConfig
from engine.models.qwen3_layer import Qwen3Layer
from engine.native.decoder import FORMS, Form, NativeDecoder, NativeProduct, library, pack

SHAPE = DecoderConfig(
    hidden_size=1024,
    intermediate_size=3072,
    num_hidden_layers=5,
    num_attention_heads=16,
    num_key_value_heads=8,
    head_dim=128,
    vocab_size=2048,
)
PRODUCTS = ("qkv", "o", "gate_up", "down")
Pass = Callable[[Tensor], Tensor]


@cache
def values() -> dict[str, Tensor]:
    torch.manual_seed(0)
    layer = Qwen3Layer(SHAPE)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.02 if parameter.shape[-1] >= 1024 else 1.0)
    return {name: tensor.bfloat16().float() for name, tensor in layer.state_dict().items()}


@cache
def make_layers(form: Form | None) -> tuple[Modules[Qwen3Layer], RMSNorm]:
    """None: torch's packed products, or plain ones where this CPU has none."""
    layers = Modules(Qwen3Layer(SHAPE) for _ in range(SHAPE.num_hidden_layers))
    norm = RMSNorm(SHAPE.hidden_size, eps=SHAPE.rms_norm_eps)
    norm.weight.data.fill_(1)
    for layer in layers:
        layer.load_state_dict(values())
        for linear in (getattr(layer, name) for name in PRODUCTS):
            if form is not None:
                linear.replace_(NativeProduct(pack(linear.weight.data, form)))
            elif can_pack(torch.float32):
                linear.replace_(packed(linear.weight.data))
    return layers, norm


def torch_pass(rows: int, rotary: RotaryTable) -> Pass:
    layers, norm = make_layers(None)
    cpu = torch.device("cpu")
    scratch = DensePass.scratch(SHAPE, rows, 16, torch.float32, cpu)
    batch = DensePass(rotary, rows, 3, 4)

    def run(x: Tensor) -> Tensor:
        for layer, kv in zip(layers, scratch, strict=True):
            x = layer(x, lambda qkv, norm, kv=kv: batch.attend(qkv, norm, kv))
        return norm(x)

    return run


def native_pass(rows: int, rotary: RotaryTable, form: Form) -> Pass:
    whole = NativeDecoder(SHAPE, *make_layers(form))
    cache = torch.zeros(5, 2, rows, 16, SHAPE.num_key_value_heads, SHAPE.head_dim)
    at = torch.arange(rows)
    batch = TokenBatch(rotary, at, torch.full((rows,), 3), at * 16 + 3, at[:, None])
    return lambda x: whole(x, cache, batch)


@torch.inference_mode()
def measure(rows: int, times: int) -> dict[str, float]:
    """Median CPU ms of a pass, by form."""
    rotary = RotaryTable(SHAPE.head_dim, SHAPE.rope_theta, 16, torch.float32, torch.device("cpu"))
    passes = {"packed": torch_pass(rows, rotary)}
    passes |= {form: native_pass(rows, rotary, form) for form in FORMS}
    x, spent = torch.randn(rows, SHAPE.hidden_size), {name: [] for name in passes}
    for _ in range(times + 1):
        for name, run in passes.items():
            started = time.thread_time()
            run(x)
            spent[name].append(1e3 * (time.thread_time() - started))
    return {name: statistics.median(found[1:]) for name, found in spent.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=lambda t: [int(n) for n in t.split(",")], default=[1, 8])
    parser.add_argument("--times", type=int, default=9)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if library() is None:
        return 1
    print("rows  " + "".join(f"{name:>10}" for name in ("packed", *FORMS)) + "   ms, one thread")
    rows = []
    for number in args.rows:
        ms = measure(number, args.times)
        rows.append({"rows": number, "ms": ms, "ratio": {n: ms["packed"] / ms[n] for n in FORMS}})
        print(f"{number:4}  " + "".join(f"{value:10.2f}" for value in ms.values()), flush=True)
    print(json.dumps({"benchmark": "cpu_layers", "rows": rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
