"""/v1/audio/speech/stream with a plain WebSocket client, on an engine that hums."""

import base64
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from engine import SAMPLES_PER_FRAME, GenerationFailedError
from qtts_openai.settings import AuthSettings, Limits, LiveSettings
from tests.api.conftest import Server
from tests.api.speech.test_streaming import wait_until

PATH = "/v1/audio/speech/stream"
FRAME = SAMPLES_PER_FRAME * 2
LIVE = {"voice": "alloy", "response_format": "pcm", "stream_audio": True}


class Client:
    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    def send(self, type_: str, **fields: Any) -> None:
        self.socket.send(json.dumps({"type": type_, **fields}))

    def receive(self) -> Any:
        """A message or, for sound, bytes."""
        data = self.socket.recv(timeout=20)
        return data if isinstance(data, bytes) else json.loads(data)

    def until(self, type_: str) -> tuple[list[dict[str, Any]], bytes]:
        """All messages up to that one, and the sound between them."""
        told: list[dict[str, Any]] = []
        pcm = b""
        while not told or told[-1]["type"] != type_:
            message = self.receive()
            if isinstance(message, bytes):
                assert message, "no empty frames"
                pcm += message
            else:
                told.append(message)
        return told, pcm

    def close_code(self) -> int:
        with pytest.raises(ConnectionClosed):
            while True:
                self.socket.recv(timeout=20)
        assert self.socket.close_code is not None
        return self.socket.close_code


@contextmanager
def session(
    server: Server, config: dict[str, Any] | None = None, **options: Any
) -> Iterator[Client]:
    with connect(server.url.replace("http", "ws") + PATH, **options) as socket:
        client = Client(socket)
        if config is not None:
            client.send("session.config", **config)
            assert client.receive()["type"] == "session.configured"
        yield client


def wait_until_idle(server: Server) -> None:
    until = time.monotonic() + 10
    while server.engine.live and time.monotonic() < until:
        time.sleep(0.01)
    assert not server.engine.live


def test_sound_comes_before_the_text_ends(server: Server) -> None:
    with session(server, LIVE) as client:
        for token in ("Hel", "lo", " there", ", my", " friend"):
            client.send("input.text", text=token)
        start = client.receive()
        assert start["type"] == "audio.start"
        begun = start["sentence_text"]
        assert begun.startswith("Hello") and "Hello there, my friend".startswith(begun)
        assert (start["format"], start["sample_rate"]) == ("pcm", 24_000)
        assert len(client.receive()) % FRAME == 0
        client.send("input.text", text=" of mine.")
        client.send("input.done")
        told, _ = client.until("session.done")
        assert told[-1]["total_sentences"] == 1 and told[-1]["utterance_index"] == 0
        client.send("input.text", text="Once more.")
        client.send("input.done")
        told, pcm = client.until("session.done")
        start, done, end = told
        assert end["utterance_index"] == done["utterance_index"] == start["utterance_index"] == 1
        assert done["total_bytes"] == len(pcm) > 0
    _, prompt, params, _ = server.engine.submitted[0]
    assert prompt.streaming_text and prompt.text_open
    assert params.seed == server.engine.submitted[1][2].seed, "one voice for all turns"
    wait_until_idle(server)


def test_any_split_gives_the_same_text_to_the_engine(server: Server) -> None:
    text = "Well, take 3 kg of **very good** apples to Dr. Smith, please!"
    heard = []
    for size in (len(text), 7, 2):
        server.engine.behave()
        with session(server, LIVE) as client:
            for at in range(0, len(text), size):
                client.send("input.text", text=text[at : at + size])
            client.send("input.done")
            client.until("session.done")
        heard.append([stream.prompt.text for stream in server.engine.streams])
    assert heard[0] == heard[1] == heard[2] and len(heard[0][0]) > 20


def test_an_empty_turn_is_answered_without_the_engine(server: Server) -> None:
    with session(server, LIVE) as client:
        for index in range(2):
            client.send("input.done")
            told, pcm = client.until("session.done")
            assert told[-1]["total_sentences"] == 0 and told[-1]["utterance_index"] == index
            assert pcm == b""
    assert server.engine.submitted == []


