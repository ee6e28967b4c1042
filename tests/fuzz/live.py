"""Sessions of live text whose messages are hostile, in all three dialects."""

import json
import time
from random import Random
from typing import Any

from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.sync.client import ClientConnection, connect

from tests.fuzz.mutation import mutate
from tests.fuzz.server import Running
from tests.fuzz.values import VALUES, Failure

NATIVE = (
    {"type": "session.config", "voice": "alloy", "response_format": "pcm", "stream_audio": True},
    {"type": "session.config", "voice": "alloy", "split_granularity": "sentence"},
    {"type": "session.config", "session": {"voice": "alloy", "word_timestamps": True}},
    {"type": "session.config", "model": "base", "ref_audio": "UklGRg==", "stream_audio": True},
    {"type": "input.text", "text": "Hello there. This is said "},
    {"type": "input.text", "text": "as it comes, Mr. Smith."},
    {"type": "input.commit"},
    {"type": "input.cancel", "played_ms": 120},
    {"type": "input.done"},
)
DEEPGRAM = (
    {"type": "Speak", "text": "Hello there. "},
    {"type": "Speak", "text": "And more of it, 3.50 dollars"},
    {"type": "Flush"},
    {"type": "Clear"},
    {"type": "Interrupt", "played_ms": 10},
    {"type": "Configure", "speed": 1.2},
)
V1, V2 = "/v1/speak?model=alloy&encoding=linear16", "/v2/speak?model=alloy&sample_rate=16000"
DIALECTS: tuple[tuple[str, tuple[dict[str, Any], ...], dict[str, Any]], ...] = (
    ("/v1/audio/speech/stream", NATIVE, {"type": "session.close"}),
    (V1, DEEPGRAM, {"type": "Close"}),
    (V2, DEEPGRAM, {"type": "Close"}),
)
CLOSES_S = 20.0  # without a word
SPEAKS_S = 5.0
# What a client did, or the end that it asked for; anything else is the server's fault.
EXPECTED = {1000, 1001, 1002, 1003, 1007, 1008, 1009}


def live(random: Random, server: Running) -> str:
    """One session: messages, some of them broken, then its end or a client that just leaves."""
    path, messages, end = random.choice(DIALECTS)
    if random.random() < 0.1:
        raw = mutate(random, path.encode(), [path.encode()])
        path = "/" + "".join(chr(byte) for byte in raw if 32 < byte < 127 and byte != 35).lstrip(
            "/"
        )
    url = str(server.http.base_url).replace("http", "ws", 1).rstrip("/") + path
    try:
        with connect(url, open_timeout=20, close_timeout=1, max_size=None) as socket:
            return _session(random, socket, messages, end)
    except InvalidStatus as refused:
        if refused.response.status_code >= 500:
            raise Failure(f"{path}: {refused.response.status_code}") from refused
        return str(refused.response.status_code)
    except (OSError, WebSocketException) as error:
        raise Failure(f"{path}: {type(error).__name__}: {error}") from error


def _session(
    random: Random, socket: ClientConnection, messages: tuple[dict[str, Any], ...], end: object
) -> str:
    try:
        if random.random() < 0.8:
            socket.send(json.dumps(messages[0]))
        for _ in range(random.randrange(8)):
            socket.send(_message(random, messages))
        if random.random() < 0.3:
            return "left"
        socket.send(json.dumps(end))
        left_at = time.monotonic() + SPEAKS_S
        while time.monotonic() < left_at:
            socket.recv(timeout=CLOSES_S)
        return "left while it spoke"
    except TimeoutError as error:
        raise Failure("the session does not end") from error
    except ConnectionClosed:
        if socket.close_code not in EXPECTED:
            raise Failure(f"closed with {socket.close_code} {socket.close_reason}") from None
        return f"closed with {socket.close_code}"


def _message(random: Random, messages: tuple[dict[str, Any], ...]) -> str | bytes:
    message = dict(random.choice(messages))
    if random.random() < 0.4:
        message[random.choice((*message, "text", "speed", "x"))] = random.choice(VALUES)
    raw = json.dumps(message).encode()
    if random.random() < 0.4:
        raw = mutate(random, raw, [raw])
    return raw if random.random() < 0.05 else raw.decode("utf-8", "replace")
