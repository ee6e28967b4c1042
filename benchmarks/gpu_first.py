"""The first five minutes on a GPU: does it run, is it equal, how fast is it, beside whom.

    OUT=folder python3 -m benchmarks.gpu_first

For a machine that is lent for minutes and keeps nothing. Each step is a process of its own with a
time limit; its output goes to OUT as it comes and its result when it ends, so that what was learnt
survives a later step, and a failing step (full traceback in its .log) does not stop the next:

    1 frames    import, compile, each kernel beside plain torch, as start-up checks it; an
                utterance by plain torch, kernels and graphs; first difference; what each compiled
                kernel takes
    2 goldens   the official package's codes in float32, by kernels and graphs (tests/gpu)
    3 engine    ms per frame by batch and part beside the floor
    4 http      a server under open-loop load
    5 rivals    official package and faster-qwen3-tts on the same weights

`--device cpu --shape tiny-0b6` goes through all of it in minutes, for figures of no interest. What
the server imports must be on PYTHONPATH (`make carry`); rivals likewise.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
import timeit
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch

from benchmarks import gpu_bench, logbook
from benchmarks.gpu_serve import Load
from benchmarks.parts import Budget, end
from engine.dummy.checkpoint import write_random_checkpoint
from qtts_openai.load import machine

PYTHON = sys.executable
# Seconds a step may take on a GPU. A dry run on a CPU has four times as many.
LIMITS = {"frames": 60, "goldens": 80, "engine": 90, "http": 75, "rivals": 75}
# What is written meanwhile, once for all of them: it takes half a minute.
NEED_CHECKPOINT = ("engine", "http", "rivals")
RATES = [Load(1, 6), Load(20, 8), Load(60, 8)]
WAYS = {
    "torch": {"kernels": "torch"},
    "triton": {"kernels": "triton", "cuda_graphs": False},
    "graphs": {"kernels": "triton"},
}


class Result(NamedTuple):
    step: str
    status: str
    seconds: float
    value: Any  # the JSON on the last line that the step printed, if it is some


def main() -> int:
    args = parse()
    if args.step == "frames":
        print(json.dumps(frames(args.device)))
        return 0
    if args.step:
        done = parts(args)
        print(json.dumps(done))
        return 0 if all(part["status"] in ("done", "skipped") for part in done) else 1
    args.out.mkdir(parents=True, exist_ok=True)
    about = machine.describe(*gpu_bench.PACKAGES)
    print(f"{logbook.hardware(about)}; results in {args.out}", flush=True)
    results = []
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(1) as pool:
        path = Path(folder) / args.shape
        if set(NEED_CHECKPOINT) & set(args.steps):
            checkpoint = pool.submit(
                write_random_checkpoint, path, model_type="custom_voice", shape=args.shape
            )
        for name, command in commands(args, path).items():
            if name not in args.steps:
                continue
            if name in NEED_CHECKPOINT:
                checkpoint.result()
            results.append(run(name, command, args))
            written = about | {"benchmark": "gpu_first", "steps": [r._asdict() for r in results]}
            logbook.write_json(args.out / "gpu-first.json", written)
    print(json.dumps({r.step: r.status for r in results}))
    return 0 if all(r.status in ("done", "skipped") for r in results) else 1


def commands(args: argparse.Namespace, checkpoint: Path) -> dict[str, list[str]]:
    again = [PYTHON, "-m", "benchmarks.gpu_first", "--device", args.device, "--shape", args.shape]
    again += ["--checkpoint", str(checkpoint)]
    goldens = [PYTHON, "-m", "pytest", "-c", "tests/gpu/pytest.ini", "--rootdir", "."]
    goldens += ["-q", "-x", "--tb=long", *parallel(), "tests/gpu/test_gpu_parity.py"]
    bench = [PYTHON, "-m", "engine.benchmark.bench", "--json", "--checkpoint", str(checkpoint)]
    bench += ["--device", args.device, "--batch", args.batch, "--frames", str(args.frames)]
    return {
        "frames": [*again, "--step", "frames"],
        "goldens": goldens,
        "engine": bench,
        "http": [*again, "--step", "http"],
        "rivals": [*again, "--step", "rivals"],
    }


def parallel() -> list[str]:
    """Kernels compile side by side where pytest-xdist is there."""
    return ["-n", "8"] if importlib.util.find_spec("xdist") else []


def run(name: str, command: list[str], args: argparse.Namespace) -> Result:
    limit = LIMITS[name] * (1 if args.device == "cuda" else 4)
    started, log = time.monotonic(), args.out / f"{name}.log"
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "TRITON_PRINT_AUTOTUNING": "1"}
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command,
            stdout=sink,
            stderr=subprocess.STDOUT,
            cwd=logbook.ROOT,
            env=environment,
            start_new_session=True,
        )
        try:
            status = "done" if process.wait(limit) == 0 else f"failed ({process.returncode})"
        except subprocess.TimeoutExpired:
            end(process)
            status = f"timed out after {limit} s"
    lines = log.read_text("utf-8", "replace").strip().splitlines()
    result = Result(name, status, time.monotonic() - started, last_json(lines))
    said = lines[-1][:200] if lines else ""
    print(f"{name}: {status} in {result.seconds:.0f} s; {said}", flush=True)
    return result


def last_json(lines: list[str]) -> Any:
    try:
        return json.loads(lines[-1])
    except (ValueError, IndexError):
        return lines[-1] if lines else None


# ---- step 1


def frames(device: str) -> dict[str, Any]:
    """One utterance each way; where codes part from plain torch's; what each kernel takes."""
    said, seconds = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiny"
        write_random_checkpoint(path, model_type="custom_voice", shape="tiny-1b7")
        checks = self_check(path, device)
        for way, changes in WAYS.items():
            if device == "cpu" and way != "torch":
                continue
            started = time.monotonic()
            said[way] = speak(path, device, changes)
            seconds[way] = round(time.monotonic() - started, 2)
            print(f"{way}: {len(said[way])} frames in {seconds[way]} s", flush=True)
    differences = {way: difference(codes, said["torch"]) for way, codes in said.items()}
    return {
        "seconds": seconds,
        "first_difference": differences,
        "checks": checks,
        "kernels": list(compiled()),
    }