def test_barge_in_is_answered_and_nothing_comes_after_it(server: Server) -> None:
    server.engine.chunk_delay_s = 0.02
    with session(server, LIVE) as client:
        client.send("input.text", text="One two three four five six seven eight nine ten eleven ")
        while not isinstance(client.receive(), bytes):
            pass
        client.send("input.cancel", played_ms=300)
        told, _ = client.until("audio.cancelled")
        cut = told[-1]
        assert cut["reason"] == "client" and 0 < cut["played_ms"] <= 300 and cut["estimated"]
        words = f"{cut['text_spoken']} {cut['text_remaining']}".split()
        assert words[:3] == ["One", "two", "three"]
        assert cut["text_remaining"].endswith("ten eleven")
        wait_until_idle(server)
        for _ in range(2):  # idempotent, and never without an answer
            client.send("input.cancel")
            again = client.receive()
            assert again["type"] == "audio.cancelled" and again["utterance_index"] is None
        client.send("input.text", text="Next turn.")
        client.send("input.done")
        told, pcm = client.until("session.done")
        assert pcm and told[0]["sentence_text"].startswith("Next")


def test_a_client_that_vanishes_frees_its_row(server: Server) -> None:
    for _ in range(5):
        with session(server, LIVE) as client:
            client.send("input.text", text="A text that has not been sent to its ")
            client.until("audio.start")
            client.socket.socket.close()
    wait_until_idle(server)
    gone = 'qtts_live_sessions{dialect="native"} 0.0'
    wait_until(lambda: gone in server.http.get("../metrics").text, 30)


def test_sockets_without_text_take_no_row(server: Server) -> None:
    with session(server, LIVE) as one, session(server, LIVE), session(server):
        one.send("input.text", text="Wor")
        time.sleep(0.4)
        assert server.engine.submitted == []


@pytest.mark.parametrize("form", ["chunks", "alignment"])
def test_words_have_times(server: Server, form: str) -> None:
    times: dict[str, Any] = {"chunks": {"word_timestamps": True}}.get(
        form, {"timestamp_type": "word", "timestamp_transport_strategy": "sync"}
    )
    with session(server, {**LIVE, **times}) as client:
        client.send("input.text", text="Hello there my friend.")
        client.send("input.done")
        told, pcm = client.until("session.done")
    if form == "alignment":
        times = next(m for m in told if m["type"] == "audio.done")["timestamp_info"]
        words, ends = (times["word_alignment"][k] for k in ("words", "word_end_times_seconds"))
        ends_ms, total = [end * 1000 for end in ends], len(pcm)
    else:
        chunks = [m for m in told if m["type"] == "audio.chunk"]
        words = [w["word"] for w in chunks[-1]["timestamps"]]
        ends_ms = [w["end_ms"] for w in chunks[-1]["timestamps"]]
        total = sum(len(base64.b64decode(m["audio_b64"])) for m in chunks)
        assert pcm == b""
    assert words == ["Hello", "there", "my", "friend."]
    assert ends_ms == sorted(ends_ms) and abs(ends_ms[-1] - total / 48) < 2


@pytest.mark.parametrize(
    "first", ['{"type": "input.text", "text": "x"}', "{", "[]", '"x"', '{"type": 7}']
)
def test_what_comes_before_a_config_ends_the_session(server: Server, first: str) -> None:
    with session(server) as client:
        client.socket.send(first)
        assert client.receive()["type"] == "error"
        assert client.close_code() == 1008


@pytest.mark.parametrize(
    ("config", "param"),
    [
        ({"voice": "nobody"}, "voice"),
        ({"stream_audio": True, "response_format": "mp3"}, "response_format"),
        ({"speed": 9}, "speed"),
        ({"split_granularity": "word"}, "split_granularity"),
        ({"model": "no-such"}, "model"),
    ],
)
def test_a_config_that_cannot_be_names_its_field(
    server: Server, config: dict[str, Any], param: str
) -> None:
    with session(server) as client:
        client.send("session.config", **config)
        error = client.receive()
        assert error["type"] == "error" and error["param"] == param
        assert client.close_code() == 1008


