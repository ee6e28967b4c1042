"""LiveKit Agents' OpenAI plugin. Prints seconds of audio per kind of request."""

import asyncio
import json
import sys

from livekit.agents import APIStatusError
from livekit.plugins import openai

FORMATS = ["mp3", "opus", "aac", "flac", "wav", "pcm"]


async def seconds(url: str, **options: object) -> float:
    tts = openai.TTS(base_url=url, api_key="none", **options)
    async with tts.synthesize("Hello there, this is a test.") as stream:
        frames = [event.frame async for event in stream]
    await tts.aclose()
    return sum(frame.duration for frame in frames)


async def main(url: str) -> None:
    found = {"default": await seconds(url), "tts-1": await seconds(url, model="tts-1")}
    for audio_format in FORMATS:
        found[audio_format] = await seconds(url, response_format=audio_format, speed=1.0)
    try:
        await seconds(url, voice="nobody")
    except APIStatusError as error:
        found["error"] = error.status_code
    print(json.dumps(found))


asyncio.run(main(sys.argv[1]))
