"""Every figure a GPU is asked for, in one run of less than ten minutes, most wanted first.

    python3 -m benchmarks.gpu_bench

Random weights of the true shapes, which cost what trained ones do. Per shape and form of weights,
engine.benchmark.bench: ms per frame by batch and by part, beside the floor of this very GPU. Over
HTTP, against a real server in processes of its own: requests for 4 to 5 s of speech arrive as a
Poisson process at rising rates (`qtts load`). In the same run, on the same weights, the
official package and faster-qwen3-tts, one stream each, for they have no batches
(official_baseline.py).

Each part is a process and all share one deadline (parts.py); what is missing or does not fit is
skipped, and the report says why. Nothing needs installing on the GPU's machine: carry there, for
its version of Python and its own torch, what the server imports (on PYTHONPATH; the engine's
benchmark and gpu_check need msgspec of it) and the rivals (in --rivals, beside transformers 5 and
accelerate):

    make carry FOR=3.12 && PYTHONPATH=carry python3 -m benchmarks.gpu_bench
    pip install --no-deps --target rivals qwen-tts-hf faster-qwen3-tts

Writes JSON and the report to --out; on a GPU the report is entered in RESULTS.md too. `--device cpu
--shapes tiny-0b6 --quick` goes through all of it in a minute or two, for figures of no interest.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from importlib.machinery import PathFinder
from pathlib import Path

import torch

from benchmarks import gpu_report, logbook
from benchmarks.gpu_serve import Load, serve_and_load
from benchmarks.parts import Budget, Part, last_line, run_part
from engine.dummy.checkpoint import write_random_checkpoint
from qtts_openai.load import machine

PACKAGES = ("torch", "triton", "transformers", "numpy")
# What `qtts serve` imports, its dependencies' own dependencies with it.
SERVER = "import qtts_openai.app, qtts_openai.cli"
RIVALS = {"official": "qwen_tts", "faster": "faster_qwen3_tts"}
CARRY = "carry qwen-tts-hf and faster-qwen3-tts in --rivals"
LOADS = [Load(1, 20), Load(5, 12), Load(20, 12), Load(40, 12), Load(60, 12)]
QUICK_LOADS = [Load(1, 3), Load(2, 2)]


def main() -> int:
    args = parse(sys.argv[1:])
    budget, parts = Budget(60 * args.minutes), []
    about = machine.describe(*PACKAGES)
    print(f"{logbook.hardware(about)}: {args.minutes:g} minutes at most", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        paths = {shape: Path(folder) / shape for shape in args.shapes}
        write_checkpoints(paths)
        print(f"checkpoints written, {budget.left_s():.0f} s left", flush=True)
        for make in plan(args, paths):
            for part in make(budget):
                parts.append(part)
                print(f"{part.name}: {part.status} in {part.seconds:.0f} s {part.note}", flush=True)
    document = {
        "benchmark": "gpu_bench",
        **about,
        "options": {name: str(value) for name, value in vars(args).items()},
        "parts": [asdict(part) for part in parts],
    }
    report = gpu_report.section(document)
    file = args.out / f"gpu-{logbook.stamp()}.json"
    logbook.write_json(file, document)
    file.with_suffix(".md").write_text(report, "utf-8")
    if args.device == "cuda":
        logbook.append(report)
    print(f"\n{report}\n{file}")
    return 0 if any(part.status == "done" for part in parts) else 1


def write_checkpoints(paths: dict[str, Path]) -> None:
    with ProcessPoolExecutor(len(paths)) as pool:
        writing = [
            pool.submit(write_random_checkpoint, path, model_type="custom_voice", shape=shape)
            for shape, path in paths.items()
        ]
        for one in writing:
            one.result()


def plan(args: argparse.Namespace, paths: dict[str, Path]) -> list:
    """What to do, most wanted first: functions of the budget that give parts. The first shape is
    the one that is served and raced.
    """
    first, *others = args.shapes
    plain, *quantised = args.quantization

    def engine(shape: str, weights: str):
        return lambda budget: [engine_part(args, shape, paths[shape], weights, budget)]

    return [
        engine(first, plain),
        lambda budget: http_parts(args, paths[first], QUICK_LOADS if args.quick else LOADS, budget),
        lambda budget: [rival_part(args, name, first, paths[first], budget) for name in RIVALS],
        *(engine(shape, plain) for shape in others),
        *(engine(shape, weights) for weights in quantised for shape in args.shapes),
    ]


def engine_part(
    args: argparse.Namespace, shape: str, path: Path, weights: str, budget: Budget
) -> Part:
    command = [sys.executable, "-m", "engine.benchmark.bench", "--json"]
    command += ["--checkpoint", str(path), "--device", args.device, "--quantization", weights]
    command += ["--frames", str(args.frames), "--threads", str(args.threads)]
    command += ["--batch", args.batch] if args.batch else []
    # The first one compiles kernels, which triton then keeps.
    return run_part(f"engine {shape} {weights}", command, budget, least_s=args.least_s, most_s=300)


def http_parts(
    args: argparse.Namespace, path: Path, loads: list[Load], budget: Budget
) -> list[Part]:
    trial = subprocess.run([sys.executable, "-c", SERVER], capture_output=True, text=True)
    if trial.returncode:
        return [Part("http", "skipped", f"the server cannot run here: {last_line(trial.stderr)}")]
    return serve_and_load(path, args.device, loads, budget)


def rival_part(args: argparse.Namespace, name: str, shape: str, path: Path, budget: Budget) -> Part:
    title = f"rival {name} {shape}"
    python, environment = args.official or sys.executable, {}
    if args.rivals:
        before = os.environ.get("PYTHONPATH")
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(args.rivals), before]))
    if name == "faster" and args.device != "cuda":
        return Part(title, "skipped", "it needs a CUDA device")
    if not args.official:
        places = [str(args.rivals), *sys.path] if args.rivals else None
        absent = [n for n in {RIVALS["official"], RIVALS[name]} if not find(n, places)]
        if absent:
            return Part(title, "skipped", f"{absent[0]} is missing: {CARRY}")
    script = str(Path(__file__).with_name("official_baseline.py"))
    dtype = "bfloat16" if args.device == "cuda" else "float32"
    command = [python, script, str(path), "--implementation", name, "--device", args.device]
    command += ["--dtype", dtype, "--threads", str(args.threads or 1)]
    command += ["--frames", str(args.frames), "--runs", "1" if args.quick else "2"]
    return run_part(
        title, command, budget, least_s=args.least_s, most_s=150, environment=environment
    )


def find(module: str, places: list[str] | None) -> bool:
    return PathFinder.find_spec(module, places) is not None


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--device", choices=("cpu", "cuda"), default="cuda")
    add("--shapes", type=words, default=["1.7B", "0.6B"], help="the first is served and raced")
    add("--quantization", type=words, help="default: none,int8; on a CPU: none")
    add("--batch", help="default: 1,8,32,64,128 as far as they fit; on a CPU: 1,2")
    add("--frames", type=int, help="per timed sequence; default 100; --quick: 8")
    add("--threads", type=int, default=0)
    add("--minutes", type=float, default=9.5)
    add("--quick", action="store_true", help="few frames, low rates")
    add("--rivals", type=absolute, help="folder with unpacked wheels of the rivals")
    add("--official", help="another Python, which has the official package")
    add("--out", type=Path, default=logbook.FOLDER)
    args = parser.parse_args(arguments)
    on_gpu = args.device == "cuda"
    if on_gpu and not torch.cuda.is_available():
        parser.exit(1, "no CUDA device here; --device cpu --shapes tiny-0b6 --quick is a dry run\n")
    args.quantization = args.quantization or (["none", "int8"] if on_gpu else ["none"])
    args.batch = args.batch or (None if on_gpu else "1,2")
    args.frames = args.frames or (8 if args.quick else 100)
    args.least_s = 5 if args.quick else 30
    return args


def absolute(text: str) -> Path:
    return Path(text).resolve()


def words(text: str) -> list[str]:
    return text.split(",")


if __name__ == "__main__":
    sys.exit(main())
