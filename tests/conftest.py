"""Shared by all tests."""

import asyncio
import gc
import importlib.util
import inspect
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import CodeType

import pytest

# Time on a busy machine says nothing about the code. (A GPU's machine may lack hypothesis.)
if importlib.util.find_spec("hypothesis"):
    from hypothesis import HealthCheck, settings

    settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("suite")

# Two threads on busy cores are slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Without a GPU kernels run in triton's interpreter. It reads this once, when it is first imported,
# which may be by torch in some other test; what has to see the compiler runs in a process of its
# own (kernels/compiling.py).
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")


LOOP_LIMIT_S = 0.05
# Waiting is not work, but a call that blocks this long is not a busy machine's doing.
BLOCKED_LIMIT_S = 1.0


@pytest.fixture
def watched_loop(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Fails a test in which one callback of any asyncio loop of this process (servers in threads
    included, uvloop not) works for more than 50 ms. CPU time is counted, so that a busy machine
    does not fail it. The list holds what was too long, for tests that expect something there.
    """
    slow: list[str] = []
    run = asyncio.Handle._run

    def timed(handle: asyncio.Handle) -> None:
        what, cpu_s, started = repr(handle), time.thread_time(), time.perf_counter()
        run(handle)
        cpu_s, wall_s = time.thread_time() - cpu_s, time.perf_counter() - started
        if cpu_s > LOOP_LIMIT_S or wall_s - cpu_s > BLOCKED_LIMIT_S:
            slow.append(f"{cpu_s * 1e3:.0f} ms of work, {wall_s * 1e3:.0f} ms in all: {what}")

    monkeypatch.setattr(asyncio.Handle, "_run", timed)
    gc.freeze()  # what all tests have made is much garbage to look through; `serve` does so, too
    yield slow
    gc.unfreeze()
    assert not slow, "the event loop was held: " + "; ".join(slow)


# `make test-fast`: nothing that imports torch, starts processes or encodes seconds of sound, no
# test on a server. What cannot have such tests is not even imported, which takes most of the time.
HEAVY_FOLDERS = {
    "attack", "decoding", "deploy", "gpu", "kernels", "listen", "models", "page", "provenance",
    "ray", "vllm",
}  # fmt: skip
HEAVY_FILES = {
    "test_encoders.py", "test_event_loop.py", "test_install.py", "test_reference_audio.py",
}  # fmt: skip
HEAVY_IMPORT = re.compile(
    r"^(?:import|from) (?:torch|uvicorn|openai|schemathesis|benchmarks|tests\.fuzz\.__main__"
    r"|qtts_openai\.load|engine\.(?:client|worker))\b",
    re.MULTILINE,
)
HEAVY_FIXTURES = {"shared_servers", "start", "with_extra_voice"}
HEAVY_CALLS = {"serving", "Popen", "process"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fast", action="store_true", help="only what needs no engine and no server")


class WithoutTorch:
    """Skips the file, or the test, that would import torch."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name in ("torch", "triton"):
            pytest.skip("needs torch", allow_module_level=True)


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--fast", False):
        sys.meta_path.insert(0, WithoutTorch())


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if not config.getoption("--fast", False):
        return None
    if collection_path.is_dir():
        return collection_path.name in HEAVY_FOLDERS or None
    if collection_path.name in HEAVY_FILES:
        return True
    is_test = collection_path.suffix == ".py"
    return True if is_test and HEAVY_IMPORT.search(collection_path.read_text("utf-8")) else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--fast", False):
        return
    heavy = [item for item in items if isinstance(item, pytest.Function) and is_heavy(item)]
    config.hook.pytest_deselected(items=heavy)
    items[:] = [item for item in items if item not in heavy]


def is_heavy(item: pytest.Function) -> bool:
    return bool(
        item.get_closest_marker("process")
        or HEAVY_FIXTURES & set(item.fixturenames)
        or HEAVY_CALLS & names(inspect.unwrap(item.function).__code__)
    )


def names(code: CodeType) -> set[str]:
    """What a function calls, its own functions included."""
    inner = (names(const) for const in code.co_consts if isinstance(const, CodeType))
    return set(code.co_names).union(*inner)
