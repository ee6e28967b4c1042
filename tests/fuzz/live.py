"""Hostile messages to each dialect of live text: one input is one connection with twenty."""

import json
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

from websockets.exceptions import (
    ConnectionClosed,
    InvalidMessage,
    InvalidStatus,
    WebSocketException,
)
from websockets.sync.client import ClientConnection, connect

from tests.fuzz.mutation import VALUES, mutate
from tests.fuzz.server import Failure, Running

NUM_MESSAGES = 20
# Closed for what was sent, or asked to; anything else would be ours.
FAIR_CODES = {1000, 1002, 1003, 1005, 1007, 1008, 1009}
SPOKEN_VALUES = (
    *VALUES, " ", "Hi. ", "wor", "[pause:9s]", {"a": {"b": []}}, {"type": "time_ms", "value": -1},
)  # fmt: skip
BUFFER = [{"type": f"input_text_buffer.{verb}"} for verb in ("append", "commit", "clear")]
# Path, sub-protocol, what opens the session, what may come then, fields to change.
DIALECTS: dict[str, tuple[str, str | None, list[dict[str, Any]], list[dict[str, Any]]]] = {
    "native": (
        "/v1/audio/speech/stream",
        None,
        [{"type": "session.config", "voice": "alloy", "stream_audio": True,
          "response_format": "pcm"}],
        [{"type": "input.text", "text": "Hello "}, {"type": "input.done"}, {"type": "input.commit"},
         {"type": "input.cancel", "played_ms": 5}, {"type": "session.config", "voice": "ash"}],
    ),
    "deepgram1": (
        "/v1/speak?model=alloy",
        None,
        [],
        [{"type": "Speak", "text": "Hello there "}, {"type": "Flush"}, {"type": "Clear"}],
    ),
    "deepgram2": (
        "/v2/speak?model=alloy",
        None,
        [],
        [{"type": "Speak", "text": "Hello there "}, {"type": "Flush"},
         {"type": "Interrupt", "playback_offset": {"type": "time_ms", "value": 9}},
         {"type": "Configure", "speed": 1.5}],
    ),
    "elevenlabs": (
        "/v1/text-to-speech/alloy/multi-stream-input",
        None,
        [],
        [{"text": "Hello ", "context_id": "a", "voice_settings": {"speed": 1}},
         {"context_id": "a", "flush": True}, {"context_id": "a", "close_context": True},
         {"text": ""}],
    ),
    "elevenlabs1": (
        "/v1/text-to-speech/alloy/stream-input?output_format=pcm_24000",
        None,
        [],
        [{"text": "Hello ", "flush": True, "try_trigger_generation": True}],
    ),
    "dashscope": (
        "/api-ws/v1/realtime?model=x",
        None,
        [],
        [*BUFFER, {**BUFFER[0], "text": "Hello there "}, {"type": "response.cancel"},
         {"type": "session.update", "session": {"voice": "ash", "mode": "commit"}}],
    ),
    "together": (
        "/v1/audio/speech/websocket?voice=alloy",
        None,
        [],
        [*BUFFER, {**BUFFER[0], "text": "Hello there "},
         {"type": "tts_session.updated", "session": {"voice": "ash"}}],
    ),
    "nari": (
        "/v1/audio/speech/ws",
        "nari.speech.v1",
        [{"type": "request.start"}],
        [{"type": "input_text.append", "sequence": 0, "text": "Hello "},
         {"type": "input_text.end", "sequence": 1}, {"type": "response.cancel"}],
    ),
}  # fmt: skip


def visit(random: Random, server: Running, dialect: str) -> str:
    """The code it was closed with, or that it lived."""
    path, protocol, opening, known = DIALECTS[dialect]
    url = str(server.http.base_url).rstrip("/").replace("http", "ws", 1) + path
    protocols: Any = [protocol] if protocol else None
    try:
        options: Any = {"open_timeout": 20, "close_timeout": 20, "max_queue": None}
        with connect(url, subprotocols=protocols, **options) as socket:
            return _talk(random, socket, opening, known)
    except ConnectionClosed as closed:
        code = closed.rcvd.code if closed.rcvd is not None else None
        if code not in FAIR_CODES:
            raise Failure(f"closed with {code}: {closed}") from closed
        return str(code)
    except (InvalidStatus, InvalidMessage, WebSocketException, OSError, TimeoutError) as error:
        raise Failure(f"{type(error).__name__}: {error}") from error


def _talk(
    random: Random,
    socket: ClientConnection,
    opening: list[dict[str, Any]],
    known: list[dict[str, Any]],
) -> str:
    for message in opening:
        socket.send(json.dumps(message))
    for _ in range(NUM_MESSAGES):
        socket.send(_message(random, opening + known))
        if random.random() < 0.1:
            _take(socket)
    answered = socket.ping()
    for _ in range(200):
        if answered.wait(0.1):
            return "lived"
        _take(socket)  # raises where it was closed meanwhile
    raise Failure("no answer to a ping")


def _take(socket: ClientConnection) -> None:
    try:
        while True:
            socket.recv(timeout=0.01)
    except TimeoutError:
        return


def _message(random: Random, known: list[dict[str, Any]]) -> str | bytes:
    message = dict(random.choice(known))
    for _ in range(random.choice((0, 0, 1, 2))):
        names = [*{name for one in known for name in one}, "type", "session", "text"]
        message[random.choice(names)] = random.choice(SPOKEN_VALUES)
    raw = json.dumps(message).encode()
    if random.random() < 0.3:
        raw = mutate(random, raw, [raw])
    if random.random() < 0.01:
        return raw
    return raw.decode("utf-8", "replace")


LIVE: dict[str, Callable[[Random, Running], str]] = {
    f"live_{name}": partial(visit, dialect=name) for name in DIALECTS
}
