"""How fast the engine itself is: no HTTP, no processes, EngineCore.step() in a loop.

Regime. Every sequence speaks a fixed number of frames (EOS is ignored), all start together, and
only steps in which the whole batch decodes are timed; the first WARM_UP of them are dropped. Random
weights of the true shapes have the speed of the real ones, so no download is needed: name a shape
("tiny-0b6", "0.6B", "1.7B") or a checkpoint directory.

A frame is 80 ms of speech for each sequence of the batch. "x real time" is audio seconds made per
second by the whole batch. The split is measured by timing the parts from outside; "rest" is
scheduling, sampling of codebook 0, bookkeeping. The floor of a step is, part by part, the larger of
weight bytes over the measured read bandwidth and arithmetic over the measured matrix throughput of
this machine, in the dtype in use; `share` is floor / measured.

    python -m benchmarks.bench_engine --shape 0.6B --dtype bfloat16 --batch 1,8 --frames 24

A table for people, then one JSON document on the last line.
"""

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from engine.config import EngineConfig, ModelSpec
from engine.core import EngineCore
from engine.models.config import DecoderConfig, TalkerConfig
from engine.protocol import FRAME_S, Prompt, SamplingParams, Submit
from engine.random_checkpoint import write_random_checkpoint
from engine.startup import build

WARM_UP = 4
SHAPES = ("tiny-0b6", "tiny-1b7", "0.6B", "1.7B")


class Stopwatch:
    """Seconds spent inside wrapped methods, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def wrap(self, owner: Any, method: str, name: str) -> None:
        inner: Callable = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return inner(*args, **kwargs)
            finally:
                spent = time.perf_counter() - started
                self.seconds[name] = self.seconds.get(name, 0.0) + spent

        setattr(owner, method, timed)


def measure_machine(dtype: torch.dtype) -> dict[str, float]:
    """Read bandwidth (bytes/s) of summing 1 GB, and FLOP/s of matrix products in `dtype`."""
    numbers = torch.ones(1 << 28)
    read = best_of(5, numbers.sum)
    a = torch.randn(2048, 2048).to(dtype)
    product = best_of(5, lambda: a @ a)
    return {"bandwidth_bytes_s": numbers.nbytes / read, "flop_s": 2 * 2048**3 / product}


def best_of(times: int, run: Callable[[], Any]) -> float:
    seconds = []
    for _ in range(times + 1):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])


def layer_weights(c: DecoderConfig) -> int:
    """Weights of a net's decoder layers that every pass multiplies with."""
    heads = (2 * c.num_attention_heads + 2 * c.num_key_value_heads) * c.head_dim
    return c.num_hidden_layers * c.hidden_size * (heads + 3 * c.intermediate_size)


def floor_s(
    c: TalkerConfig, batch: int, dtype: torch.dtype, machine: dict[str, float]
) -> dict[str, float]:
    """Least seconds per step of each net: weights read, or arithmetic done, whichever is longer."""

    def least(num_read: int, num_multiplied: int) -> float:
        read = num_read * dtype.itemsize / machine["bandwidth_bytes_s"]
        return max(read, 2 * batch * num_multiplied / machine["flop_s"])

    inner, passes = c.code_predictor_config, c.num_code_groups - 1
    talker = layer_weights(c) + c.vocab_size * c.hidden_size
    layers, heads = layer_weights(inner), passes * inner.vocab_size * inner.hidden_size
    return {
        "talker": least(talker, talker),
        "predictor": least(passes * layers + heads, (passes + 1) * layers + heads),
    }


