"""Ours beside the rivals, in one run: the same random weights, threads and machine.

    python -m benchmarks.versus --rivals qwentts.cpp,vox-tts,official

Each rival is installed from its public wheel into an environment of its own (`--folder`, kept for
the next run) and gets the checkpoint in its own format and the form of weights that is nearest to
ours. Then all take turns, --rounds times, each in a process of its own, one utterance at a time.
ms per frame (80 ms of speech) hold the codec; the prompt counts for the official package alone,
which does not stream. `first` is from the call to the first samples, of one text for all who
stream. Of many streams at once ms count for a frame of one of them. `load` is what everybody else
took of the machine meanwhile, in cores: a ratio from a round with much of it means little.

Medians, ratios (theirs over ours) and peak memory, then one JSON document on the last line.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import sysconfig
import time
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.logbook import FOLDER
from engine.dummy.checkpoint import write_random_checkpoint
from qtts_openai.load import machine

HERE = Path(__file__).parent
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd")


class Rival(NamedTuple):
    packages: tuple[str, ...]
    # Without what they depend on: the official package wants another torch than ours, which it
    # shares instead, and much that only its demonstration needs.
    alone: tuple[str, ...]
    forms: dict[str, str]  # by our quantization
    prepare: Callable[[Path, Path, Path, str], Path]  # (python, checkpoint, folder, form) -> model
    command: Callable[[Path, argparse.Namespace, str], list[str]]


def run(command: list[str], **more: Any) -> str:
    """What it prints; its last words where it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, **more)
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"{' '.join(command[:4])} took more than {error.timeout} s") from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise RuntimeError(f"{' '.join(command[:4])} failed: {said[-1] if said else 'no reason'}")
    return done.stdout


def install(name: str, rival: Rival, folder: Path) -> Path:
    """-> the Python of its environment."""
    home = folder / name
    python, done = home / "bin" / "python", home / ".installed"
    if done.exists():
        return python
    venv.create(home, with_pip=True, clear=True)
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "-q"]
    run([*pip, *rival.packages])
    if rival.alone:
        run([*pip, "--no-deps", *rival.alone])
        theirs = run([str(python), "-c", "import sysconfig as s; print(s.get_path('purelib'))"])
        (Path(theirs.strip()) / "torch.pth").write_text(sysconfig.get_path("purelib") + "\n")
    done.touch()
    return python


def as_tmod(python: Path, checkpoint: Path, folder: Path, form: str) -> Path:
    model = folder / f"{form or 'bf16'}.tmod"
    if not model.exists():
        build = [str(python), "-m", "vox", "build", "--model", str(checkpoint), "--dtype", "bf16"]
        run([*build, *(["--quant", form] if form else []), "--no-hash", "-o", str(model)])
    return model


def as_gguf(python: Path, checkpoint: Path, folder: Path, form: str) -> Path:
    model = folder / form
    if not (model / "codec.gguf").exists():
        script = HERE / "rivals" / "gguf_files.py"
        run([str(python), str(script), str(checkpoint), str(model), "--form", form])
    return model


def as_it_is(python: Path, checkpoint: Path, folder: Path, form: str) -> Path:
    return checkpoint


def speaking(name: str) -> Callable[[Path, argparse.Namespace, str], list[str]]:
    def command(model: Path, args: argparse.Namespace, form: str) -> list[str]:
        options = ["--threads", args.threads, "--frames", args.frames]
        return [str(HERE / "rivals" / "speak.py"), name, str(model), *map(str, options)]

    return command


def official(model: Path, args: argparse.Namespace, form: str) -> list[str]:
    script, options = HERE / "official_baseline.py", ["--threads", args.threads, "--runs", 1]
    # Without bfloat16 in hardware torch is many times slower in it than in float32.
    dtype = "bfloat16" if {"avx512_bf16", "amx_bf16"} & set(cpu_flags()) else "float32"
    options += ["--frames", args.frames, "--dtype", dtype, "--warmup", 2]
    return [str(script), str(model), *map(str, options)]


RIVALS = {
    "qwentts.cpp": Rival(
        ("realtimetts-qwen-native-cpu==0.4.2", "gguf"),
        (),
        {"none": "BF16", "int8": "Q8_0", "int4": "Q4_0"},
        as_gguf,
        speaking("qwentts.cpp"),
    ),
    "vox-tts": Rival(
        ("vox-tts==0.19.5",),
        (),
        {"none": "", "int8": "q8", "int4": "q4full"},
        as_tmod,
        speaking("vox"),
    ),
    "official": Rival(
        ("transformers==4.57.3",),
        ("qwen-tts==0.1.1", "accelerate==1.12.0", "psutil", "einops"),
        dict.fromkeys(("none", "int8", "int4"), ""),
        as_it_is,
        official,
    ),
}


def ours(checkpoint: Path, args: argparse.Namespace) -> list[str]:
    options = ["--threads", args.threads, "--frames", args.frames]
    options += ["--quantization", args.quantization]
    return [sys.executable, "-m", "benchmarks.ours", str(checkpoint), *map(str, options)]