HOSTILE = (
    ["{", "[]", "null", '{"type": null}', '{"type": "input.text"}', '{"text": "x"}']
    + [json.dumps({"type": "input.text", "text": value}) for value in (None, 7, [], {}, True)]
    + [json.dumps({"type": "input.cancel", "played_ms": value}) for value in ("x", -1, [], True)]
)


def test_later_errors_do_not_end_the_session(server: Server) -> None:
    with session(server, LIVE) as client:
        for message in HOSTILE:
            client.socket.send(message)
            assert client.receive()["type"] == "error", message
        client.send("input.text", text="Still here, you see.")
        client.send("session.config", voice="alloy")
        assert "open" in client.until("error")[0][-1]["message"]
        client.send("input.done")
        assert client.until("session.done")[1]


def test_binary_and_large_messages_end_the_session(server: Server) -> None:
    with session(server, LIVE) as client:
        client.socket.send(b"\0\1")
        assert client.close_code() == 1003
    with session(server, LIVE) as client:
        client.send("input.text", text="x" * 140_000)
        assert client.close_code() == 1009


def test_a_failure_is_told_and_the_next_turn_works(server: Server) -> None:
    server.engine.submit_error = GenerationFailedError("broken")
    with session(server, LIVE) as client:
        client.send("input.text", text="Hello there.")
        client.send("input.done")
        told, pcm = client.until("session.done")
        assert [m["type"] for m in told] == ["error", "audio.done", "session.done"]
        assert told[1]["error"] is True and pcm == b""
        server.engine.submit_error = None
        client.send("input.text", text="Hello there.")
        client.send("input.done")
        assert client.until("session.done")[1]


def test_keys_limits_and_origins_are_looked_at_before_the_upgrade(start, monkeypatch) -> None:
    monkeypatch.setenv("QTTS_API_KEYS", "secret")
    limits = Limits(max_concurrent_per_key=1)
    server = start(auth=AuthSettings(), limits=limits, live=LiveSettings(max_sessions=3))
    url = server.url.replace("http", "ws") + PATH

    def status(**options: Any) -> int:
        with pytest.raises(InvalidStatus) as refused:
            connect(url, **options)
        return refused.value.response.status_code

    assert status() == 401
    assert status(additional_headers={"Authorization": "Bearer wrong"}) == 401
    for options in (
        {"additional_headers": {"Authorization": "Bearer secret"}},
        {"additional_headers": {"Authorization": "Token secret"}},
        {"additional_headers": {"Authorization": "Api-Key secret"}},
        {"additional_headers": {"xi-api-key": "secret"}},
        {"subprotocols": ["token", "secret"]},
        {"subprotocols": ["realtime", "openai-insecure-api-key.secret"]},
    ):
        with connect(url, **options) as socket:
            assert socket.subprotocol in (None, "token", "realtime")
            assert not socket.protocol.extensions, "no permessage-deflate"
            with pytest.raises(InvalidStatus) as refused:
                connect(url, **options)
            assert refused.value.response.status_code == 429
            Client(socket).send("session.close")


def test_a_page_of_another_origin_is_refused(server: Server) -> None:
    with pytest.raises(InvalidStatus):
        connect(server.url.replace("http", "ws") + PATH, origin="https://evil.example")


def test_a_session_ends_when_no_config_comes(start) -> None:
    server = start(live=LiveSettings(config_timeout_s=0.2))
    with session(server) as client:
        assert client.receive()["type"] == "error"
        assert client.close_code() == 1008


def test_a_session_ends_when_nothing_comes_and_nothing_is_open(start) -> None:
    server = start(live=LiveSettings(idle_timeout_s=1.0))
    with session(server, LIVE) as client:
        client.send("input.text", text="Hello there my friend ")
        client.until("audio.start")
        time.sleep(2.5)
        client.send("input.done")
        client.until("session.done")
        assert client.close_code() == 1008