def self_check(path: Path, device: str) -> list[dict[str, Any]]:
    """The table of `qtts check --gpu`. On a CPU the kernels of a step alone, interpreted where
    triton is there and was told to.
    """
    from engine.check_gpu import Report, report
    from engine.config import EngineConfig, ModelSpec
    from engine.models.config import ModelConfig, read_config
    from engine.what_fits import Asked

    if device == "cuda":
        config = EngineConfig(device=device, max_num_seqs=4, max_model_len=512)
        found = report(Asked(config, [ModelSpec(id="m", checkpoint=str(path))]))
    elif importlib.util.find_spec("triton") and os.environ.get("TRITON_INTERPRET"):
        from engine.runner.self_check import check_kernels

        talker = read_config(path / "config.json", ModelConfig).talker_config
        where, once = torch.device(device), lambda work, _: timeit.timeit(work, number=1)
        checks = check_kernels([talker], torch.float32, where, 16, once)
        found = Report(checks=checks, faults=[check.fault for check in checks])
    else:
        found = Report(error="no GPU, and kernels are not interpreted (TRITON_INTERPRET=1)")
    if found.error:
        print(f"self-check: {found.error}", flush=True)
    rows = zip(found.checks, found.faults, strict=True)
    table = [{**msgspec.to_builtins(check), "fault": fault} for check, fault in rows]
    for row in table:
        print(f"self-check: {row}", flush=True)
    return table


def speak(path: Path, device: str, changes: dict[str, Any]) -> list[list[int]]:
    from engine.protocol import Prompt, SamplingParams, Submit
    from tests.gpu.parity import make_core
    from tests.models import golden

    core = make_core(path, device=device, **changes)
    case = next(c for c in golden.CASES["speech"] if c["reference"] is None and c["speaker"])
    prompt = Prompt(
        role=tuple(case["ids"]["assistant"][:3]),
        text=tuple(case["ids"]["assistant"][3:-5]),
        speakers=((next(iter(core.checkpoints["m"].info.speakers.values())), 1.0),),
    )
    greedy = SamplingParams(temperature=0.0, max_new_tokens=4)
    codes = golden.speak(core, [Submit(1, "m", prompt, greedy)])[1]
    core.close()
    return [[int(code) for code in frame] for frame in codes]


def difference(codes: list[list[int]], plain: list[list[int]]) -> str | None:
    for i, (ours, theirs) in enumerate(zip(codes, plain, strict=False)):
        if ours != theirs:
            return f"frame {i}: {ours} against {theirs}"
    return None if len(codes) == len(plain) else f"{len(codes)} frames against {len(plain)}"


def compiled() -> Iterator[dict[str, Any]]:
    """Registers, spills, shared memory and bytes of PTX of each kernel that was compiled here."""
    if not importlib.util.find_spec("triton") or not torch.cuda.is_available():
        return
    from triton.runtime.jit import JITFunction

    for module in [m for name, m in sys.modules.items() if name.startswith("engine.kernels.")]:
        for name, kernel in vars(module).items():
            if not isinstance(kernel, JITFunction):
                continue
            for cache, *_ in getattr(kernel, "device_caches", {}).values():
                for one in cache.values():
                    yield {
                        "kernel": name,
                        "registers": getattr(one, "n_regs", None),
                        "spills": getattr(one, "n_spills", None),
                        "shared": one.metadata.shared,
                        "ptx_bytes": len(one.asm.get("ptx", "")),
                    }


# ---- steps 4 and 5, as gpu_bench does them


def parts(args: argparse.Namespace) -> list[dict[str, Any]]:
    budget = Budget(LIMITS[args.step] * (1 if args.device == "cuda" else 4) - 5)
    options = gpu_bench.parse(
        ["--device", args.device, "--shapes", args.shape, "--frames", str(args.frames)]
    )
    if args.step == "http":
        done = gpu_bench.http_parts(options, args.checkpoint, RATES, budget)
    else:
        done = [
            gpu_bench.rival_part(options, name, args.shape, args.checkpoint, budget)
            for name in gpu_bench.RIVALS
        ]
    return [asdict(part) for part in done]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--device", choices=("cpu", "cuda"), default="cuda")
    add("--shape", default="1.7B")
    add("--batch", default="1,8,64,128")
    add("--frames", type=int, default=40)
    add("--out", type=Path, default=Path(os.environ.get("OUT", logbook.FOLDER)))
    add(
        "--steps",
        type=gpu_bench.words,
        default=list(LIMITS),
        help="only these, such as http,rivals",
    )
    add("--checkpoint", type=Path, help=argparse.SUPPRESS)
    add("--step", choices=("frames", "http", "rivals"), help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
