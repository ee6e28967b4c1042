"""Failures, vanishing clients and load: what an answer does when things go wrong."""

import base64
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from engine import (
    EngineDeadError,
    FinishReason,
    GenerationFailedError,
    InvalidPromptError,
    QueueFullError,
)
from qtts_openai.speech.encoders import AudioEncoder
from tests.api.audio import without_serials
from tests.api.test_speech import assert_envelope, read_events

LONG = "The old clock had stopped at a quarter past nine. " * 8


@pytest.mark.parametrize(
    ("error", "status", "type_", "code", "param"),
    [
        (QueueFullError("busy", 3.2), 429, "rate_limit_error", "queue_full", None),
        (EngineDeadError("gone", 2.0), 503, "server_error", "engine_unavailable", None),
        (InvalidPromptError("too long", "input"), 400, "invalid_request_error", ..., "input"),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
def test_errors_at_the_door(server, error, status, type_, code, param, stream):
    server.engine.submit_error = error
    answer = server.speak(stream=stream)
    assert assert_envelope(answer, status, param, code)["type"] == type_
    if status != 400:
        assert int(answer.headers["retry-after"]) >= error.retry_after_s
        assert int(answer.headers["retry-after-ms"]) == error.retry_after_s * 1000


@pytest.mark.parametrize("stream_format", ["audio", "sse"])
@pytest.mark.parametrize(
    ("error", "status"),
    [
        (GenerationFailedError("no"), 500),
        (EngineDeadError("gone"), 503),
        (InvalidPromptError("bad", "input"), 400),
    ],
)
def test_errors_before_the_first_audio_are_clean(server, stream_format, error, status):
    server.engine.fail_after, server.engine.stream_error = 0, error
    assert_envelope(server.speak(stream_format=stream_format), status)
    assert not server.engine.live


@pytest.mark.parametrize("audio_format", ["mp3", "opus", "wav", "pcm"])
def test_a_failure_after_the_first_audio_breaks_the_body(server, audio_format):
    server.engine.fail_after = 2
    with pytest.raises(httpx.RemoteProtocolError):
        server.speak(input=LONG, response_format=audio_format)
    assert not server.engine.live
    server.engine.behave()
    assert server.speak().status_code == 200


def test_a_failure_after_the_first_audio_is_an_event_in_sse(server):
    server.engine.fail_after = 2
    answer = server.speak(input=LONG, stream_format="sse")
    events = read_events(answer.text)
    assert [event["type"] for event in events] == ["speech.audio.delta"] * 2 + ["error"]
    error = events[-1]["error"]
    assert error["code"] == "engine_unavailable"
    assert set(error) == {"message", "type", "param", "code"}


def test_a_failure_in_a_whole_body_is_a_clean_error(server):
    server.engine.fail_after = 2
    assert_envelope(server.speak(input=LONG, stream=False), 503)


@pytest.mark.parametrize("audio_format", ["mp3", "wav"])
def test_an_encoder_that_fails_in_the_middle_ends_the_utterance(server, monkeypatch, audio_format):
    encode, calls = AudioEncoder.encode, []

    def failing(self: AudioEncoder, pcm: bytes) -> bytes:
        calls.append(len(pcm))
        if len(calls) > 2:
            raise RuntimeError("the codec of the distribution says no")
        return encode(self, pcm)

    monkeypatch.setattr(AudioEncoder, "encode", failing)
    with pytest.raises(httpx.RemoteProtocolError):
        server.speak(input=LONG, response_format=audio_format)
    assert not server.engine.live
    calls.clear()
    events = read_events(
        server.speak(input=LONG, response_format=audio_format, stream_format="sse").text
    )
    assert events[-1]["type"] == "error" and "distribution" not in str(events)
    calls.clear()
    whole = server.speak(input=LONG, response_format=audio_format, stream=False)
    assert_envelope(whole, 500, code="internal_error")
    assert "distribution" not in whole.text and not server.engine.live


@pytest.mark.parametrize("reason", [FinishReason.ERROR, FinishReason.ABORT])
def test_an_utterance_that_ended_early_is_never_a_short_success(server, reason):
    server.engine.end_reason = reason
    with pytest.raises(httpx.RemoteProtocolError):
        server.speak(response_format="pcm")
    assert_envelope(server.speak(stream=False), 500, code="generation_failed")


def test_a_runaway_is_told(server):
    server.engine.end_reason = FinishReason.LENGTH
    assert server.speak(stream=False).headers["x-finish-reason"] == "length"
    events = read_events(server.speak(stream_format="sse").text)
    assert events[-1]["finish_reason"] == "length"


def post_and_leave(server, body: dict, read_bytes: int) -> None:
    """A request over a bare socket that is dropped after a few bytes of the answer."""
    data = json.dumps({"model": "tts-1", "voice": "alloy", **body}).encode()
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as client:
        key = server.http.headers.get("authorization", "")
        head = "POST /v1/audio/speech HTTP/1.1\r\nHost: x\r\n"
        head += f"Authorization: {key}\r\nContent-Length: {len(data)}\r\n\r\n"
        client.sendall(head.encode() + data)
        if read_bytes:
            client.recv(read_bytes)
        else:
            time.sleep(0.2)


def wait_until(condition, seconds: float = 30.0) -> None:
    """For what comes at once where the machine is not busy."""
    start = time.perf_counter()
    while not condition():
        assert time.perf_counter() - start < seconds, "not within time"
        time.sleep(0.005)


def wait_until_freed(engine) -> None:
    """Every utterance was given up; none came to its end."""
    wait_until(lambda: engine.submitted and not engine.live)
    assert all(stream.aborted for stream in engine.streams)


@pytest.mark.parametrize("stream_format", ["audio", "sse"])
@pytest.mark.parametrize("hang_after", [None, 1])
def test_a_client_that_leaves_while_listening_frees_the_engine(server, stream_format, hang_after):
    server.engine.chunk_delay_s, server.engine.hang_after = 0.05, hang_after
    post_and_leave(server, {"input": LONG, "stream_format": stream_format}, 200)
    wait_until_freed(server.engine)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_before_the_first_audio_frees_the_engine(server, stream):
    server.engine.hang_after = 0
    post_and_leave(server, {"input": LONG, "stream": stream}, 0)
    wait_until_freed(server.engine)


def test_a_client_that_leaves_while_a_whole_body_is_made_frees_the_engine(server):
    server.engine.hang_after = 2
    post_and_leave(server, {"input": LONG, "stream": False}, 0)
    wait_until_freed(server.engine)


def test_16_clients_that_read_a_little_and_vanish(server):
    server.engine.chunk_delay_s = 0.02
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda _: post_and_leave(server, {"input": LONG}, 100), range(16)))
    wait_until_freed(server.engine)
    assert len(server.engine.submitted) == 16


