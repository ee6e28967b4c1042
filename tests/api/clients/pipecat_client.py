"""Pipecat's OpenAITTSService."""

import asyncio
import json
import sys

from pipecat.frames.frames import ErrorFrame, TTSAudioRawFrame
from pipecat.services.openai.tts import OpenAITTSService


async def main(url: str) -> None:
    found = {}
    for voice in ("alloy", "marin"):
        settings = OpenAITTSService.Settings(voice=voice, model="gpt-4o-mini-tts", speed=1.0)
        service = OpenAITTSService(
            api_key="none", base_url=url, sample_rate=24000, settings=settings
        )
        service._sample_rate = 24000
        frames = [frame async for frame in service.run_tts("Hello there, this is a test.", "c")]
        errors = [frame.error for frame in frames if isinstance(frame, ErrorFrame)]
        audio = [frame for frame in frames if isinstance(frame, TTSAudioRawFrame)]
        assert not errors, errors
        assert {frame.sample_rate for frame in audio} == {24000}
        found[voice] = sum(len(frame.audio) for frame in audio) / 2 / 24000
    print(json.dumps(found))


asyncio.run(main(sys.argv[1]))
