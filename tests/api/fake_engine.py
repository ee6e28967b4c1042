"""An engine with EngineClient's public surface that hums: PCM is a function of the prompt's ids
alone.
"""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np

from engine import (
    SAMPLE_RATE_HZ,
    SAMPLES_PER_FRAME,
    EngineDeadError,
    Finished,
    FinishReason,
    ModelInfo,
    Prompt,
    QueueFullError,
    ReferenceAudio,
    SamplingParams,
    Stats,
    Timing,
    Usage,
    WorkerState,
)

LANGUAGES = {"chinese": 2055, "english": 2050, "german": 2053, "japanese": 2058}
SPEAKERS = {
    "serena": 3066,
    "vivian": 3065,
    "uncle_fu": 3010,
    "ryan": 3061,
    "aiden": 2861,
    "ono_anna": 2873,
    "sohee": 2864,
    "eric": 2875,
    "dylan": 2878,
}
DIALECTS = {"eric": "sichuan_dialect", "dylan": "beijing_dialect"}


def model_info(name: str, path: Path, model_type: str = "custom_voice", **changes) -> ModelInfo:
    custom = model_type == "custom_voice"
    fields = {
        "id": name,
        "path": str(path),
        "model_type": model_type,
        "model_size": "1b7",
        "speakers": SPEAKERS if custom else {},
        "speaker_dialects": DIALECTS if custom else {},
        "languages": LANGUAGES | {"beijing_dialect": 2074, "sichuan_dialect": 2062},
        "supports_instruct": model_type != "base",
        "embedding_size": 8 if model_type == "base" else 0,
    }
    return ModelInfo(**{**fields, **changes})


