"""DashScope's and Together's dialects with a plain WebSocket client, on an engine that hums."""

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from websockets.sync.client import connect

from qtts_openai.settings import LiveSettings
from tests.api.conftest import Server
from tests.api.live.test_native import Client, wait_until_idle

APPEND, COMMIT, CLEAR = (f"input_text_buffer.{verb}" for verb in ("append", "commit", "clear"))
DASHSCOPE = "/api-ws/v1/realtime?model=qwen3-tts-flash-realtime"
TOGETHER = "/v1/audio/speech/websocket?model=canopylabs/orpheus&voice=alloy"
RESPONSE = [
    "response.created",
    "response.output_item.added",
    "response.content_part.added",
    "response.audio.delta",
    "response.audio.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.done",
]


@contextmanager
def session(server: Server, path: str) -> Iterator[Client]:
    with connect(server.url.replace("http", "ws") + path) as socket:
        client = Client(socket)
        if client.until("session.created"):
            yield client


def kinds(told: list[dict[str, Any]]) -> list[str]:
    """Without repetitions."""
    return list(dict.fromkeys(message["type"] for message in told))


def sound(told: list[dict[str, Any]]) -> bytes:
    return b"".join(base64.b64decode(m["delta"]) for m in told if "delta" in m)


@pytest.mark.parametrize("mode", ["server_commit", "commit"])
def test_dashscope_speaks_as_it_comes_or_when_it_is_told(server: Server, mode: str) -> None:
    with session(server, DASHSCOPE) as client:
        client.send("session.update", session={"voice": "nova", "mode": mode, "sample_rate": 16000})
        updated = client.until("session.updated")[0][-1]["session"]
        assert (updated["mode"], updated["sample_rate"]) == (mode, 16000)
        for token in ("Hello", " there,", " my", " friend "):
            client.send(APPEND, text=token)
        if mode == "server_commit":
            assert client.receive()["type"] == "response.created", "before the text ends"
        else:
            assert server.engine.submitted == []
        client.send(COMMIT)
        told, _ = client.until("response.done")
        expected = [*RESPONSE, "input_text_buffer.committed"]
        assert {*kinds(told), "response.created"} == {*expected}
        assert all(m["event_id"].startswith("event_") for m in told)
        done = told[-1]["response"]
        assert done["status"] == "completed" and done["usage"]["characters"] == 22
        assert {m["response_id"] for m in told if "delta" in m} == {done["id"]}
        assert len(sound(told)) > 16000
        client.send(APPEND, text="The rest.")
        client.send("session.finish")
        told, _ = client.until("session.finished")
        assert kinds(told) == [*RESPONSE, "session.finished"] and client.close_code() == 1000


def test_dashscope_clears_and_cancels(server: Server) -> None:
    server.engine.chunk_delay_s = 0.02
    with session(server, DASHSCOPE) as client:
        for verb, answer in ((CLEAR, "input_text_buffer.cleared"), ("response.cancel", None)):
            client.send(APPEND, text="One two three four five six seven eight nine ten ")
            client.until("response.audio.delta")
            client.send(verb)
            told, _ = client.until("response.done")
            assert told[-1]["response"]["status"] == "cancelled"
            wait_until_idle(server)
            if answer:
                assert client.receive()["type"] == answer
        client.send("session.finish")
        assert kinds(client.until("session.finished")[0]) == ["session.finished"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"voice": "nobody"}, "voice"),
        ({"mode": "later"}, "mode"),
        ({"pitch_rate": 1.5}, "pitch_rate"),
        ({"response_format": "mp7"}, "response_format"),
        ({"sample_rate": "x"}, "sample_rate"),
        (None, "session"),
    ],
)
def test_dashscope_names_what_cannot_be(server: Server, fields: Any, param: str) -> None:
    with session(server, DASHSCOPE) as client:
        client.send("session.update", session=fields)
        assert client.until("error")[0][-1]["error"]["param"] == param
        client.send(APPEND, text="It goes on.")
        client.send("session.finish")
        assert sound(client.until("session.finished")[0])


def test_together_speaks_clears_and_changes_its_voice(start) -> None:
    server = start(live=LiveSettings(voices={"tara": "nova"}))
    with session(server, TOGETHER) as client:
        client.send("tts_session.updated", session={"voice": "tara"})
        assert client.receive()["session"]["voice"] == "tara"
        client.send(APPEND, text="Hello there.")
        assert client.receive() == {
            "type": "conversation.item.input_text.received",
            "text": "Hello there.",
        }
        client.send(COMMIT)
        told, _ = client.until("conversation.item.audio_output.done")
        assert len(sound(told)) > 24000 and len({m["item_id"] for m in told}) == 1
        client.send(APPEND, text="One two three four five six seven ")
        client.until("conversation.item.audio_output.delta")
        client.send(CLEAR)
        client.until("input_text_buffer.cleared")
        for message in ({"session": {"voice": "nobody"}}, {"session": 7}):
            client.send("tts_session.updated", **message)
            assert client.receive()["type"] == "error"
