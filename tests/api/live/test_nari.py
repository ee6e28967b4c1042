"""/v1/audio/speech/ws as Nari's own benchmark checks it, on an engine that hums."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from websockets.sync.client import connect

from tests.api.conftest import Server
from tests.api.live.test_native import Client, wait_until_idle

AUDIO = {"encoding": "pcm_s16le", "sample_rate": 24000, "channels": 1}


@contextmanager
def session(server: Server, protocol: str | None = "nari.speech.v1") -> Iterator[Client]:
    protocols: Any = [protocol] if protocol else None
    url = server.url.replace("http", "ws") + "/v1/audio/speech/ws"
    with connect(url, subprotocols=protocols) as socket:
        yield Client(socket)


def begin(client: Client, **fields: Any) -> None:
    created = client.receive()
    assert created == {"type": "session.created", "protocol": "nari.speech.v1", "audio": AUDIO}
    client.send("request.start", **fields)
    assert client.receive() == {"type": "request.configured"}


def ack(client: Client, event: str, sequence: int) -> list[Any]:
    """What came before it."""
    before: list[Any] = []
    while True:
        message = client.receive()
        if isinstance(message, dict) and message["type"] == "input_text.ack":
            assert (message["event"], message["sequence"]) == (event, sequence)
            return before
        before.append(message)


def test_a_word_at_a_time_each_acknowledged(server: Server) -> None:
    server.engine.chunk_delay_s = 0.02
    with session(server) as client:
        begin(client, voice="aiden", seed=7, temperature=0.9)
        told: list[Any] = []
        for sequence, word in enumerate(["Hello ", "there ", "my ", "friend."]):
            client.send("input_text.append", sequence=sequence, text=word)
            told += ack(client, "input_text.append", sequence)
        client.send("input_text.end", sequence=4)
        told += ack(client, "input_text.end", 4)
        while not told or isinstance(told[-1], bytes) or told[-1]["type"] != "response.done":
            told.append(client.receive())
        assert client.close_code() == 1000
    started, *binaries, done = told
    assert started == {
        "type": "response.started",
        "request_id": started["request_id"],
        "audio": AUDIO,
    }
    assert all(isinstance(binary, bytes) and binary for binary in binaries)
    assert done["request_id"] == started["request_id"] and done["stop_reason"] == "stop"
    assert done["audio_chunks"] == len(binaries) > 1


def test_an_acknowledgement_does_not_wait_for_the_engine(server: Server) -> None:
    server.engine.hang_after = 0
    with session(server) as client:
        begin(client)
        for sequence in range(20):
            client.send("input_text.append", sequence=sequence, text="word ")
            ack(client, "input_text.append", sequence)
        client.send("response.cancel")
        assert client.until("response.done")[0][-1]["stop_reason"] == "cancelled"
        assert client.close_code() == 1000
    wait_until_idle(server)


def test_without_the_sub_protocol_it_ends(server: Server) -> None:
    with session(server, None) as client:
        assert client.close_code() == 1002


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ({"type": "input_text.append", "sequence": 1, "text": "x"}, "invalid_sequence"),
        ({"type": "input_text.append", "sequence": 0, "text": ""}, "invalid_text"),
        ({"type": "input_text.append", "sequence": "0", "text": "x"}, "invalid_request"),
        ({"type": "input_text.append", "sequence": 0, "text": "x", "y": 1}, "invalid_request"),
        ({"type": "input_text.end", "sequence": 0}, "empty_input"),
        ({"type": "input_text.flush"}, "unknown_event"),
    ],
)
def test_errors_have_codes_and_end_it(server: Server, message: Any, code: str) -> None:
    with session(server) as client:
        begin(client)
        client.socket.send(json.dumps(message))
        assert client.receive()["error"]["code"] == code
        assert client.close_code() == 1008


@pytest.mark.parametrize("fields", [{"voice": 7}, {"nope": 1}, {"subtalker_top_k": 5}])
def test_a_start_is_strict(server: Server, fields: dict[str, Any]) -> None:
    with session(server) as client:
        client.receive()
        client.send("request.start", **fields)
        assert client.receive()["error"]["code"] == "invalid_request"
        assert client.close_code() == 1008


def test_a_large_message_ends_it(server: Server) -> None:
    with session(server) as client:
        begin(client)
        client.send("input_text.append", sequence=0, text="x" * 70_000)
        assert client.close_code() == 1009
