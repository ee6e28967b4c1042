"""Nothing that a body brings holds the event loop: `watched_loop` times every callback on it."""

import base64
import json
from collections.abc import Callable

from qtts_openai.settings import TextSettings
from tests.api.conftest import BASE, CUSTOM, DESIGN, Server

SPEECH, VOICES = "/audio/speech", "/audio/voices"
FORM = "multipart/form-data; boundary=b"
# Half of what a body may hold where a Base model is loaded: busy cores take twice as long.
BIG = 6_500_000
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
    "a file": (
        VOICES,
        part("name", b"n") + part("audio_sample", b"\0" * 2_000_000, FILE) + b"--b--",
    ),
    "parts": (VOICES, part("a", b"") * 40_000 + b"--b--"),
    "near boundaries": (VOICES, b"--b\r\n" + b"\r\n--" * 1_000_000),
    "near ends of a file": (VOICES, part("audio_sample", b"\r\n--" * 1_000_000, FILE) + b"--b--"),
    "a long field": (VOICES, part("name", b"x" * 4_500_000) + b"--b--"),
}


def test_no_callback_takes_long(start: Callable[..., Server], watched_loop: list[str]) -> None:
    server = start(models=(CUSTOM, DESIGN, BASE), text=TextSettings(max_long_chars=200_000))
    for name, (path, body) in BODIES.items():
        headers = {"content-type": FORM if path == VOICES else "application/json"}
        with server.http.stream("POST", path, content=body, headers=headers, timeout=60) as answer:
            assert answer.status_code in (200, 400), name
            next(answer.iter_raw(), None)
        assert not watched_loop, name
