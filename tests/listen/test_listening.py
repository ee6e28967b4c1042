"""The voice in the box, through a real server, heard by an offline recogniser."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from engine.protocol import SAMPLE_RATE_HZ

pytest.importorskip("parselmouth")
from training.evaluate_voices import as_data_url, pitch_hz
from training.judge import Judge, errors, normalise, sentences

pytestmark = [
    pytest.mark.listen,
    pytest.mark.slow,
    pytest.mark.timeout(900),
]

ANSWERS = json.loads((Path(__file__).parents[1] / "api/text/chat_answers.json").read_text("utf-8"))
VOICES = ["ava", "max"]
# What these weights miss: training/MODEL_CARD.md has the figures.
MISHEARD = pytest.mark.xfail(reason="too many words are misheard", raises=AssertionError)
# A word error rate, and which sentences of the category are read.
CATEGORIES = {
    "everyday": (0.2, slice(None, None, 6)),
    "assistant": (0.25, slice(None, None, 2)),
    "names": (0.35, slice(None, None, 2)),
    "questions": (0.3, slice(None, None, 2)),
    "numbers": (0.35, slice(None, None, 3)),
    "oneword": (0.6, slice(None)),
    "longer": (0.25, slice(None, None, 2)),
    "paragraph": (0.25, slice(None)),
    "written": (0.6, slice(None, None, 2)),
}


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
            pass
        time.sleep(0.2)
    raise AssertionError("the server did not get ready")


def _speak(server: httpx.Client, text: str, voice: str | None, **more) -> np.ndarray:
    """Samples between -1 and 1. `voice`: None where `more` says who speaks."""
    body = {"model": "tts-1", "input": text, "voice": voice, "response_format": "pcm", "seed": 1}
    answer = server.post("/audio/speech", json=body | more)
    answer.raise_for_status()
    return np.frombuffer(answer.content, "<i2").astype(np.float32) / 32768


@pytest.mark.parametrize("voice", VOICES)
def test_a_sentence_is_understood_word_for_word(server: httpx.Client, judge: Judge, voice: str):
    text = "Good morning. The train to Boston leaves at nine fifteen."
    heard = judge.hear(_speak(server, text, voice), SAMPLE_RATE_HZ)
    assert errors(heard, text)[0] == 0, heard


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "streaming"])
@pytest.mark.parametrize("category", CATEGORIES)
@pytest.mark.parametrize("voice", VOICES)
def test_sentences_no_training_file_holds_are_understood(
    request: pytest.FixtureRequest,
    server: httpx.Client,
    judge: Judge,
    voice: str,
    category: str,
    whole: bool,
):
    if (category, voice, whole) == ("oneword", "max", False):
        request.applymarker(MISHEARD)
    most, chosen = CATEGORIES[category]
    wrong = total = 0
    for _, text, spoken in sentences(category)[chosen]:
        samples = _speak(server, text, voice, non_streaming_mode=whole)
        heard = judge.hear(samples, SAMPLE_RATE_HZ)
        print(f"{text!r} -> {heard!r}")
        wrong += errors(heard, spoken)[0]
        total += len(normalise(spoken))
    assert wrong / total < most


@pytest.mark.parametrize("voice", [*VOICES, "vivian"])
@pytest.mark.parametrize(
    "text", ["Yes.", "Hello.", "Tomorrow.", "42", "Hi Привет.", "Hi 你好", "!?", "é"]
)
def test_short_and_foreign_input_ends_soon(server: httpx.Client, text: str, voice: str):
    assert len(_speak(server, text, voice)) / SAMPLE_RATE_HZ < 3


def test_chat_answers_are_understood_as_if_cleaned_by_hand(server: httpx.Client, judge: Judge):
    """Every other: of 20 a word more or less would decide. Figures: benchmarks/RESULTS.md."""
    wrong, total = {"chat": 0, "hand": 0}, 0
    for number, (answer, by_hand) in enumerate(ANSWERS[::2]):
        total += len(normalise(by_hand))
        for kind, text in (("chat", answer), ("hand", by_hand)):
            heard = judge.hear(_speak(server, text, VOICES[number % 2]), SAMPLE_RATE_HZ)
            print(f"{text!r} -> {heard!r}")
            wrong[kind] += errors(heard, by_hand)[0]
    assert wrong["chat"] - wrong["hand"] <= 0.02 * total, (wrong, total)


@pytest.mark.parametrize(
    ("description", "low_hz", "high_hz"),
    [
        pytest.param("an old man with a deep, slow voice", 60, 110, marks=MISHEARD),
        pytest.param("a little girl, bright and quick", 230, 350, marks=MISHEARD),
        ("A calm middle-aged woman with a warm, low voice.", 115, 175),
        ("A young man who talks fast", 95, 155),
    ],
)
def test_described_voices_fit_and_are_understood(
    server: httpx.Client, judge: Judge, description: str, low_hz: int, high_hz: int
):
    asked = {"task_type": "VoiceDesign", "instructions": description}
    samples = _understood(server, judge, asked, most=0.2)
    assert low_hz < pitch_hz(samples) < high_hz


@pytest.mark.parametrize("like", VOICES)
def test_cloned_voices_are_near_and_are_understood(server: httpx.Client, judge: Judge, like: str):
    """From three seconds of a named voice of the box."""
    text = "She could not find her glasses anywhere, and the bus leaves at nine."
    recording = _speak(server, text, like)[: 3 * SAMPLE_RATE_HZ]
    asked = {"ref_audio": as_data_url(recording)}
    samples = _understood(server, judge, asked, most=0.25)
    assert abs(12 * np.log2(pitch_hz(samples) / pitch_hz(recording))) < 3


def _understood(server: httpx.Client, judge: Judge, asked: dict, most: float) -> np.ndarray:
    """All the samples of ten everyday sentences in one voice."""
    wrong, total, said = 0, 0, []
    for _, text, spoken in sentences("everyday")[::5]:
        said.append(_speak(server, text, None, **asked))
        heard = judge.hear(said[-1], SAMPLE_RATE_HZ)
        print(f"{text!r} -> {heard!r}")
        wrong += errors(heard, spoken)[0]
        total += len(normalise(spoken))
    assert wrong / total < most
    return np.concatenate(said)


def test_the_same_seed_says_the_same(server: httpx.Client):
    first, again = (_speak(server, "The kettle is boiling.", "alloy") for _ in range(2))
    # Chunks are cut by the clock, which can move a sample by one step of 16 bits.
    assert np.allclose(first, again, atol=1e-3)
