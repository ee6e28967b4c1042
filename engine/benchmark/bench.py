"""How fast the engine is on this machine: no HTTP, no processes, EngineCore.step() in a loop.

Regime. A frame is 80 ms of speech for each sequence of the batch. All sequences start together and
speak a fixed number of frames (the end token is ignored); prefill and the first WARM_UP frames are
not counted. "x real time" is the audio seconds that the whole batch makes per second. Random
weights have the speed of real ones: name a shape, or a checkpoint.

Parts. On a CPU they are timed inside the steps, and `rest` is what they leave: scheduling, copies,
bookkeeping. On a GPU a step is one recorded graph beside which the codec runs on a stream of its
own, so each part is timed by itself right after, by the device's clock around ALONE replays; they
may add up to more than the step. `rest` is then the host's own time in a step, which passes while
the device works. The predictor's part includes drawing codebook 0; the codec decodes chunks of the
last size of the ramp.

Beside each part stands its floor (roofline.py), for the bandwidth and the matrix rates that this
machine has, measured before. `share` is the floors' sum over the parts' sum.

    python -m engine.benchmark.bench --shape 0.6B --dtype bfloat16 --batch 1,8

A table; with --json one JSON document on the last line.
"""

import argparse
import json
import logging
import platform
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from engine.benchmark import roofline as floor
from engine.benchmark.steps import MODEL, PROMPT_TOKENS, WARM_UP, fits, measure, own_talker
from engine.config import EngineConfig, ModelSpec
from engine.core import EngineCore
from engine.dummy.checkpoint import write_random_checkpoint
from engine.engine_plan import choose_device
from engine.errors import EngineError
from engine.loader.checkpoint import resolve
from engine.protocol import Ready
from engine.startup import build

SHAPES = ("tiny-0b6", "tiny-1b7", "0.6B", "1.7B")
BATCHES = {"cpu": (1, 8), "cuda": (1, 8, 32, 64, 128)}
FRAMES = {"cpu": 24, "cuda": 100}
PARTS = ("talker", "predictor", "codec")


def floors(core: EngineCore, machine: floor.Machine, batch: int, frames: int) -> dict[str, float]:
    """Least seconds per step of each part."""
    runner, codec, weights = (
        own_talker(core).runners[MODEL],
        core.codecs[MODEL],
        core.config.quantization,
    )
    dtype, chunk = runner.kv_cache.dtype, core.config.chunk_ramp[-1]
    context = PROMPT_TOKENS / 2 + WARM_UP + frames / 2
    work = {
        "talker": floor.talker_work(runner.config, batch, context, dtype, weights),
        "predictor": floor.predictor_work(runner.config, batch, dtype, weights),
        "codec": floor.codec_work(codec.decoder.config, batch, chunk, codec.dtype),
    }
    return {name: part.least_s(machine) for name, part in work.items()}


def weights(net: torch.nn.Module) -> Iterator[torch.Tensor]:
    """Its own, and those that kernels took over."""
    yield from net.parameters()
    fused = [module.fused for module in net.modules() if getattr(module, "fused", None)]
    for one in fused:  # a product's (kernels/fused.py), or all convolutions' (kernels/codec.py)
        yield from (part.weight for part in getattr(one, "convs", [one]))


def memory(core: EngineCore, ready: Ready) -> dict[str, int]:
    """Bytes; `peak` is what torch had given out at most, `reserved` what it holds."""
    codec = core.codecs[MODEL]
    known = {"kv_cache": ready.kv_cache_bytes, "codec_state": codec.state.nbytes}
    if codec.device.type != "cuda":
        return known
    tensors = {}
    for net in (
        own_talker(core).runners[MODEL].talker,
        own_talker(core).runners[MODEL].predictor,
        codec.decoder,
    ):
        for tensor in weights(net):
            tensors[tensor.data_ptr()] = tensor.nbytes
    return known | {
        "weights": sum(tensors.values()),
        "peak": torch.cuda.max_memory_allocated(),
        "reserved": torch.cuda.memory_reserved(),
    }


