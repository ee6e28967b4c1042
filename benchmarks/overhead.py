"""What HTTP adds to the engine's own first chunk.

    python -m benchmarks.overhead --num-requests 100

Regime. One request at a time, on an idle machine if figures are to mean much. Two engines with the
same settings and --threads each: one in this process's hands, one behind a server that this script
starts on a free port of 127.0.0.1. Each round speaks the same prompt with the same seed on both,
in turns first, and reads it to its end before the next begins:

    engine   EngineClient.submit with the prompt ready, until the first PCM
    http     a request for pcm on a kept connection, until the first PCM is there (lean_http.py: a
             client library would add its own two milliseconds)

Their difference is everything HTTP: client, both directions of the socket, parsing, prompt, task
switches. To tell where it goes, three more: `health`, a bare GET /health of the same client (the
floor of a round trip, client included); `plan`, checking the request and making its prompt, in this
process; `inside`, the mean of the server's own qtts_ttfa_seconds (submit to first PCM), which
should equal the mean of `engine`; where it does not, the two engines did not run alike.

Prints a table; the last line of stdout is one JSON document.
"""

import argparse
import asyncio
import json
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvloop

from benchmarks.lean_http import LeanClient
from engine import EngineClient
from qtts_openai import schemas as s
from qtts_openai.load import machine
from qtts_openai.load.audio_clock import percentiles
from qtts_openai.load.client import open_client
from qtts_openai.settings import Settings
from qtts_openai.settings_file import load_settings
from qtts_openai.state import AppState

MODEL = "overhead"
START_TIMEOUT_S = 300.0
TARGET_MS = 3.0
TEXT = "The ferry leaves at noon, and the next one not before the evening."


def main() -> int:
    options = parse_arguments()
    with tempfile.TemporaryDirectory() as directory:
        config = Path(directory) / "config.yaml"
        config.write_text(json.dumps(settings_tree(options, directory)))  # JSON is YAML
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            samples = runner.run(measure(options, config))
    report(options, samples)
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-requests", type=int, default=100, help="of each kind")
    parser.add_argument("--warmup", type=int, default=5, help="rounds ahead that do not count")
    parser.add_argument("--frames", type=int, default=3, help="of speech per request")
    parser.add_argument("--threads", type=int, default=1, help="torch threads of each engine")
    parser.add_argument("--checkpoint", default="embedded")
    return parser.parse_args()


def settings_tree(options: argparse.Namespace, directory: str) -> dict[str, Any]:
    return {
        "engine": {"threads": options.threads, "kv_cache_memory": "64MB"},
        "models": [{"id": MODEL, "checkpoint": options.checkpoint}],
        "server": {"log_level": "error"},
        "voices": {"directory": f"{directory}/voices"},
    }


async def measure(options: argparse.Namespace, config: Path) -> dict[str, list[float]]:
    """Seconds by kind of sample."""
    fields = {
        "model": MODEL, "voice": "alloy", "input": TEXT, "response_format": "pcm", "seed": 1,
        "max_new_tokens": options.frames + 1,
    }  # fmt: skip
    samples: dict[str, list[float]] = {}
    async with own_engine(load_settings(str(config))) as service:
        with server(config) as base_url:
            async with open_client(base_url, None, 60.0) as client:
                lean = await LeanClient.connect("127.0.0.1", client.base_url.port)
                kinds = {
                    "engine": lambda: first_chunk(service, fields),
                    "http": lambda: lean.first_byte_s("POST", "/v1/audio/speech", fields),
                    "health": lambda: lean.first_byte_s("GET", "/health", None),
                    "plan": lambda: planning(service, fields),
                }
                await rounds(kinds, options.warmup, {})
                before = await server_ttfa(client)
                await rounds(kinds, options.num_requests, samples)
                after = await server_ttfa(client)
                await lean.close()
    assert after[1] - before[1] == options.num_requests
    samples["inside"] = [(after[0] - before[0]) / options.num_requests]
    return samples


async def rounds(
    kinds: Mapping[str, Callable[[], Awaitable[float]]], num: int, samples: dict[str, list[float]]
) -> None:
    """Every kind once a round, in an order that turns."""
    names = list(kinds)
    for _ in range(num):
        for name in names:
            samples.setdefault(name, []).append(await kinds[name]())
        names.append(names.pop(0))


@asynccontextmanager
async def own_engine(settings: Settings) -> AsyncIterator[AppState]:
    engine = EngineClient(settings.engine, settings.specs())
    try:
        await engine.start()
        yield AppState(settings, engine)
    finally:
        await engine.close()


@contextmanager
def server(config: Path) -> Iterator[str]:
    """Base URL of a server of its own process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "qtts_openai", "serve", "--config", str(config)]
    with subprocess.Popen([*command, "--port", str(port)]) as process:
        try:
            wait_for(f"http://127.0.0.1:{port}/health", process)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()


def wait_for(url: str, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit(f"the server ended with status {process.returncode}")
        try:
            if httpx.get(url, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise SystemExit(f"the server was not ready after {START_TIMEOUT_S:.0f} s")


async def first_chunk(service: AppState, fields: dict[str, Any]) -> float:
    request, _ = s.read_speech(dict(fields))
    utterance = await service.planner.plan(request)
    started = time.perf_counter()
    stream = service.submit(utterance)
    await anext(stream)
    first_s = time.perf_counter() - started
    async for _ in stream:
        pass
    return first_s


async def planning(service: AppState, fields: dict[str, Any]) -> float:
    started = time.perf_counter()
    request, _ = s.read_speech(s.parse_json(json.dumps(fields).encode()))
    await service.planner.plan(request)
    return time.perf_counter() - started


async def server_ttfa(client: httpx.AsyncClient) -> tuple[float, float]:
    """(sum, count) of the server's qtts_ttfa_seconds."""
    text = (await client.get(client.base_url.join("/metrics"))).text
    found = {
        name: float(value)
        for name, value in re.findall(r"^qtts_ttfa_seconds_(sum|count)\S* (\S+)$", text, re.M)
    }
    return found.get("sum", 0.0), found.get("count", 0.0)


def report(options: argparse.Namespace, samples: dict[str, list[float]]) -> None:
    pairs = zip(samples["http"], samples["engine"], strict=True)
    samples["http - engine, by round"] = [http - engine for http, engine in pairs]
    figures = {name: percentiles(values) or {} for name, values in samples.items()}
    print(f"{options.num_requests} requests of each kind, one at a time; ms\n")
    columns = ("p50", "p95", "max", "mean")
    print(f"{'first chunk':26}" + "".join(f"{column:>10}" for column in columns))
    for name, some in figures.items():
        shown = columns if len(samples[name]) > 1 else ("mean",)
        cells = (f"{some[c] * 1e3:>10.2f}" if c in shown else " " * 10 for c in columns)
        print(f"{name:26}" + "".join(cells))
    added = {p: (figures["http"][p] - figures["engine"][p]) * 1e3 for p in ("p50", "p95", "mean")}
    print(
        f"\nHTTP adds {added['p50']:.2f} ms at p50 (target: {TARGET_MS:g}), "
        f"{added['p95']:.2f} ms at p95\n"
    )
    document = {
        "benchmark": "overhead",
        "command": " ".join(["python", "-m", "benchmarks.overhead", *sys.argv[1:]]),
        **machine.describe("httpx", "uvicorn", "uvloop", "litestar", "torch"),
        "options": vars(options),
        "result": {"added_ms": added, "target_p50_ms": TARGET_MS, "first_chunk_s": figures},
    }
    print(machine.as_line(document), flush=True)


if __name__ == "__main__":
    sys.exit(main())
