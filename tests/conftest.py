"""Shared by all tests."""

import inspect
import os
import re
from pathlib import Path

import pytest

# Two threads on busy cores are slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Without a GPU kernels run in triton's interpreter. It reads this once, when it is first imported,
# which may be by torch in some other test; what has to see the compiler runs in a process of its
# own (kernels/compiling.py).
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# `make test-fast`: no file that imports what runs a model or starts processes, no test on a server.
HEAVY_IMPORT = re.compile(
    r"^(?:import|from) (?:torch|uvicorn|benchmarks|tests\.(?:models|gpu|kernels|engine\.speaking)"
    r"|engine\.(?:core|client|worker|startup|random_checkpoint|talker_runner|codec_runner))\b",
    re.MULTILINE,
)
HEAVY_FIXTURES = {"shared_servers"}
HEAVY_CALL = re.compile(r"\b(?:serving|Popen|process)\(")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fast", action="store_true", help="only what needs no engine and no server")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if not config.getoption("--fast", False) or collection_path.suffix != ".py":
        return None
    return True if HEAVY_IMPORT.search(collection_path.read_text("utf-8")) else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--fast", False):
        return
    heavy = [item for item in items if isinstance(item, pytest.Function) and is_heavy(item)]
    config.hook.pytest_deselected(items=heavy)
    items[:] = [item for item in items if item not in heavy]


def is_heavy(item: pytest.Function) -> bool:
    on_server = HEAVY_FIXTURES & set(item.fixturenames)
    return bool(on_server or HEAVY_CALL.search(inspect.getsource(item.function)))
