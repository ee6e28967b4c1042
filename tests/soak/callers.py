"""Those who call: each function is one request from beginning to end, as some client would make it.

It returns "whole" or "left", or raises Refused, Broken or Lost. `Callers.one` picks a kind by
weight.
"""

import asyncio
import base64
import contextlib
import io
import json
import zipfile
from collections.abc import AsyncIterator
from random import Random
from typing import Any

import httpx
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from engine import SAMPLES_PER_FRAME
from tests.api.audio import MAGIC
from tests.attack import hostile
from tests.fuzz.targets import json_body
from tests.soak.ledger import Broken, Lost, Refused

FORMATS = ("mp3", "opus", "aac", "flac", "wav", "pcm", "ulaw", "alaw")
FRAME_BYTES = 2 * SAMPLES_PER_FRAME
TEXTS = ("Hi.", "Good morning.", "It costs $3.50, [laughs] **really**.", "Ça va? 42 km/h!")
LONG = "The ferry leaves at noon, and the next one not before the evening. "
SPEECH = "/v1/audio/speech"


class Callers:
    def __init__(self, url: str, seed: int) -> None:
        self.url, self.random = url, Random(seed)
        self.http = httpx.AsyncClient(
            base_url=url, timeout=None, trust_env=False, limits=httpx.Limits(max_connections=None)
        )
        self.voices: list[str] = []
        self.kinds = {
            self.whole: 20, self.streamed: 20, self.events: 10, self.leaves: 14, self.slow: 3,
            self.batch: 4, self.live: 8, self.deepgram: 6, self.fuzzed: 14, self.too_large: 2,
            self.makes_voice: 5, self.speaks_as_voice: 5, self.deletes_voice: 4, self.lists: 3,
            self.renames_voice: 3, self.exports_voice: 3,
        }  # fmt: skip

    def pick(self):
        return self.random.choices([*self.kinds], [*self.kinds.values()])[0]

    def body(self, **fields: Any) -> dict[str, Any]:
        return {
            "model": "tts-1",
            "voice": self.random.choice(("alloy", "echo", "nova")),
            "input": self.random.choice(TEXTS),
            "max_new_tokens": self.random.randint(2, 9),
            "response_format": self.random.choice(FORMATS),
            **fields,
        }

    @contextlib.asynccontextmanager
    async def asked(self, body: dict[str, Any] | bytes) -> AsyncIterator[httpx.Response]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"content-type": "application/json"}
        async with (
            seen_to_break(),
            self.http.stream("POST", SPEECH, content=data, headers=headers) as answer,
        ):
            if answer.status_code != 200:
                raise refusal(answer.status_code, await answer.aread())
            yield answer

    async def whole(self) -> str:
        body = self.body(stream=False, speed=self.random.choice((1.0, 1.0, 1.3)))
        async with self.asked(body) as answer:
            audio = await answer.aread()
            check_audio(body["response_format"], audio)
            if body["response_format"] == "pcm" and body["speed"] == 1.0:
                frames = int(answer.headers["x-usage-output-tokens"])
                if len(audio) != frames * FRAME_BYTES:
                    raise Lost(f"{len(audio)} bytes of pcm for {frames} frames")
        return "whole"

    async def streamed(self) -> str:
        body = self.body(stream=True)
        async with self.asked(body) as answer:
            audio = b"".join([piece async for piece in answer.aiter_raw()])
        check_audio(body["response_format"], audio)
        return "whole"

    async def events(self) -> str:
        body = self.body(stream_format="sse")
        async with self.asked(body) as answer:
            text = b"".join([piece async for piece in answer.aiter_raw()])
        events = [json.loads(line[6:]) for line in text.split(b"\n") if line.startswith(b"data: ")]
        if events and events[-1]["type"] == "error":
            raise Broken(events[-1]["error"]["code"])
        if not events or events[-1]["type"] != "speech.audio.done":
            raise Lost("server-sent events without an end")
        audio = b"".join(base64.b64decode(one["audio"]) for one in events[:-1])
        check_audio(body["response_format"], audio)
        return "whole"

    async def leaves(self) -> str:
        """Before the headers, behind them, or after some audio."""
        body = self.body(input=LONG * 3, max_new_tokens=200, stream=self.random.random() < 0.8)
        try:
            async with asyncio.timeout(self.random.random() * 0.4):
                async with self.asked(body) as answer:
                    async for _ in answer.aiter_raw():
                        if self.random.random() < 0.3:
                            return "left"
        except TimeoutError:
            pass
        return "left"

    async def slow(self) -> str:
        """Takes what comes in sips, for some seconds; then it goes."""
        body = self.body(input=LONG * 2, max_new_tokens=60, response_format="wav")
        async with self.asked(body) as answer:
            sips = 0
            async for _ in answer.aiter_raw(512):
                sips += 1
                await asyncio.sleep(0.02)
                if sips > 150:
                    return "left"
        return "whole"

    async def batch(self) -> str:
        items = [{"input": text} for text in self.random.sample(TEXTS, 2)]
        body = {"model": "tts-1", "voice": "alloy", "items": items, "max_new_tokens": 4}
        async with seen_to_break():
            answer = await self.http.post(f"{SPEECH}/batch", json=body)
            if answer.status_code != 200:
                raise refusal(answer.status_code, answer.content)
            results = answer.json()["results"]
            if len(results) != len(items):
                raise Lost(f"{len(results)} of {len(items)} items")
            failed = [one["error_detail"] for one in results if one["status"] == "error"]
            if failed:
                status = 429 if failed[0]["code"] == "queue_full" else 503
                raise Refused(status, f"item: {failed[0]['code']}")
        return "whole"

    async def live(self) -> str:
        config = {"voice": "alloy", "response_format": "pcm", "stream_audio": True}
        ends = self.random.choice(("done", "done", "cancel", "gone"))
        async with self.socket(f"{SPEECH}/stream") as client:
            await send(client, "session.config", max_new_tokens=12, **config)
            await until(client, "session.configured")
            for word in self.random.choice(TEXTS).split():
                await send(client, "input.text", text=f"{word} ")
            if ends == "gone":
                return "left"
            if ends == "cancel":
                await send(client, "input.cancel")
                await until(client, "audio.cancelled")
                return "left"
            await send(client, "input.done")
            if not await until(client, "session.done"):
                raise Lost("a live turn without audio")
        return "whole"

    async def deepgram(self) -> str:
        version = self.random.choice((1, 2))
        query = "model=alloy&encoding=linear16&sample_rate=24000"
        async with self.socket(f"/v{version}/speak?{query}") as client:
            await send(client, "Speak", text="Hello there. ")
            if self.random.random() < 0.2:
                return "left"
            await send(client, "Flush")
            if not await until(client, "Flushed"):
                raise Lost("a turn without audio")
            await send(client, "Close")
        return "whole"

    @contextlib.asynccontextmanager
    async def socket(self, path: str):
        try:
            async with connect(self.url.replace("http", "ws") + path, proxy=None) as client:
                yield client
        except InvalidHandshake as error:
            answer = getattr(error, "response", None)
            raise (
                refusal(answer.status_code, answer.body) if answer else Broken(str(error))
            ) from error
        except (ConnectionClosed, OSError) as error:
            raise Broken(repr(error)) from error

    async def fuzzed(self) -> str:
        async with self.asked(json_body(self.random)) as answer:
            async for _ in answer.aiter_raw():
                pass
        return "whole"

    async def too_large(self) -> str:
        async with self.asked(self.body(input="x" * 300_000)) as answer:
            await answer.aread()
        return "whole"

    async def makes_voice(self) -> str:
        name = f"v{self.random.getrandbits(48):x}"
        data = {"name": name, "consent": "I am the speaker and I agree."}
        files = {"audio_sample": ("a.wav", hostile.wav(1.0), "audio/wav")}
        async with seen_to_break():
            answer = await self.http.post("/v1/audio/voices", data=data, files=files)
            if answer.status_code not in (200, 201):
                raise refusal(answer.status_code, answer.content)
            self.voices.append(answer.json()["id"])
        return "whole"

    async def speaks_as_voice(self) -> str:
        voice = self.random.choice(self.voices) if self.voices else "nobody"
        body = self.body(model="base", voice=voice, response_format="pcm", stream=False)
        async with self.asked(body) as answer:
            check_audio("pcm", await answer.aread())
        return "whole"

    async def deletes_voice(self) -> str:
        if len(self.voices) < 3:
            return await self.makes_voice()
        voice = self.voices.pop(0)
        async with seen_to_break():
            answer = await self.http.delete(f"/v1/audio/voices/{voice}")
        if answer.status_code not in (200, 404):
            self.voices.append(voice)
            raise refusal(answer.status_code, answer.content)
        return "whole"

    async def renames_voice(self) -> str:
        if not self.voices:
            return await self.makes_voice()
        voice, name = self.random.choice(self.voices), f"r{self.random.getrandbits(48):x}"
        async with seen_to_break():
            answer = await self.http.post(f"/v1/audio/voices/{voice}", json={"name": name})
        if answer.status_code != 200:
            raise refusal(answer.status_code, answer.content)
        told = answer.json()
        if (told["id"], told["name"]) != (voice, name):
            raise Lost(f"{voice} was to be called {name} and is {told}")
        return "whole"

    async def exports_voice(self) -> str:
        if not self.voices:
            return await self.makes_voice()
        voice = self.random.choice(self.voices)
        async with seen_to_break():
            answer = await self.http.get(f"/v1/audio/voice_archives/{voice}")
        if answer.status_code != 200:
            raise refusal(answer.status_code, answer.content)
        with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
            if archive.testzip() or f"data/{voice}.bin" not in archive.namelist():
                raise Lost(f"an archive of {voice} with {archive.namelist()}")
        return "whole"

    async def lists(self) -> str:
        for path in ("/v1/models", "/v1/audio/voices", "/metrics", "/health"):
            async with seen_to_break():
                answer = await self.http.get(path)
            if answer.status_code == 503 and path == "/health":
                raise Refused(503, "unready")
            if answer.status_code != 200:
                raise refusal(answer.status_code, answer.content)
        return "whole"


