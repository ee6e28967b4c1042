"""Parity on a GPU: the kernels' tests compiled, and the engine's with graphs, on a machine where
nothing can be installed. Under ten minutes. Where msgspec is missing, PYTHONPATH names a folder
that was carried there (`make carry FOR=3.12`).

    python3 -m benchmarks.gpu_check --out benchmarks/results

Writes JUnit and JSON there. RESULTS.md gets a dated line only if everything that ran did so on a
GPU and passed.
"""

import argparse
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch

from benchmarks import logbook
from qtts_openai.load import machine

LIMIT_S = 590
TESTS = ("tests/kernels", "tests/gpu")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=logbook.FOLDER)
    parser.add_argument("tests", nargs="*", help=f"files or folders; default: {' '.join(TESTS)}")
    args = parser.parse_args()
    on_gpu = torch.cuda.is_available()
    if not (on_gpu or args.tests):
        print("no CUDA device here; make test runs the kernels' tests in triton's interpreter")
        return 1
    junit = args.out / f"gpu-check-{logbook.stamp()}.xml"
    args.out.mkdir(parents=True, exist_ok=True)
    status = run_tests(args.tests or list(TESTS), junit)
    about = machine.describe("torch", "triton", "numpy", "pytest")
    result = read_junit(junit.read_text("utf-8")) if junit.exists() else None
    document = {"benchmark": "gpu_check", **about, "on_gpu": on_gpu, "pytest_status": status}
    line = entry(about, result) if result else "pytest ended without results"
    logbook.write_json(junit.with_suffix(".json"), document | {"result": result, "entry": line})
    print(line)
    if proves_parity(result, on_gpu, status):
        logbook.append(line)
    else:
        print(f"not entered in RESULTS.md: {'no CUDA device' if not on_gpu else 'not all passed'}")
    return status


def run_tests(tests: list[str], junit: Path) -> int:
    command = [sys.executable, "-m", "pytest", "-c", "tests/gpu/pytest.ini", "--rootdir", "."]
    command += ["-q", "-rs", f"--junitxml={junit.resolve()}", *tests]
    try:
        return subprocess.run(command, cwd=logbook.ROOT, timeout=LIMIT_S).returncode
    except subprocess.TimeoutExpired:
        print(f"pytest was stopped after {LIMIT_S} s", file=sys.stderr)
        return 1


def read_junit(text: str) -> dict[str, Any]:
    """Counts, and why what was skipped was."""
    suites = list(ElementTree.fromstring(text).iter("testsuite"))
    names = ("tests", "failures", "errors", "skipped")
    counts = {name: sum(int(suite.get(name, 0)) for suite in suites) for name in names}
    reasons = Counter(
        skipped.get("message", "") for suite in suites for skipped in suite.iter("skipped")
    )
    seconds = sum(float(suite.get("time", 0)) for suite in suites)
    passed = counts["tests"] - counts["failures"] - counts["errors"] - counts["skipped"]
    return {"passed": passed, **counts, "seconds": seconds, "skipped_because": dict(reasons)}


def proves_parity(result: dict[str, Any] | None, on_gpu: bool, status: int) -> bool:
    return bool(on_gpu and not status and result and result["passed"])


def entry(about: dict[str, Any], result: dict[str, Any]) -> str:
    failed = result["failures"] + result["errors"]
    skipped = "".join(f"; {n} skipped: {why}" for why, n in result["skipped_because"].items())
    return (
        f"**{about['date'][:10]}, parity** (`make gpu-check`), {logbook.hardware(about)}: "
        f"{result['passed']} passed, {failed} failed in {result['seconds']:.0f} s{skipped}."
    )


if __name__ == "__main__":
    sys.exit(main())
