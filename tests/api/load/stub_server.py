"""A speech server whose every delay is known: it notes when it sent what, on the clients' clock.

    headers after 50 ms, then
    +40 ms   200 ms of silence
    +50 ms   200 ms of a tone     (the listener has 150 ms left)
    +500 ms  100 ms of a tone     (the listener has been silent for 150 ms)

`voice` picks another behaviour: "busy" is a 429, "mp3" answers audio/mpeg, "broken" breaks off
after the second piece, "silent" has no sample, "failing" (SSE) ends with an error event.
"""

import asyncio
import base64
import json
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import numpy as np

RATE_HZ = 24000
HEADERS_AFTER_S = 0.05
SILENCE = bytes(2 * RATE_HZ // 5)
TONE = (8000 * np.sin(np.arange(RATE_HZ // 5) * 0.2)).astype("<i2").tobytes()
PIECES = ((0.04, SILENCE), (0.05, TONE), (0.5, TONE[: len(TONE) // 2]))
AUDIO_S = 0.5
WAV_HEADER = struct.pack(
    "<4sI4s4sIHHIIHH4sI",
    *(b"RIFF", 2**32 - 1, b"WAVE", b"fmt ", 16, 1, 1, RATE_HZ, RATE_HZ * 2, 2, 16),
    *(b"data", 2**32 - 1),
)


@dataclass
class Sent:
    """Seconds from the arrival of the request."""

    fields: dict
    authorization: str | None
    headers_s: float = 0.0
    pieces_s: list[float] = field(default_factory=list)


class StubServer:
    def __init__(self) -> None:
        self.base_url = ""
        self.log: list[Sent] = []
        self.arrived: list[float] = []

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await self._answer(*await _read_request(reader), writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, head: str, fields: dict, writer: asyncio.StreamWriter) -> None:
        started = time.perf_counter()
        lines = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
        sent = Sent(fields, lines.get("authorization"))
        self.arrived.append(started)
        self.log.append(sent)
        voice, wants_sse = fields["voice"], fields.get("stream_format") == "sse"
        if voice == "busy":
            body = b'{"error": {"message": "full"}}'
            writer.write(b"HTTP/1.1 429 No\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
            return
        content_type = "text/event-stream" if wants_sse else f"audio/{fields['response_format']}"
        content_type = "audio/mpeg" if voice == "mp3" else content_type
        await asyncio.sleep(HEADERS_AFTER_S)
        writer.write(
            f"HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\n"
            "transfer-encoding: chunked\r\n\r\n".encode()
        )
        sent.headers_s = time.perf_counter() - started
        header = WAV_HEADER if fields["response_format"] == "wav" else b""
        for number, (delay_s, pcm) in enumerate(() if voice == "silent" else PIECES):
            if voice in ("broken", "failing") and number == 2:
                break
            await asyncio.sleep(delay_s)
            data = header + pcm if number == 0 else pcm
            writer.write(_chunk(_delta(data) if wants_sse else data))
            sent.pieces_s.append(time.perf_counter() - started)
        if voice == "broken":
            raise ConnectionResetError
        if wants_sse:
            end = {"type": "error", "error": {"message": "no"}} if voice == "failing" else DONE
            writer.write(_chunk(_event(end)))
        writer.write(b"0\r\n\r\n")
        await writer.drain()


DONE = {"type": "speech.audio.done", "usage": {}}


async def _read_request(reader: asyncio.StreamReader) -> tuple[str, dict]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = int(head.split("content-length: ")[1].split("\r\n")[0])
    return head, json.loads(await reader.readexactly(length))


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _delta(data: bytes) -> bytes:
    return _event({"type": "speech.audio.delta", "audio": base64.b64encode(data).decode()})


def _event(event: dict) -> bytes:
    return b"data: " + json.dumps(event).encode() + b"\n\n"


@asynccontextmanager
async def stub_server() -> AsyncIterator[StubServer]:
    stub = StubServer()
    server = await asyncio.start_server(stub.handle, "127.0.0.1", 0)
    stub.base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield stub
    finally:
        server.close()
