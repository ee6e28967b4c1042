"""Nothing that a request brings holds the event loop: a watchdog times every callback on it."""

import asyncio
import base64
import gc
import json
import time
from collections.abc import Callable, Iterator

import pytest

from qtts_openai.settings import TextSettings
from tests.api.conftest import BASE, CUSTOM, DESIGN, Server

SPEECH, VOICES = "/audio/speech", "/audio/voices"
FORM = "multipart/form-data; boundary=b"
# Of CPU time: 50 ms on an idle machine; a busy one takes up to three times as much of it.
AT_MOST_S = 0.15
BIG = 13_000_000  # about what a body may hold where a Base model is loaded
HEAD = b'{"model":"base","input":"x",'


def part(name: str, value: bytes, more: bytes = b"") -> bytes:
    head = b'--b\r\ncontent-disposition: form-data; name="%s"%s\r\n\r\n' % (name.encode(), more)
    return head + value + b"\r\n"


def speech(**fields: object) -> bytes:
    return json.dumps({"model": "tts-1", "voice": "alloy", "input": "Hi.", **fields}).encode()


FILE = b'; filename="a.wav"\r\ncontent-type: audio/wav'
PROSE = "In 1984, at 5 o'clock, Mr. Smith paid $3.50 (see https://x.example/a_b). "
BODIES = {
    "base64": (SPEECH, HEAD + b'"ref_audio":"' + base64.b64encode(b"x" * (BIG * 3 // 4)) + b'"}'),
    "base64 of spaces": (SPEECH, HEAD + b'"ref_audio":"' + b" " * BIG + b'"}'),
    "escapes": (SPEECH, HEAD + b'"x":"' + b"\\n" * (BIG // 2) + b'"}'),
    "escapes in base64": (SPEECH, HEAD + b'"ref_audio":"' + b"\\u0041" * (BIG // 6) + b'"}'),
    "surrogates": (SPEECH, HEAD + b'"x":"' + b"\\ud800" * (BIG // 6) + b'"}'),
    "accents": (SPEECH, HEAD + b'"x":"' + "é".encode() * (BIG // 2) + b'"}'),
    "digits": (SPEECH, HEAD + b'"x":' + b"1" * BIG + b"}"),
    "a long text": (SPEECH, speech(input=PROSE * 400)),
    "a text": (SPEECH, speech(input=(PROSE * 60)[:4096])),
    "a short text": (SPEECH, speech(input=(PROSE * 60)[:2000], normalize="full")),
    "pronunciations": (
        SPEECH,
        speech(
            input=" ".join(f"word{i % 200}" for i in range(500))[:4096],
            pronunciations={f"word{i}": f"said as {i}" for i in range(200)},
        ),
    ),
    "a batch": (
        f"{SPEECH}/batch",
        speech(items=[{"input": (PROSE * 30)[:2000], "response_format": "pcm"}] * 8),
    ),
    "a file": (
        VOICES,
        part("name", b"n") + part("audio_sample", b"\0" * 9_000_000, FILE) + b"--b--",
    ),
    "parts": (VOICES, part("a", b"") * 40_000 + b"--b--"),
    "near boundaries": (VOICES, b"--b\r\n" + b"\r\n--" * 2_000_000),
    "near ends of a file": (VOICES, part("audio_sample", b"\r\n--" * 2_000_000, FILE) + b"--b--"),
    "a long field": (VOICES, part("name", b"x" * 9_000_000) + b"--b--"),
}


@pytest.fixture
def callbacks(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[float, str]]]:
    """Seconds of CPU that each callback on an event loop of this process takes, and what it was."""
    seen: list[tuple[float, str]] = []
    run = asyncio.Handle._run

    def timed(handle: asyncio.Handle) -> None:
        started = time.thread_time()
        run(handle)
        took = time.thread_time() - started
        seen.append((took, repr(handle) if took > 0.01 else ""))

    monkeypatch.setattr(asyncio.Handle, "_run", timed)
    gc.freeze()  # `serve` does so, too; here there is all that tests have made
    yield seen
    gc.unfreeze()


def test_no_callback_takes_long(start: Callable[..., Server], callbacks) -> None:
    server = start(models=(CUSTOM, DESIGN, BASE), text=TextSettings(max_long_chars=200_000))
    server.speak()  # what is imported at the first request is
    longest = {}
    for name, (path, body) in BODIES.items():
        callbacks.clear()
        headers = {"content-type": FORM if path == VOICES else "application/json"}
        with server.http.stream("POST", path, content=body, headers=headers, timeout=60) as answer:
            assert answer.status_code in (200, 400), name
            next(answer.iter_raw(), None)
        longest[name] = max(callbacks)
    slowest = sorted(((*took, name) for name, took in longest.items()), reverse=True)
    print(*slowest[:6], sep="\n")
    assert slowest[0][0] < AT_MOST_S
