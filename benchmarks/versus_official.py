"""Ours beside the official package, in one run: same random checkpoint, dtype, threads and machine.

Regime. For each dtype the two take turns (--rounds), each in a process of its own: the official
package speaks one utterance at a time, the engine one and then --batch at once. Frames per second
include the codec on both sides. The official package lives in an environment of its own; how to
make it stands in tests/golden/make_golden.py.

    python -m benchmarks.versus_official --official .venv-oracle/bin/python --threads 2

A table, then one JSON document on the last line.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from engine.dummy.checkpoint import write_random_checkpoint


def run_json(command: list[str]) -> dict[str, Any]:
    """The JSON document on a benchmark's last line."""
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def official(args: argparse.Namespace, path: Path, dtype: str) -> dict[str, Any]:
    script = str(Path(__file__).with_name("official_baseline.py"))
    options = ["--threads", args.threads, "--dtype", dtype, "--frames", args.frames]
    return run_json([args.official, script, str(path), *map(str, options), "--runs", "1"])


def ours(args: argparse.Namespace, path: Path, dtype: str) -> dict[str, Any]:
    options = ["--threads", args.threads, "--dtype", dtype, "--frames", args.frames]
    batches = f"1,{args.batch}"
    module = [sys.executable, "-m", "engine.benchmark.bench", "--checkpoint", str(path), "--json"]
    return run_json([*module, *map(str, options), "--batch", batches])


def compare(args: argparse.Namespace, path: Path, dtype: str) -> dict[str, Any]:
    theirs, mine = [], []
    for _ in range(args.rounds):
        theirs.append(official(args, path, dtype))
        mine.append(ours(args, path, dtype))
    speed = statistics.median(run["frames_per_s"] for run in theirs)
    solo, many = (
        statistics.median(run["rows"][i]["batch"] / run["rows"][i]["step_s"] for run in mine)
        for i in (0, 1)
    )
    return {
        "dtype": dtype,
        "official_frames_s": speed,
        "solo_frames_s": solo,
        "batch_frames_s": many,
        "solo_over_official": solo / speed,
        "batch_over_solo": many / solo,
        "runs": {"official": theirs, "ours": mine},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--official", required=True, help="python with the official package")
    parser.add_argument("--shape", default="0.6B")
    parser.add_argument("--checkpoint", type=Path, help="instead of random weights of --shape")
    parser.add_argument("--dtypes", default="bfloat16,float32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = args.checkpoint or Path(folder) / args.shape
        if args.checkpoint is None:
            write_random_checkpoint(path, model_type="custom_voice", shape=args.shape)
        results = [compare(args, path, dtype) for dtype in args.dtypes.split(",")]
    print("dtype      official  ours x1  ours xN   frames/s; ours/official, xN/x1")
    for r in results:
        speeds = (r["official_frames_s"], r["solo_frames_s"], r["batch_frames_s"])
        ratios = f"{r['solo_over_official']:.1f}x  {r['batch_over_solo']:.1f}x"
        print(f"{r['dtype']:10} {speeds[0]:8.2f} {speeds[1]:8.2f} {speeds[2]:8.2f}   {ratios}")
    print(
        json.dumps({"benchmark": "versus_official", **vars(args), "results": results}, default=str)
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