def together(checkpoint: Path, args: argparse.Namespace) -> list[str]:
    """Ours, many streams at once."""
    options = ["--threads", args.threads, "--frames", args.frames, "--batch", args.batch]
    options += ["--quantization", args.quantization, "--checkpoint", checkpoint]
    return [sys.executable, "-m", "engine.benchmark.bench", "--json", *map(str, options)]


def busy_s() -> float:
    """Seconds of a core that the whole machine has worked since it started."""
    user, nice, system, _, _, *interrupts = Path("/proc/stat").read_text().split()[1:9]
    ticks = sum(map(int, (user, nice, system, *interrupts[:2])))
    return ticks / os.sysconf("SC_CLK_TCK")


def time_one(command: list[str], limit_s: float | None = None) -> dict[str, float]:
    """ms_per_frame, and where it is known first_s and rss_mb; `load` in cores."""
    started, before, mine = time.monotonic(), busy_s(), os.times()
    found = json.loads(run(command, cwd=HERE.parent, timeout=limit_s).splitlines()[-1])
    now = os.times()
    own_s = now.children_user + now.children_system - mine.children_user - mine.children_system
    seconds = time.monotonic() - started
    load = max(0.0, busy_s() - before - own_s) / seconds
    if "rows" in found:
        [batch] = found["rows"]
        ms = 1e3 * batch["step_s"] / batch["batch"]
    else:
        ms = found.get("ms_per_frame") or 1e3 / found["frames_per_s"]
    known = {name: found[name] for name in ("first_s", "rss_mb", "load_s") if name in found}
    return {"ms_per_frame": ms, "load": round(load, 2), **known}


def summarise(runs: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Medians by name, and `ratio`: theirs over ours."""
    found = {
        name: {key: statistics.median(one[key] for one in all_) for key in all_[0]}
        for name, all_ in runs.items()
        if all_
    }
    for medians in found.values():
        medians["ratio"] = medians["ms_per_frame"] / found["ours"]["ms_per_frame"]
    return found


def cpu_flags() -> list[str]:
    info = Path("/proc/cpuinfo")
    present = set(info.read_text().split()) if info.exists() else set()
    return [flag for flag in FLAGS if flag in present]


def main() -> int:
    args = parse()
    args.folder.mkdir(parents=True, exist_ok=True)
    about = machine.describe("torch", "numpy") | {"flags": cpu_flags()}
    print(f"{about['machine']['cpu']}, {' '.join(about['flags'])}", flush=True)
    checkpoint = args.folder / f"checkpoint-{args.shape}"
    if not (checkpoint / "config.json").exists():
        write_random_checkpoint(checkpoint, model_type="custom_voice", shape=args.shape)
    many = f"ours, {args.batch} at once"
    commands, failed = {"ours": ours(checkpoint, args), many: together(checkpoint, args)}, {}
    for name in args.rivals:
        rival = RIVALS[name]
        form = rival.forms[args.quantization]
        try:
            python = install(name, rival, args.folder)
            kept = args.folder / f"{name}-{args.shape}"
            kept.mkdir(exist_ok=True)
            model = rival.prepare(python, checkpoint, kept, form)
        except (RuntimeError, OSError) as error:
            failed[name] = str(error)
            continue
        commands[name] = [str(python), *rival.command(model, args, form)]
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in commands}
    for _ in range(args.rounds):
        for name, command in commands.items():
            try:
                runs[name].append(time_one(command, args.limit))
                print(f"{name}: {runs[name][-1]}", flush=True)
            except RuntimeError as error:
                failed[name] = str(error)
    for name, why in failed.items():
        print(f"{name}: left out: {why}", flush=True)
    if not runs["ours"]:
        return 1
    medians = summarise(runs)
    print(f"{'':16}ms/frame   ratio  first ms  RSS MB   load (cores of others)")
    for name, found in medians.items():
        first = f"{1e3 * found['first_s']:.0f}" if "first_s" in found else "-"
        rss = f"{found['rss_mb']:.0f}" if "rss_mb" in found else "-"
        speed = f"{found['ms_per_frame']:8.1f} {found['ratio']:7.2f}"
        print(f"{name:16}{speed} {first:>9} {rss:>7} {found['load']:6.2f}")
    options = {name: str(value) for name, value in vars(args).items()}
    document = {"benchmark": "versus", **about, "options": options, "failed": failed}
    print(machine.as_line(document | {"medians": medians, "runs": runs}))
    return 1 if failed else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--rivals", type=lambda text: text.split(","), default=list(RIVALS))
    add("--shape", default="0.6B")
    add("--quantization", choices=("none", "int8", "int4"), default="int8")
    add("--threads", type=int, default=2)
    add("--batch", type=int, default=8, help="ours at so many streams at once, too")
    add("--frames", type=int, default=24)
    add("--rounds", type=int, default=3)
    add("--limit", type=float, default=300, help="seconds that one run may take")
    add("--folder", type=Path, default=FOLDER / "versus", help="environments and weights")
    args = parser.parse_args()
    if unknown := set(args.rivals) - RIVALS.keys():
        parser.error(f"--rivals {', '.join(unknown)}: known are {', '.join(RIVALS)}")
    return args


if __name__ == "__main__":
    sys.exit(main())
