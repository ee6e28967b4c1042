"""LiveKit's streaming plugins, unmodified: tokens in, sound out, silence in mid-turn, barge-in, the
next turn. URL KIND -> what each turn gave.
"""

import asyncio
import json
import sys
from typing import Any

import aiohttp
from livekit.agents import tts
from livekit.plugins import baseten, deepgram, elevenlabs

TOKENS = ["Hel", "lo", " there,", " my", " dear", " friend,", " how", " are", " you", " to", "day?"]
STALL_S = 13.0


def make(kind: str, url: str, http: aiohttp.ClientSession) -> tts.TTS:
    socket = url.replace("http", "ws", 1)
    if kind == "baseten":
        return baseten.TTS(
            model="qwen3-tts",
            model_endpoint=f"{socket}/audio/speech/stream",
            api_key="none",
            voice="alloy",
            task_type="CustomVoice",
            word_timestamps=True,
            http_session=http,
        )
    if kind == "elevenlabs":
        return elevenlabs.TTS(
            base_url=url, api_key="none", voice_id="alloy", auto_mode=False, http_session=http
        )
    plugin, version = {"deepgram": (deepgram.TTS, "v1"), "deepgram2": (deepgram.TTSv2, "v2")}[kind]
    base = url.replace("/v1", f"/{version}/speak")
    return plugin(base_url=base, api_key="none", model="alloy", http_session=http)


async def turn(plugin: tts.TTS, stall_s: float = 0.0, leave: bool = False) -> dict[str, Any]:
    stream, found, has_ended = plugin.stream(), {"seconds": 0.0, "before_end": False}, False
    words: list[str] = []

    async def feed() -> None:
        nonlocal has_ended
        for number, token in enumerate(TOKENS):
            stream.push_text(token)
            await asyncio.sleep(stall_s if number == 6 and stall_s else 0.05)
        await asyncio.sleep(1.0)
        has_ended = True
        stream.end_input()

    feeding = asyncio.create_task(feed())
    async for event in stream:
        found["before_end"] = found["before_end"] or not has_ended
        found["seconds"] += event.frame.duration
        words += [str(word) for word in event.frame.userdata.get("lk.timed_transcripts", [])]
        if leave:
            break
    feeding.cancel()
    await stream.aclose()
    return {**found, "words": "".join(words).split()}


async def main(url: str, kind: str) -> None:
    async with aiohttp.ClientSession() as http:
        plugin = make(kind, url, http)
        found = {"whole": await turn(plugin), "stalled": await turn(plugin, stall_s=STALL_S)}
        found["left"] = await turn(plugin, leave=True)
        found["next"] = await turn(plugin)
        await plugin.aclose()
    print(json.dumps(found))


asyncio.run(main(*sys.argv[1:]))
