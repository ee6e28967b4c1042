"""A long measurement as parts that share one deadline: each is a process of its own, is given no
more time than is left, and is skipped, which it says, when that cannot be enough.
What a part that fails wrote to stderr goes to ours, whole.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

NOTE_CHARS = 300


@dataclass
class Part:
    """`result`: the JSON document on the last line that the process printed."""

    name: str
    status: Literal["done", "skipped", "failed", "timed out"]
    note: str = ""
    seconds: float = 0.0
    result: dict[str, Any] | None = None


class Budget:
    def __init__(self, total_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock, self.ends_at = clock, clock() + total_s

    def left_s(self) -> float:
        return max(0.0, self.ends_at - self.clock())

    def share(self, least_s: float, most_s: float) -> float | None:
        """Seconds that a part may take; None: too few."""
        left = self.left_s()
        return None if left < least_s else min(most_s, left)


def run_part(
    name: str,
    command: list[str],
    budget: Budget,
    *,
    least_s: float = 5.0,
    most_s: float = 120.0,
    environment: dict[str, str] | None = None,
) -> Part:
    limit = budget.share(least_s, most_s)
    if limit is None:
        return Part(name, "skipped", f"{budget.left_s():.0f} s were left, {least_s:.0f} needed")
    started = time.monotonic()
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
        start_new_session=True,
    ) as process:
        try:
            out, errors = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            end(process)
            out, errors = process.communicate()
            print(f"{name}:\n{errors}", file=sys.stderr, flush=True)
            said = last_line(out)
            note = f"after {limit:.0f} s; it said last: {said}"
            return Part(name, "timed out", note, time.monotonic() - started)
    seconds = time.monotonic() - started
    if process.returncode:
        print(f"{name}:\n{errors or out}", file=sys.stderr, flush=True)
        return Part(name, "failed", last_line(errors or out), seconds)
    try:
        return Part(name, "done", "", seconds, json.loads(last_line(out, None)))
    except ValueError:
        return Part(name, "failed", f"no JSON on the last line: {last_line(out)}", seconds)


def end(process: subprocess.Popen) -> None:
    """It and what it started, at once."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def last_line(text: str, most: int | None = NOTE_CHARS) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip()[:most] if lines else "it said nothing"