def test_the_first_bytes_come_before_the_speech_is_done(server):
    body = {"model": "tts-1", "input": LONG, "voice": "alloy", "response_format": "pcm"}
    server.engine.hang_after = 1  # what follows is not made before the first bytes are here
    with server.http.stream("POST", "/audio/speech", json=body) as answer:
        assert next(answer.iter_raw())


def test_8_at_once_in_mixed_formats_are_all_whole(server):
    alone = {
        name: server.speak(response_format=name).content for name in ("pcm", "mp3", "wav", "opus")
    }
    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(
            lambda name: (name, server.speak(response_format=name).content), list(alone) * 2
        )
        assert all(without_serials(c) == without_serials(alone[name]) for name, c in answers)


def test_a_burst_of_four_times_the_limit_is_answered_whole_or_refused_with_retry_after(server):
    alone = server.speak(response_format="wav").content
    server.engine.max_live, server.engine.chunk_delay_s = 8, 0.05
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda _: server.speak(response_format="wav"), range(32)))
    assert sum(answer.status_code == 200 for answer in answers) >= 8
    for answer in answers:
        if answer.status_code == 200:
            assert answer.content == alone
        else:
            assert_envelope(answer, 429, None, "queue_full")
            assert answer.headers["retry-after"] == "1"


def test_an_error_and_a_success_on_one_connection(server):
    with httpx.Client(base_url=server.base_url, limits=httpx.Limits(max_connections=1)) as one:
        assert one.post("/audio/speech", json={"input": ""}).status_code == 400
        body = {"model": "tts-1", "input": "Hi.", "voice": "alloy"}
        assert one.post("/audio/speech", json=body).status_code == 200


def test_stopping_lets_running_answers_end(start):
    server = start()
    server.engine.chunk_delay_s = 0.1
    whole = server.speak(response_format="pcm").content
    result: list[bytes] = []
    thread = threading.Thread(
        target=lambda: result.append(server.speak(response_format="pcm").content)
    )
    thread.start()
    wait_until(lambda: len(server.engine.submitted) == 2)
    server.uvicorn.should_exit = True
    thread.join(10)
    assert result == [whole]
    wait_until(lambda: server.engine.closed)
    assert server.engine.drained


def test_sse_deltas_of_pcm_do_not_split_samples(server):
    events = read_events(server.speak(stream_format="sse", response_format="pcm").text)
    assert all(len(base64.b64decode(event["audio"])) % 2 == 0 for event in events[:-1])