@contextlib.asynccontextmanager
async def seen_to_break() -> AsyncIterator[None]:
    try:
        yield
    except httpx.TransportError as error:
        raise Broken(repr(error)) from error


def refusal(status: int, body: bytes) -> Exception:
    try:
        return Refused(status, json.loads(body)["error"]["code"] or "?")
    except (ValueError, KeyError, TypeError):
        return Lost(f"{status} without an error envelope: {body[:100]!r}")


def check_audio(audio_format: str, audio: bytes) -> None:
    magic = MAGIC.get(audio_format)
    if not audio or (magic and not audio.startswith(magic)):
        raise Lost(f"{len(audio)} bytes that are no {audio_format}: {audio[:8]!r}")


async def send(client: Any, type_: str, **fields: Any) -> None:
    await client.send(json.dumps({"type": type_, **fields}))


async def until(client: Any, type_: str) -> int:
    """Bytes of audio until that message."""
    num_bytes = 0
    while True:
        data = await client.recv()
        if isinstance(data, bytes):
            num_bytes += len(data)
            continue
        message = json.loads(data)
        if message["type"] == type_:
            return num_bytes
        if message["type"].lower() == "error":
            detail = message.get("error") or message
            told = f"{detail.get('code')}: {detail.get('message') or detail.get('description')}"
            if "already running or waiting" in told or "open text" in told:
                raise Refused(429, "queue_full, over a socket")
            raise Broken(told)