class FakeEngine:
    """Set the attributes to make it misbehave; `live` holds the streams that were not aborted and
    not read out.
    """

    def __init__(self, models: list[ModelInfo]) -> None:
        self._models = {model.id: model for model in models}
        self.models: dict[str, ModelInfo] = {}
        self.status = "starting"
        self.drained = self.closed = False
        self.behave()

    def behave(self) -> None:
        """As new."""
        self.submitted: list[tuple[str, Prompt, SamplingParams, ReferenceAudio | None]] = []
        self.streams: list[FakeStream] = []
        self.leads_s: list[float] = []  # of what was submitted
        self.forgotten: list[str] = []  # keys of reference audio
        self.live: set[FakeStream] = set()
        self.start_error: Exception | None = None  # raised by start()
        self.submit_error: Exception | None = None  # raised by submit()
        self.num_rows = 10**6  # spoken at once
        self.max_live = 10**6  # streams at once; one more is a QueueFullError
        self.fail_after: int | None = None  # chunks before stream_error
        self.stream_error: Exception = EngineDeadError("the worker is gone")
        self.hang_after: int | None = None  # chunks before silence for ever
        self.chunk_delay_s = 0.0
        self.stall_after: int | None = None  # frames after which live text came too late
        self.end_reason = FinishReason.STOP

    @property
    def stats(self) -> list[Stats]:
        numbers = dict.fromkeys(Stats.__struct_fields__, 0)
        return [Stats(**{**numbers, "num_running": len(self.live)})]

    @property
    def num_places(self) -> int:
        return self.num_rows

    @property
    def workers(self) -> list[WorkerState]:
        return [WorkerState(self.status, 0, stats, "cpu, float32") for stats in self.stats]

    async def start(self) -> None:
        if self.start_error is not None:
            raise self.start_error
        self.models = self._models
        self.status = "ready"

    def forget_voice(self, key: str) -> None:
        self.forgotten.append(key)

    async def embed(self, model: str, samples: bytes) -> bytes:
        """How loud it is in eight bands: a tone is itself at any loudness and length."""
        assert model in self.models
        spectrum = np.abs(np.fft.rfft(np.frombuffer(samples, "<f4")))
        bands = np.array_split(spectrum[: len(spectrum) // 8], 8)
        return np.array([np.square(band).sum() for band in bands], "<f4").tobytes()

    def submit(
        self,
        model: str,
        prompt: Prompt,
        params: SamplingParams,
        reference: ReferenceAudio | None = None,
        buffered_s: float = 0.0,
        is_alone: bool = False,
    ) -> "FakeStream":
        if self.submit_error is not None:
            raise self.submit_error
        if len(self.live) >= self.max_live:
            raise QueueFullError(f"{self.max_live} utterances are running or waiting", 1.0)
        assert model in self.models
        assert prompt.reference is None or (reference and reference.key == prompt.reference)
        self.submitted.append((model, prompt, params, reference))
        self.leads_s.append(buffered_s)
        stream = FakeStream(self, prompt, params)
        stream.is_alone = is_alone
        self.live.add(stream)
        self.streams.append(stream)
        return stream

    async def drain(self, timeout_s: float) -> None:
        self.status = "draining"
        self.drained = True
        async with asyncio.timeout(timeout_s):
            while self.live:
                await asyncio.sleep(0.01)

    async def close(self) -> None:
        self.status = "dead"
        self.closed = True


class FakeStream:
    def __init__(self, engine: FakeEngine, prompt: Prompt, params: SamplingParams) -> None:
        self.engine = engine
        self.id = len(engine.submitted)
        self.prompt = prompt
        self.num_live_frames = 0
        self.is_alone = False
        self.num_frames = min(8 + len(prompt.text) // 2, params.max_new_tokens or 10**6)
        self.finished: Finished | None = None
        self.timing: Timing | None = None
        self.began = time.monotonic()
        self.ended = asyncio.Event()
        self.aborted = False
        self.text_open, self.unread_text = prompt.text_open, ()
        self._news = asyncio.Event()
        self._chunks = self._cut(tone(prompt, self.num_frames))
        self._num_chunks = 0

    @staticmethod
    def _cut(pcm: bytes) -> Iterator[bytes]:
        ramp, at = [1, 2, 4, 8], 0
        while at < len(pcm):
            size = (ramp.pop(0) if ramp else 8) * SAMPLES_PER_FRAME * 2
            yield pcm[at : at + size]
            at += size

    def __aiter__(self) -> "FakeStream":
        return self

    def append(self, text: tuple[int, ...], final: bool = False) -> None:
        assert self.text_open
        self.prompt = msgspec.structs.replace(self.prompt, text=self.prompt.text + text)
        self.text_open = not final
        self._news.set()

    async def _spoken_live(self) -> bytes | None:
        """A frame for each id, as they come; None once there are no more."""
        at = self.num_live_frames
        if self.text_open and at == self.engine.stall_after:
            self.text_open, self.engine.stall_after = False, None
            read, self.unread_text = self.prompt.text[:at], self.prompt.text[at:]
            self.prompt = msgspec.structs.replace(self.prompt, text=read)
        while len(self.prompt.text) == self.num_live_frames and self.text_open and not self.aborted:
            self._news.clear()
            await self._news.wait()
        if self.num_live_frames >= len(self.prompt.text) or self.aborted:
            return None
        self.num_live_frames += 1
        return b"\x00\x08" * SAMPLES_PER_FRAME

    async def __anext__(self) -> bytes:
        if self.prompt.text_open and (pcm := await self._spoken_live()) is not None:
            await asyncio.sleep(self.engine.chunk_delay_s)
            return pcm
        if self.aborted:
            raise StopAsyncIteration
        if self._num_chunks == self.engine.hang_after:
            await asyncio.Event().wait()
        await asyncio.sleep(self.engine.chunk_delay_s)
        if self._num_chunks == self.engine.fail_after:
            self.engine.live.discard(self)
            self.ended.set()
            raise self.engine.stream_error
        self._num_chunks += 1
        self.timing = self.timing or Timing(*(self.began + i * 1e-5 for i in range(4)))
        for chunk in self._chunks:
            return chunk
        usage = Usage(num_prompt_tokens=len(self.prompt.text) + 8, num_frames=self.num_frames)
        self.finished = Finished(id=0, reason=self.engine.end_reason, usage=usage)
        self.engine.live.discard(self)
        self.ended.set()
        raise StopAsyncIteration

    def abort(self) -> None:
        self.aborted = True
        self.text_open = False
        self._news.set()
        self.ended.set()
        self.engine.live.discard(self)


def tone(prompt: Prompt, num_frames: int) -> bytes:
    """A sine whose pitch depends on every id of the prompt and the voice."""
    seed = sum(prompt.text) + 7 * sum(prompt.instruct) + sum(row for row, _ in prompt.speakers)
    step = 2 * np.pi * (120 + seed % 400) / SAMPLE_RATE_HZ
    wave = 8000 * np.sin(step * np.arange(num_frames * SAMPLES_PER_FRAME))
    return wave.astype("<i2").tobytes()
