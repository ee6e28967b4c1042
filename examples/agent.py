"""A voice agent without a cloud: a language model's tokens in, speech out, silence when its user
speaks, and a history that holds what was heard.

    qtts serve &
    python examples/agent.py --out agent.wav

The language model and the user are scripted, and the loudspeaker is a WAV file with a clock, so it
runs anywhere; put yours in their places. Needs `websockets` only.
"""

import argparse
import asyncio
import json
import time
import wave
from collections.abc import AsyncIterator

from websockets.asyncio.client import ClientConnection, connect

RATE = 24_000
# What the user says, and after how many seconds of the answer the user speaks again (or not).
SCRIPT = [
    ("What is the weather like today?", None),
    ("Tell me about the history of the harbour.", 1.5),
    ("Sorry, just the opening hours, please.", None),
]
ANSWERS = [
    "It is sunny this morning, with a light wind from the west.",
    "The harbour was built by fishermen, four hundred years ago. Later it was the home of a large "
    "fleet, and every spring the town celebrates the day when the ships come back.",
    "The harbour museum is open from nine to five.",
]


async def think(history: list[dict[str, str]]) -> AsyncIterator[str]:
    """The stub of a language model: an answer to the last message, token by token."""
    turn = sum(message["role"] == "user" for message in history) - 1
    answer = ANSWERS[turn % len(ANSWERS)]
    for at in range(0, len(answer), 4):
        await asyncio.sleep(0.02)
        yield answer[at : at + 4]


class Loudspeaker:
    """Plays what it gets as it comes, into a file; knows what was heard of the turn by now."""

    def __init__(self, path: str) -> None:
        self.file = wave.open(path, "wb")  # noqa: SIM115
        self.file.setparams((1, 2, RATE, 0, "NONE", ""))
        self.begin()

    def begin(self) -> None:
        self.pcm, self.started = bytearray(), 0.0

    def push(self, pcm: bytes) -> None:
        self.started = self.started or time.monotonic()
        self.pcm += pcm

    @property
    def heard_s(self) -> float:
        since = time.monotonic() - self.started if self.started else 0.0
        return min(len(self.pcm) / 2 / RATE, since)

    async def until(self, seconds: float) -> None:
        while self.heard_s < seconds:
            await asyncio.sleep(0.01)

    def end(self) -> None:
        """What was not heard by now is never heard."""
        self.file.writeframes(self.pcm[: round(self.heard_s * RATE) * 2])


class Agent:
    def __init__(self, socket: ClientConnection, speaker: Loudspeaker) -> None:
        self.socket, self.speaker = socket, speaker
        self.history: list[dict[str, str]] = []

    async def send(self, kind: str, **fields: object) -> None:
        await self.socket.send(json.dumps({"type": kind, **fields}))

    async def until(self, kind: str) -> dict:
        """The next message of that kind; sound on the way is played."""
        while True:
            message = await self.socket.recv()
            if isinstance(message, bytes):
                self.speaker.push(message)
                continue
            event = json.loads(message)
            if event["type"] == "error":
                raise RuntimeError(event["message"])
            if event["type"] == kind:
                return event

    async def configure(self, voice: str) -> None:
        config = {"voice": voice, "response_format": "pcm", "stream_audio": True}
        await self.send("session.config", **config)
        await self.until("session.configured")

    async def answer(self, question: str, interrupted_after_s: float | None) -> None:
        self.history.append({"role": "user", "content": question})
        self.speaker.begin()
        said: list[str] = []
        speaking = asyncio.create_task(self._say(said))
        listening = asyncio.create_task(self.until("session.done"))
        if interrupted_after_s is None:
            await asyncio.gather(speaking, listening)
            await self.speaker.until(len(self.speaker.pcm) / 2 / RATE)
            heard = "".join(said)
        else:
            await self.speaker.until(interrupted_after_s)
            heard = await self._fall_silent(speaking, listening)
        self.speaker.end()
        self.history.append({"role": "assistant", "content": heard})

    async def _say(self, said: list[str]) -> None:
        async for token in think(self.history):
            said.append(token)
            await self.send("input.text", text=token)
        await self.send("input.done")

    async def _fall_silent(self, *tasks: asyncio.Task) -> str:
        """The user speaks: no more tokens, no more sound, and what was heard of it."""
        played_ms = round(self.speaker.heard_s * 1000)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.send("input.cancel", played_ms=played_ms)
        cut = await self.until("audio.cancelled")
        return f"{cut['text_spoken']} ..."


async def main(url: str, voice: str, out: str) -> list[dict[str, str]]:
    speaker = Loudspeaker(out)
    async with connect(url) as socket:
        agent = Agent(socket, speaker)
        await agent.configure(voice)
        for question, interrupted_after_s in SCRIPT:
            await agent.answer(question, interrupted_after_s)
            for message in agent.history[-2:]:
                print(f"{message['role']:>9}: {message['content']}")
    speaker.file.close()
    return agent.history


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="ws://127.0.0.1:8000/v1/audio/speech/stream")
    parser.add_argument("--voice", default="alloy")
    parser.add_argument("--out", default="agent.wav")
    options = parser.parse_args()
    asyncio.run(main(options.url, options.voice, options.out))
