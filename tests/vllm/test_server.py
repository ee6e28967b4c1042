"""Over HTTP: the voice in the box says on vLLM what it says on our engine, to eight listeners at
once, and again after its worker was killed.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
SENTENCES = (
    "Good morning. The train to Boston leaves at nine fifteen.",
    "The kettle is boiling.",
    "Could you tell me where the library is?",
    "Twenty-four people came to the meeting on Friday.",
    "She sells bread and butter by the sea.",
    "Yes.",
    "It was raining, so we stayed at home and read.",
    "Please call me back tomorrow morning.",
)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


@contextlib.contextmanager
def serving(*config: str) -> Iterator[tuple[httpx.Client, int]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "qtts_openai", "serve", "--port", str(port), *config]
    with (
        subprocess.Popen(command, cwd=ROOT) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=600) as client,
    ):
        try:
            until(lambda: process.poll() is not None or healthy(client))
            assert process.poll() is None, "the server ended"
            yield client, process.pid
        finally:
            process.terminate()


def until(condition, timeout_s: float = 600) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)


def healthy(client: httpx.Client) -> bool:
    try:
        return client.get("/health").is_success
    except httpx.TransportError:
        return False


def speak(client: httpx.Client, text: str) -> np.ndarray:
    body = {"model": "tts-1", "input": text, "voice": "nova", "response_format": "pcm", "seed": 1}
    answer = client.post("/v1/audio/speech", json=body)
    answer.raise_for_status()
    return np.frombuffer(answer.content, "<i2").astype(np.int32)


def speak_all(client: httpx.Client) -> list[np.ndarray]:
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda text: speak(client, text), SENTENCES))


def assert_alike(got: list[np.ndarray], expected: list[np.ndarray]) -> None:
    """Chunks are cut by the clock, which can move a sample by a step or two of 16 bits."""
    for text, one, other in zip(SENTENCES, got, expected, strict=True):
        assert len(one) == len(other) > 0, text
        assert np.abs(one - other).max() <= 33, text


def gauge(client: httpx.Client, name: str) -> float:
    lines = client.get("/metrics").text.splitlines()
    return sum(float(x.split()[-1]) for x in lines if x.startswith(f"qtts_engine_{name}{{"))


def children(pid: int) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True)
    return [int(word) for word in found.stdout.split()]


def workers(pid: int) -> list[int]:
    lines = {child: Path(f"/proc/{child}/cmdline").read_bytes() for child in children(pid)}
    return [child for child, line in lines.items() if b"engine.worker" in line]


def test_it_is_heard_as_from_our_own_engine() -> None:
    with serving() as (client, _):
        expected = speak_all(client)
    with serving("--config", "deploy/vllm.yaml") as (client, pid):
        assert_alike(speak_all(client), expected)
        check_abort(client)
        (worker,) = workers(pid)
        os.kill(worker, signal.SIGKILL)
        until(lambda: not healthy(client), 10)
        until(lambda: healthy(client))
        assert workers(pid) != [worker]
        assert_alike(speak_all(client), expected)


def check_abort(client: httpx.Client) -> None:
    """A listener who leaves gives back row and blocks."""
    rows = gauge(client, "num_rows")
    body = {"model": "tts-1", "input": " ".join(SENTENCES * 4), "voice": "nova"}
    body |= {"response_format": "pcm"}
    with client.stream("POST", "/v1/audio/speech", json=body) as answer:
        pieces = answer.iter_raw()  # kept: httpx hangs up when it is forgotten
        next(pieces)
        until(lambda: gauge(client, "num_free_rows") < rows, 20)
    until(lambda: gauge(client, "num_free_rows") == rows, 20)
    assert gauge(client, "num_free_blocks") == gauge(client, "num_blocks")
