"""Pipecat's streaming services, unmodified, in a pipeline: tokens in, sound and words out, silence
in mid-turn, an interruption, the next turn. URL KIND -> what each turn gave.
"""

import asyncio
import json
import sys
from typing import Any

from pipecat.frames.frames import (
    EndFrame,
    Frame,
    InterruptionFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
    TTSAudioRawFrame,
    TTSTextFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.deepgram.flux.tts import DeepgramFluxTTSService
from pipecat.services.deepgram.tts import DeepgramTTSService
from pipecat.services.elevenlabs.tts import ElevenLabsTTSService
from pipecat.services.tts_service import TextAggregationMode
from pipecat.workers.runner import WorkerRunner

STALL_S = 13.0
TOKENS = ["Hello", " there,", " my", " dear", " friend,", " how", " are", " you", " to", "day?"]


def make(kind: str, url: str) -> FrameProcessor:
    base = url.replace("http", "ws", 1).removesuffix("/v1")
    if kind == "flux":
        settings = DeepgramFluxTTSService.Settings(voice="alloy")
        return DeepgramFluxTTSService(api_key="none", url=f"{base}/v2/speak", settings=settings)
    if kind == "deepgram":
        settings = DeepgramTTSService.Settings(voice="alloy")
        return DeepgramTTSService(
            api_key="none",
            base_url=base,
            settings=settings,
            text_aggregation_mode=TextAggregationMode.TOKEN,
        )
    return ElevenLabsTTSService(
        api_key="none",
        url=base,
        settings=ElevenLabsTTSService.Settings(voice="alloy"),
        text_aggregation_mode=TextAggregationMode.TOKEN,
        stop_frame_timeout_s=2 * STALL_S,  # else it forgets the words of a turn that falls silent
    )


class Ear(FrameProcessor):
    """What comes out at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.clear()

    def clear(self) -> None:
        self.seconds, self.words, self.heard = 0.0, [], asyncio.Event()

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, TTSAudioRawFrame):
            self.seconds += len(frame.audio) / 2 / frame.sample_rate
            self.heard.set()
        elif isinstance(frame, TTSTextFrame):
            self.words += frame.text.split()
        await self.push_frame(frame, direction)


async def turns(worker: PipelineWorker, ear: Ear) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in ("whole", "stalled", "cut", "next"):
        ear.clear()
        await worker.queue_frame(LLMFullResponseStartFrame())
        for number, token in enumerate(TOKENS if name != "cut" else [*TOKENS, " "] * 9):
            await worker.queue_frame(LLMTextFrame(token))
            is_stall = name == "stalled" and number == 5
            await asyncio.sleep(STALL_S if is_stall else 0.05 if name != "cut" else 0)
        if name == "cut":
            # Word by word, Pipecat tells what was heard once the model has said all.
            await worker.queue_frame(LLMFullResponseEndFrame())
            await asyncio.wait_for(ear.heard.wait(), 20)
            await asyncio.sleep(0.5)
            await worker.queue_frame(InterruptionFrame())
            await asyncio.sleep(1.0)
            found[name] = {"seconds": ear.seconds, "words": ear.words}
            continue
        await asyncio.sleep(1.0)
        before_end = ear.heard.is_set()
        await worker.queue_frame(LLMFullResponseEndFrame())
        seconds = -1.0
        while seconds < ear.seconds:
            seconds = ear.seconds
            await asyncio.sleep(2.0)
        found[name] = {"seconds": seconds, "words": ear.words, "before_end": before_end}
    await worker.queue_frame(EndFrame())
    return found


async def main(url: str, kind: str) -> None:
    ear = Ear()
    pipeline = Pipeline([make(kind, url), ear])
    params = PipelineParams(audio_out_sample_rate=24000)
    worker = PipelineWorker(pipeline, params=params, cancel_on_idle_timeout=False)
    started = asyncio.Event()

    @worker.event_handler("on_pipeline_started")
    async def begin(*_: object) -> None:
        started.set()

    async def drive() -> dict[str, Any]:
        await asyncio.wait_for(started.wait(), 30)
        return await turns(worker, ear)

    runner = WorkerRunner()
    await runner.add_workers(worker)
    _, found = await asyncio.gather(runner.run(), drive())
    print(json.dumps(found))


asyncio.run(main(*sys.argv[1:]))