def run(args: argparse.Namespace, spec: ModelSpec) -> dict[str, Any]:
    device = choose_device(EngineConfig(device=args.device))
    frames, batches = args.frames or FRAMES[device.type], args.batch or BATCHES[device.type]
    on_auto_gpu = device.type == "cuda" and not args.batch
    config = EngineConfig(
        device=args.device,
        dtype=args.dtype,
        quantization=args.quantization,
        kernels=args.kernels,
        cuda_graphs=not args.no_cuda_graphs,
        threads=args.threads,
        max_num_seqs="auto" if on_auto_gpu else max(batches),
        # The whole batch starts in one step; room for the chunks that are decoded on top.
        max_num_batched_tokens=max(512, PROMPT_TOKENS * max(batches)),
        max_model_len=1024 + frames,
    )
    resolve(spec)  # a wrong name is said before anything is measured
    machine = floor.measure_machine(device)  # before the KV cache takes the memory
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    print(describe(machine, device))
    core, ready = build(config, [spec])
    source = args.shape or args.checkpoint
    print(f"{source}, {ready.dtype}, quantization {args.quantization}\n\n{COLUMNS}", flush=True)
    rows = []
    for batch in batches:
        if not fits(ready, config, batch, frames):
            print(f"{batch:5d}  does not fit: {ready.num_rows} rows, {ready.num_blocks} KV blocks")
            continue
        row = measure(core, batch, frames)
        rows.append(row | {"floor_s": floors(core, machine, batch, frames)})
        print(as_line(rows[-1]), flush=True)
    used = memory(core, ready)
    print("\nGB: " + ", ".join(f"{name} {size / 1e9:.2f}" for name, size in used.items()))
    core.close()
    return {
        "benchmark": "engine.benchmark.bench",
        "model": source,
        "device": ready.device,
        "dtype": ready.dtype,
        "quantization": args.quantization,
        "kernels": own_talker(core).runners[MODEL].kernels,
        "cuda_graphs": own_talker(core).runners[MODEL].frames is not None,
        "threads": torch.get_num_threads(),
        "frames": frames,
        "load_s": ready.load_s,
        "machine": {"name": name_of(device), **asdict(machine)},
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "memory_bytes": used,
        "rows": rows,
    }


def name_of(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        return names[0] if names else platform.machine()
    return platform.machine()


def describe(machine: floor.Machine, device: torch.device) -> str:
    rates = ", ".join(f"{rate / 1e12:.3g} TFLOP/s {name}" for name, rate in machine.flop_s.items())
    return f"{name_of(device)}: reads {machine.bandwidth_bytes_s / 1e9:.0f} GB/s, {rates}"


COLUMNS = (
    "batch  ms/frame  x real time" + "".join(f"{part + '/floor':>16}" for part in PARTS)
) + "    rest  share"


def as_line(row: dict[str, Any]) -> str:
    split, least = row["split_s"], row["floor_s"]
    cells = [f"{split[part] * 1e3:.2f}/{least[part] * 1e3:.2f}" for part in PARTS]
    share = sum(least.values()) / sum(split[part] for part in PARTS)
    return (
        f"{row['batch']:5d} {row['step_s'] * 1e3:9.2f} {row['real_time']:12.2f}"
        + "".join(f"{cell:>16}" for cell in cells)
        + f"{split['rest'] * 1e3:8.2f} {share:6.0%}"
    )


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m engine.benchmark.bench", description=__doc__.splitlines()[0]
    )
    add = parser.add_argument
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--shape", choices=SHAPES, help="random weights of this shape")
    source.add_argument("--checkpoint", default="embedded", help="directory or Hugging Face id")
    add("--batch", type=lambda text: tuple(map(int, text.split(","))), help="such as 1,8,32")
    add("--frames", type=int, help="timed frames per sequence")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    add("--quantization", choices=("none", "int8", "int4", "auto"), default="none")
    add("--kernels", choices=("auto", "torch", "triton", "native"), default="auto")
    add("--no-cuda-graphs", action="store_true", help="launch every kernel anew")
    add("--threads", type=int, default=0, help="torch threads; 0 measures")
    add("--json", action="store_true", help="also print one JSON document, as the last line")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    args = parse(arguments)
    logging.basicConfig(format="%(message)s")
    logging.getLogger("engine.startup").setLevel("ERROR")  # random weights are no news here
    logging.getLogger("engine.accelerate").setLevel("INFO")  # on a GPU, how long that took
    try:
        with tempfile.TemporaryDirectory() as folder:
            spec = ModelSpec(id=MODEL, checkpoint=args.checkpoint)
            if args.shape:
                path = Path(folder) / args.shape
                write_random_checkpoint(
                    path, model_type="custom_voice", shape=args.shape, progress=True
                )
                spec = ModelSpec(id=MODEL, checkpoint=str(path))
            result = run(args, spec)
    except EngineError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    if args.json:
        print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
