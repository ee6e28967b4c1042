"""Compile the C++ files for this machine: `python -m engine.native.build`. Stdlib only.

The library lies beside its sources, named by them, the compiler's options and the CPU, so one that
was made elsewhere or earlier is never taken for today's.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
SOURCES = tuple(FOLDER / name for name in ("decoder.cpp", "codec.cpp"))
HEADERS = tuple(sorted(FOLDER.glob("*.h")))
OPTIONS = (
    "-O3",
    "-march=native",
    "-std=c++17",
    "-fPIC",
    "-shared",
    "-fopenmp",
    "-ffp-contract=off",
)
TIMEOUT_S = 600


def compiler() -> str | None:
    """CXX, or the first of the usual ones."""
    names = [name for name in (os.environ.get("CXX"), "c++", "g++", "clang++") if name]
    return next((found for name in names if (found := shutil.which(name))), None)


def library() -> Path:
    """Where the library for this machine lies, or would lie."""
    made_of = b"".join(file.read_bytes() for file in (*SOURCES, *HEADERS))
    made_of += repr((OPTIONS, cpu())).encode()
    return FOLDER / f"native-{hashlib.sha256(made_of).hexdigest()[:16]}.so"


def cpu() -> tuple[str, ...]:
    """What -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = ("flags", "Features", "CPU implementer", "CPU part", "model name")
    return platform.machine(), *sorted({line for line in lines if line.startswith(named)})


def build() -> str:
    """Make the library unless it is there; "" or why it could not be made."""
    target = library()
    if target.exists():
        return ""
    program = compiler()
    if program is None:
        return "no C++ compiler (c++, g++ or clang++) was found"
    staging = target.with_suffix(f".{os.getpid()}.tmp")
    command = [program, *OPTIONS, *map(str, SOURCES), "-o", str(staging)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["no reason"]
            return f"{program} failed: {next((n for n in lines if 'error' in n), lines[0])}"
        staging.replace(target)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{program} failed: {error}"
    finally:
        staging.unlink(missing_ok=True)
    for old in FOLDER.glob("*.so"):
        if old != target:
            old.unlink(missing_ok=True)
    return ""


if __name__ == "__main__":
    sys.exit(build() or 0)  # an empty string would be a failure, too