def measure(core: EngineCore, batch: int, frames: int) -> dict[str, Any]:
    """Seconds per step of a full batch, and where they went."""
    (model,) = core.runners
    runner, codec = core.runners[model], core.codecs[model]
    watch = Stopwatch()
    with patched(runner, "_feed_back"), patched(runner, "_speak"), patched(codec, "_advance"):
        watch.wrap(runner, "_feed_back", "talker")
        watch.wrap(runner, "_speak", "predictor")
        watch.wrap(codec, "_advance", "codec")
        submit_all(core, model, batch, frames + WARM_UP)
        for _ in range(WARM_UP):
            core.step()
        assert core.num_steps and len(core.scheduler.running) == batch
        watch.seconds.clear()
        made, started = core.num_frames, time.perf_counter()
        while len(core.scheduler.running) == batch:
            core.step()
        elapsed = time.perf_counter() - started
    steps = (core.num_frames - made) / batch
    split = {
        name: watch.seconds.get(name, 0.0) / steps for name in ("talker", "predictor", "codec")
    }
    split["rest"] = elapsed / steps - sum(split.values())
    return {"step_s": elapsed / steps, "split_s": split}


@contextmanager
def patched(owner: Any, method: str):
    yield
    delattr(owner, method)


def submit_all(core: EngineCore, model: str, batch: int, frames: int) -> None:
    speakers = core.checkpoints[model].info.speakers
    rows = list(speakers.values()) or [0]
    for i in range(batch):
        prompt = Prompt(
            role=(0, 1, 2), text=tuple(range(10, 40)), speakers=((rows[i % len(rows)], 1.0),)
        )
        params = SamplingParams(max_new_tokens=frames + 1, ignore_eos=True, seed=i)
        core.add(Submit(i, model, prompt, params))


def run(args: argparse.Namespace, path: Path) -> dict[str, Any]:
    rows, machine = [], {}
    for batch in args.batch:
        config = EngineConfig(
            device=args.device,
            dtype=args.dtype,
            weights=args.weights,
            max_num_seqs=batch,
            max_tokens=1024,
            threads=args.threads,
        )
        core, ready = build(config, [ModelSpec(id="m", checkpoint=str(path))])
        machine = machine or measure_machine(getattr(torch, ready.dtype))
        with torch.inference_mode():
            row = measure(core, batch, args.frames)
        row |= {"batch": batch, "real_time": batch * FRAME_S / row["step_s"]}
        row["floor_s"] = floor_s(
            core.runners["m"].config, batch, getattr(torch, ready.dtype), machine
        )
        rows.append(row)
        print_row(row)
        core.close()
        del core
    return {
        "benchmark": "bench_engine",
        "shape": args.shape or str(args.checkpoint),
        "dtype": ready.dtype,
        "weights": args.weights,
        "device": ready.device,
        "threads": torch.get_num_threads(),
        "frames": args.frames,
        "machine": machine | {"cpu": cpu_name(), "python": platform.python_version()},
        "torch": torch.__version__,
        "rows": rows,
    }


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), "unknown")


COLUMNS = "batch  ms/frame  x real time   talker  predictor    codec     rest   floor t+p   share"


def print_row(row: dict[str, Any]) -> None:
    split, floor = row["split_s"], sum(row["floor_s"].values())
    share = floor / (split["talker"] + split["predictor"])
    numbers = (row["step_s"], *(split[k] for k in ("talker", "predictor", "codec", "rest")), floor)
    step, *parts = (1000 * seconds for seconds in numbers)
    print(
        f"{row['batch']:5d} {step:9.1f} {row['real_time']:12.2f} {parts[0]:8.1f} {parts[1]:10.1f}"
        f" {parts[2]:8.1f} {parts[3]:8.1f} {parts[4]:11.1f} {share:7.0%}",
        flush=True,
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--shape", choices=SHAPES, help="random weights of this shape")
    source.add_argument("--checkpoint", type=Path, help="a CustomVoice checkpoint directory")
    parser.add_argument(
        "--batch", type=lambda text: [int(n) for n in text.split(",")], default=[1, 2, 4, 8, 16, 32]
    )
    parser.add_argument("--frames", type=int, default=24, help="timed frames per sequence")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--weights", choices=("full", "int8", "int4"), default="full")
    parser.add_argument("--threads", type=int, default=0, help="torch threads; 0 measures")
    return parser.parse_args()


def main() -> int:
    args = arguments()
    print(COLUMNS)
    if args.checkpoint:
        result = run(args, args.checkpoint)
    else:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / args.shape
            write_random_checkpoint(
                path, model_type="custom_voice", shape=args.shape, progress=True
            )
            result = run(args, path)
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
