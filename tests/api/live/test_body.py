"""POST /v1/audio/speech whose text comes line by line, on an engine that hums."""

import base64
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPResponse
from typing import Any

import pytest

from tests.api.audio import decode
from tests.api.conftest import Server
from tests.api.live.test_native import wait_until_idle

HEAD = (
    "POST /v1/audio/speech HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-ndjson\r\n"
    "Transfer-Encoding: chunked\r\n\r\n"
)
FIELDS = {"model": "tts-1", "voice": "alloy", "response_format": "pcm"}
KIND = {"content-type": "application/x-ndjson"}


def lines(*values: Any) -> Iterator[bytes]:
    for value in values:
        yield json.dumps(value).encode() + b"\n"


@contextmanager
def begun(server: Server, fields: dict[str, Any]) -> Iterator[tuple[Any, HTTPResponse]]:
    """A body whose answer sounds: what sends a chunk more of it (the last is empty), the answer."""
    address = server.url.removeprefix("http://").split(":")
    with socket.create_connection((address[0], int(address[1])), timeout=20) as connection:

        def send(chunk: bytes) -> None:
            connection.sendall(b"%x\r\n%b\r\n" % (len(chunk), chunk))

        connection.sendall(HEAD.encode())
        for line in lines(fields, *({"text": t} for t in ("Hello", " there,", " my", " friend"))):
            send(line)
        answer = HTTPResponse(connection)
        answer.begin()
        assert answer.status == 200 and answer.headers["x-synthetic-speech"]
        yield send, answer


def test_sound_comes_before_the_body_ends(server: Server) -> None:
    with begun(server, FIELDS) as (send, answer):
        assert len(answer.read(3840)) == 3840
        send(b'{"text": " of mine."}\n')
        send(b"")
        assert len(answer.read()) > 8 * 3840
    assert server.engine.submitted[0][1].text_open
    wait_until_idle(server)


@pytest.mark.parametrize("kind", ["mp3", "wav"])
def test_a_body_is_one_file_with_its_mark(server: Server, kind: str) -> None:
    fields = {**FIELDS, "response_format": kind}
    content = b"".join(lines(fields, {"text": "One."}, {"text": " Two."}))
    answer = server.http.post("/audio/speech", content=content, headers=KIND)
    assert answer.status_code == 200 and len(decode(kind, answer.content)[0]) > 20000
    if kind == "mp3":
        assert answer.content.startswith(b"ID3")


def test_events_have_words_and_an_end(server: Server) -> None:
    fields = {**FIELDS, "stream_format": "sse", "timestamps": "word"}
    content = b"".join(lines(fields, {"text": "Hello there,"}, {"text": " my friend."}))
    answer = server.http.post("/audio/speech", content=content, headers=KIND)
    told = [json.loads(line[6:]) for line in answer.text.splitlines() if line]
    pcm = b"".join(base64.b64decode(m["audio"]) for m in told if "audio" in m)
    words = [w for m in told if m["type"] == "speech.audio.words" for w in m["words"]]
    assert [w["word"] for w in words] == ["Hello", "there,", "my", "friend."]
    assert 0 <= words[-1]["start"] < len(pcm) / 48000
    assert told[-1]["type"] == "speech.audio.done" and told[-1]["finish_reason"] == "stop"
    assert told[-1]["usage"]["output_tokens"] * 3840 == len(pcm)
    marks = [i for i, event in enumerate(told) if "synthetic_speech" in event]
    assert marks == [0, len(told) - 1]


@pytest.mark.parametrize(
    ("content", "param"),
    [
        (b"", None),
        (b"[]", None),
        (b"{}\n\x80", "voice"),
        (b'{"speed": 9}', "speed"),
        (b'{"voice": "nobody"}', "voice"),
        (b'{"voice": "alloy"}', "input"),
        (b'{"voice": "alloy"}\n{"text": 7}', "text"),
        (b'{"voice": "alloy", "timestamps": "letter"}', "timestamps"),
        (b'{"voice": "alloy"}\n{"text": "' + b"x" * 140_000, None),
    ],
)
def test_what_cannot_be_is_a_400(server: Server, content: bytes, param: str | None) -> None:
    content = content.replace(b"{", b'{"model": "tts-1",', 1).replace(b",}", b"}")
    answer = server.http.post("/audio/speech", content=content, headers=KIND)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param
    wait_until_idle(server)


def test_a_bad_line_breaks_the_answer_off(server: Server) -> None:
    with begun(server, {**FIELDS, "stream_format": "sse"}) as (send, answer):
        send(b"{\n")
        told = [json.loads(line[6:]) for line in answer.read().splitlines() if line]
    assert told[-1]["type"] == "error"
    assert "speech.audio.done" not in {event["type"] for event in told}
    wait_until_idle(server)
