"""/v1/speak and /v2/speak with a plain WebSocket client, on an engine that hums."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from websockets.sync.client import connect

from qtts_openai.live import deepgram
from qtts_openai.settings import LiveSettings
from tests.api.conftest import Server
from tests.api.live.test_native import Client, wait_until_idle


@contextmanager
def session(server: Server, version: int, **query: Any) -> Iterator[Client]:
    query = {"model": "alloy", "encoding": "linear16", "sample_rate": 24000, **query}
    pairs = "&".join(f"{name}={value}" for name, value in query.items())
    url = server.url.replace("http", "ws")
    with connect(f"{url}/v{version}/speak?{pairs}") as socket:
        yield Client(socket)


def test_v1_speaks_and_flushes(server: Server) -> None:
    with session(server, 1) as client:
        assert client.receive()["type"] == "Metadata"
        for turn in range(2):
            for word in ("Hello ", "there ", "friend. "):
                client.send("Speak", text=word)
            client.send("Flush")
            told, pcm = client.until("Flushed")
            assert told[-1]["sequence_id"] == turn and len(pcm) > 3840
        client.send("Close")
        assert client.close_code() == 1000


def test_v1_clears_what_is_under_way(server: Server) -> None:
    server.engine.chunk_delay_s = 0.02
    with session(server, 1) as client:
        client.receive()
        client.send("Speak", text="One two three four five six seven eight ")
        while not isinstance(client.receive(), bytes):
            pass
        client.send("Clear")
        client.until("Cleared")
        wait_until_idle(server)
        client.send("Clear")
        assert client.receive()["type"] == "Cleared"
        server.engine.chunk_delay_s = 0
        client.send("Speak", text="Next.")
        client.send("Flush")
        assert client.until("Flushed")[1]


def test_v2_ends_turns_with_metadata_and_interrupts_with_what_was_heard(server: Server) -> None:
    with session(server, 2) as client:
        assert client.receive()["type"] == "Connected"
        client.send("Interrupt")
        assert client.receive()["code"] == "NO_ACTIVE_SPEECH"
        client.send("Speak", text="Hello there.")
        client.send("Flush")
        told, pcm = client.until("Flushed")
        assert [m["type"] for m in told] == ["SpeechStarted", "SpeechMetadata", "Flushed"]
        assert len({m["speech_id"] for m in told}) == 1
        assert told[1]["audio_duration_ms"] == len(pcm) // 48
        client.send("Speak", text=" ".join(["word"] * 40))
        sound = b""
        while len(sound) < 48_000:  # a word at least
            message = client.receive()
            sound += message if isinstance(message, bytes) else b""
        client.send("Interrupt", playback_offset={"type": "time_ms", "value": 10**6})
        cut = client.until("SpeechInterrupted")[0][-1]
        assert cut["text_spoken"].startswith(("Hello", "word")) and cut["text_remaining"]
        client.send("Close")
        assert client.until("SessionMetadata") and client.close_code() == 1000


def test_a_silent_turn_has_a_heart_beat(server: Server, monkeypatch) -> None:
    monkeypatch.setattr(deepgram, "HEART_BEAT_S", 0.2)
    with session(server, 2) as client:
        client.receive()
        client.send("Speak", text="One two three ")
        client.until("SessionMetadata")
        client.send("Flush")
        assert client.until("Flushed")[0]


@pytest.mark.parametrize("version", [1, 2])
def test_what_cannot_be_is_told(server: Server, version: int) -> None:
    for query in ({"model": "nobody"}, {"encoding": "mp7"}, {"sample_rate": "x"}, {"speed": 9}):
        with session(server, version, **query) as client:
            assert client.receive()["type"] == "Error"
            assert client.close_code() == 1008
    with session(server, version) as client:
        client.receive()
        for message in ("{", "7", '{"type": "Nope"}', '{"type": "Speak", "text": 7}'):
            client.socket.send(message)
            assert client.receive()["type"] == "Error"


def test_names_of_voices_are_mapped(start) -> None:
    server = start(live=LiveSettings(voices={"aura-2-thalia-en": "nova"}, unknown_voice="default"))
    for name in ("aura-2-thalia-en", "aura-unheard-of"):
        with session(server, 1, model=name, encoding="mulaw", sample_rate=8000) as client:
            assert client.receive()["model_name"] == name
            client.socket.send(json.dumps({"type": "Speak", "text": "Hello there."}))
            client.send("Flush")
            assert client.until("Flushed")[1]
