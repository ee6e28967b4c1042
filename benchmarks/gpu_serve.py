"""A server of random weights, and open-loop load on it at rising rates."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from benchmarks.parts import Budget, Part, end, last_line, run_part

MODEL = "random"
# One more than the frames of an answer: 4.0 to 5.0 s of speech, in turns.
MAX_NEW_TOKENS = (51, 54, 57, 60, 63)
START_S = 150.0
TAIL_S = 45.0  # for what is still being spoken when the last request has gone out


class Load(NamedTuple):
    rate: float  # requests per second
    duration_s: float


def serve_and_load(path: Path, device: str, loads: list[Load], budget: Budget) -> list[Part]:
    started = time.monotonic()
    limit = budget.share(20, START_S)
    if limit is None:
        return [Part("http", "skipped", f"{budget.left_s():.0f} s were left")]
    with tempfile.TemporaryDirectory() as folder, server(path, device, Path(folder)) as running:
        process, port, log = running
        if not wait_ready(process, port, limit):
            note = f"the server did not start: {last_line(log.read_text('utf-8', 'replace'))}"
            return [Part("http", "failed", note, time.monotonic() - started)]
        ready = Part("http start", "done", "", time.monotonic() - started)
        return [ready, *(load_part(port, load, budget) for load in loads)]


def load_part(port: int, load: Load, budget: Budget) -> Part:
    command = [sys.executable, "-m", "qtts_openai", "load", "--model", MODEL, "--warmup", "2"]
    command += ["--base-url", f"http://127.0.0.1:{port}/v1"]
    command += ["--rate", str(load.rate), "--duration", str(load.duration_s)]
    for most in MAX_NEW_TOKENS:
        command += ["--body", json.dumps({"voice": "vivian", "max_new_tokens": most})]
    least = load.duration_s + 10
    name = f"http {load.rate:g}/s"
    return run_part(name, command, budget, least_s=least, most_s=load.duration_s + TAIL_S)


@contextmanager
def server(
    path: Path, device: str, folder: Path
) -> Iterator[tuple[subprocess.Popen[bytes], int, Path]]:
    """The process, its port and its log. JSON is YAML too."""
    port, log = free_port(), folder / "log"
    settings = {
        "server": {"host": "127.0.0.1", "port": port},
        "engine": {"device": device},
        "models": [{"id": MODEL, "checkpoint": str(path)}],
        "voices": {"directory": str(folder / "voices")},
    }
    (folder / "config.yaml").write_text(json.dumps(settings), "utf-8")
    command = [
        sys.executable,
        "-m",
        "qtts_openai",
        "serve",
        "--config",
        str(folder / "config.yaml"),
    ]
    environment = {name: v for name, v in os.environ.items() if name != "QTTS_API_KEYS"}
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command, stdout=sink, stderr=sink, env=environment, start_new_session=True
        )
    try:
        yield process, port, log
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            end(process)
        print(log.read_text("utf-8", "replace"), file=sys.stderr, flush=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_ready(process: subprocess.Popen[bytes], port: int, limit_s: float) -> bool:
    ends_at = time.monotonic() + limit_s
    while process.poll() is None and time.monotonic() < ends_at:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                return True
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    return False
