"""The least HTTP client that can time a first body byte: one kept connection, no library.

httpx costs about 2 ms per request, which would be counted as the server's. Answers must be chunked
or have a Content-Length, as this project's have.
"""

import asyncio
import json
import time
from typing import Any


class LeanClient:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @staticmethod
    async def connect(host: str, port: int) -> "LeanClient":
        return LeanClient(*await asyncio.open_connection(host, port))

    async def close(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()

    async def first_byte_s(self, method: str, path: str, body: dict[str, Any] | None) -> float:
        """Seconds from sending the request to the first byte of the answer's body; reads it all."""
        data = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: local\r\nContent-Length: {len(data)}\r\n"
        started = time.perf_counter()
        self.writer.write(f"{head}Content-Type: application/json\r\n\r\n".encode() + data)
        answer = (await self.reader.readuntil(b"\r\n\r\n")).decode().lower()
        if not answer.startswith("http/1.1 200"):
            raise RuntimeError(f"the server answered {answer.splitlines()[0]}")
        if "content-length:" in answer:
            length = int(answer.split("content-length:")[1].split("\r\n")[0])
            await self.reader.readexactly(1)
            first_s = time.perf_counter() - started
            await self.reader.readexactly(length - 1)
            return first_s
        return await self._first_chunk_s(started)

    async def _first_chunk_s(self, started: float) -> float:
        first_s = None
        while size := int(await self.reader.readline(), 16):
            await self.reader.readexactly(size)
            first_s = first_s or time.perf_counter() - started
            await self.reader.readline()
        await self.reader.readline()
        assert first_s is not None, "the answer has no body"
        return first_s
