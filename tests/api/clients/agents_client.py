"""openai-agents' voice model, with its default instructions and without any."""

import asyncio
import json
import sys

from agents.voice import TTSModelSettings
from agents.voice.models.openai_tts import OpenAITTSModel
from openai import AsyncOpenAI


async def seconds(model: OpenAITTSModel, settings: TTSModelSettings) -> float:
    chunks = [chunk async for chunk in model.run("Hello there, this is a test.", settings)]
    return sum(map(len, chunks)) / 2 / 24000


async def main(url: str) -> None:
    async with AsyncOpenAI(base_url=url, api_key="none") as client:
        model = OpenAITTSModel("gpt-4o-mini-tts", client)
        found = {
            "default": await seconds(model, TTSModelSettings()),
            "cleared": await seconds(model, TTSModelSettings(instructions=None, voice="nova")),
            "fast": await seconds(model, TTSModelSettings(speed=2.0)),
        }
    print(json.dumps(found))


asyncio.run(main(sys.argv[1]))
