"""Shared by all tests."""

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

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
    yield slow
    assert not slow, "the event loop was held: " + "; ".join(slow)
