"""Shared by all tests."""

import os
import re
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent

# Two threads on busy cores are slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Without a GPU kernels run in triton's interpreter. It reads this once, when it is first imported,
# which may be by torch in some other test; what has to see the compiler runs in a process of its
# own (kernels/compiling.py).
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# A test file that names none of these needs no torch, no engine and no server: `make test-fast`.
HEAVY = re.compile(r"\b(torch|subprocess|server|serving|speaking|checkpoint|golden|EngineClient)\b")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fast", action="store_true", help="only files that need no engine or server")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    path = collection_path
    if not config.getoption("--fast") or path.suffix != ".py" or path.parent == HERE:
        return None
    return True if HEAVY.search(path.read_text("utf-8")) else None
