"""A stream of PCM -> the body of the answer: raw audio, server-sent events, or one whole file.

In: PCM from the engine (16-bit mono at 24 kHz). Out: bytes of the format that was asked for. All
three forms read the same stream.

The first PCM is awaited before the headers are sent, so a failure until then is a clean 4xx or 5xx.
After that a failure breaks a raw body off and is an `error` event among server-sent events; audio
never ends early as if it were complete. The engine stops when the listener leaves: the generator's
`finally` and the response's background task both abort the stream, which may be done twice.

Why the speech ended stands in headers of a whole body, in the last server-sent event, in trailers
of a streamed body (if client and HTTP server support them), in the log and in a metric.
"""

import asyncio
import base64
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, TypeVar

import msgspec
from litestar import Response
from litestar.background_tasks import BackgroundTask
from litestar.response import Stream

from engine import SAMPLE_RATE_HZ, EngineError, FinishReason, GenerationFailedError
from qtts_openai.answers import UsageAnswer
from qtts_openai.errors import ApiError, as_api_error
from qtts_openai.http import tracing
from qtts_openai.http.asgi import Request
from qtts_openai.http.metrics import Metrics
from qtts_openai.http.rate_limit import Lease
from qtts_openai.provenance.policy import Provenance
from qtts_openai.schemas import SpeechRequest
from qtts_openai.settings import Defaults
from qtts_openai.speech.aligner import MAX_PCM_BYTES, Aligner
from qtts_openai.speech.cache import Recording, Replay
from qtts_openai.speech.encoders import AudioEncoder
from qtts_openai.speech.playback import Playback
from qtts_openai.speech.segmented_stream import PcmStream
from qtts_openai.speech.trailers import StreamWithTrailers
from qtts_openai.speech.words import Word, WordClock, words_event

logger = logging.getLogger(__name__)

T = TypeVar("T")


class SpeechResponse:
    """One utterance on its way out: PCM from the engine, bytes of the format to the listener."""

    def __init__(
        self,
        request: SpeechRequest,
        stream: PcmStream,
        metrics: Metrics,
        lease: Lease | None = None,
        started: float | None = None,
        provenance: Provenance | None = None,
        texts: tuple[str, ...] = (),
        aligner: Aligner | None = None,
    ) -> None:
        """`started`: when the request had been read, by time.perf_counter. `texts`: as spoken."""
        self.request = request
        self.stream = stream
        self.metrics = metrics
        self.lease = lease
        self.provenance = provenance or Provenance()
        try:
            self.encoder = AudioEncoder.of(request, self.provenance)
        except BaseException:
            stream.abort()
            raise
        self.clock = WordClock(request.speed) if request.timestamps else None
        if self.clock:
            self.clock.say(" ".join(texts))
        self.aligner, self._pcm = aligner if self.clock else None, bytearray()
        self.first = b""
        self.audio_s = 0.0  # of speech, so far
        self.started = time.perf_counter() if started is None else started
        self.timeline = tracing.current.get()

    async def start(self) -> None:
        """Wait for the first PCM; the engine's error comes from here."""
        try:
            self.first = await anext(self.stream)
        except StopAsyncIteration:
            raise GenerationFailedError("The model made no audio for this input.") from None
        except EngineError:
            if self.lease is not None:
                self.lease.refund()
            raise
        self.timeline.mark("heard")
        exemplar = self.timeline.exemplar()
        self.metrics.ttfa.observe(time.perf_counter() - self.started, exemplar)
        self.metrics.characters.inc(len(self.request.input))

    async def chunks(self) -> AsyncGenerator[bytes]:
        """The encoded file, piece by piece; raises where the engine fails."""
        self.metrics.streams.inc()
        try:
            yield await self._encode(self.first)
            async for pcm in self.stream:
                yield await self._encode(pcm)
            self._check_end()
            yield self.encoder.flush()
        except (GeneratorExit, asyncio.CancelledError):
            self.metrics.finished.labels(FinishReason.ABORT.value).inc()
            raise
        finally:
            self.metrics.streams.dec()
            self.close()

    def close(self) -> None:
        """Stop the engine and free the listener's place; idempotent."""
        self.stream.abort()
        if self.lease is not None:
            self.lease.release()

    async def _encode(self, pcm: bytes) -> bytes:
        seconds = len(pcm) / 2 / SAMPLE_RATE_HZ
        self.audio_s += seconds
        self.metrics.audio.inc(seconds)
        if self.clock:
            self.clock.hear(pcm)
        if self.aligner and len(self._pcm) <= MAX_PCM_BYTES:
            self._pcm += pcm
        if self.encoder.is_cheap:
            return self.encoder.encode(pcm)
        return await asyncio.to_thread(self.encoder.encode, pcm)

    def _check_end(self) -> None:
        finished = self.stream.finished
        reason = finished.reason if finished else FinishReason.ERROR
        if reason not in (FinishReason.STOP, FinishReason.LENGTH):
            raise GenerationFailedError(f"The utterance ended early ({reason.value}).")
        self.metrics.finished.labels(reason.value).inc()
        if self.audio_s:
            took_s = time.perf_counter() - self.started
            self.metrics.rtf.observe(took_s / self.audio_s, self.timeline.exemplar())
        level = logging.WARNING if reason is FinishReason.LENGTH else logging.INFO
        logger.log(level, "spoke %.1f s, finish reason %s", self.audio_s, reason.value)

    def usage(self) -> UsageAnswer:
        assert self.stream.finished is not None
        usage = self.stream.finished.usage
        return UsageAnswer.of(usage.num_prompt_tokens, usage.num_frames)

    def ending(self) -> dict[str, str]:
        """Headers that are known at the end; none where the speech did not end well."""
        finished = self.stream.finished
        if finished is None:
            return {}
        counts = msgspec.structs.asdict(self.usage())
        usage = {f"x-usage-{name.replace('_', '-')}": str(count) for name, count in counts.items()}
        return {"x-finish-reason": finished.reason.value, **usage}

    async def _sealed(self) -> AsyncGenerator[bytes]:
        """What goes out of a stream; its signature is there before its end is."""
        seal, trail, playback = self.provenance.seal, self.provenance.trail, Playback()
        try:
            async with aclosing(self.chunks()) as chunks:
                async for chunk in chunks:
                    self.timeline.mark("encoded")
                    self.metrics.note_gap(playback.sent(self.audio_s / self.request.speed))
                    if chunk:
                        self.provenance.add(chunk)
                        yield chunk
            if seal:
                seal.finish()
        finally:
            if trail:
                # Also of what was cut off, where nothing may be awaited any more.
                loop = asyncio.get_running_loop()
                loop.run_in_executor(None, trail.end, self.audio_s, self._reason())

    def _reason(self) -> str:
        return self.stream.finished.reason.value if self.stream.finished else "cut off"

    async def raw(self) -> AsyncIterator[bytes]:
        try:
            async with aclosing(self._sealed()) as chunks:
                async for chunk in chunks:
                    yield chunk
        except Exception as error:
            self._log_broken(error)
            raise

    async def events(self) -> AsyncIterator[bytes]:
        """Server-sent events as OpenAI writes them; a failure is the last event and there is no
        `done` then.
        """
        mark = self.marked()
        try:
            async with aclosing(self._sealed()) as chunks:
                async for chunk in chunks:
                    audio = base64.b64encode(chunk).decode()
                    yield server_sent(type="speech.audio.delta", audio=audio, **mark)
                    mark = {}
                    if self.clock and (words := self.clock.new_words()):
                        yield server_sent(**words_event(words))
        except Exception as error:
            self._log_broken(error)
            yield server_sent(type="error", error=as_api_error(error).detail)
            return
        assert self.stream.finished is not None
        if self.clock:
            self.clock.end()
            if words := self.clock.new_words():
                yield server_sent(**words_event(words))
            if exact := await self._exact_words(self.clock):
                yield server_sent(**words_event(exact, estimated=False))
        yield server_sent(
            type="speech.audio.done",
            usage=self.usage(),
            finish_reason=self.stream.finished.reason.value,
            **self.marked(),
        )

    async def _exact_words(self, clock: WordClock) -> list[Word] | None:
        if self.aligner is None:
            return None
        return await self.aligner.words(bytes(self._pcm), clock.words(), clock.speed)

    def marked(self) -> dict[str, Any]:
        """Fields for events and items of a batch."""
        mark = self.provenance.mark
        return mark.event() if mark else {}

    async def whole(self) -> bytes:
        return await self.finished_file(b"".join([chunk async for chunk in self.chunks()]))

    async def finished_file(self, body: bytes) -> bytes:
        """All chunks -> a file with exact sizes, signed where the settings say so."""
        body = self.encoder.with_exact_sizes(body)
        seal = self.provenance.seal
        body = await asyncio.to_thread(seal.whole, body) if seal else body
        if trail := self.provenance.trail:
            trail.add(body)
            await asyncio.to_thread(trail.end, self.audio_s, self._reason())
        return body

    async def collect(self) -> bytes:
        """Start to end, for callers that hold nothing open to a listener meanwhile."""
        try:
            await self.start()
            return await self.whole()
        finally:
            self.close()

    def _log_broken(self, error: Exception) -> None:
        self.metrics.finished.labels(FinishReason.ERROR.value).inc()
        ours = None if isinstance(error, EngineError) else error
        name = type(error).__name__
        logger.error("speech broke off after its start: %s: %s", name, error, exc_info=ours)

    def headers(self) -> dict[str, str]:
        limits = self.lease.headers if self.lease else {}
        cached = {Replay: {"x-cache": "hit"}, Recording: {"x-cache": "miss"}}
        return (
            limits
            | cached.get(type(self.stream), {})
            | (self.provenance.mark.headers() if self.provenance.mark else {})
            | {
                "x-sample-rate": str(self.encoder.sample_rate),
                "x-channels": "1",
                "x-bit-depth": str(self.encoder.bit_depth),
                "cache-control": "no-cache",
                "x-accel-buffering": "no",
            }
        )


async def respond(
    http: Request, speech: SpeechResponse, headers: dict[str, str], defaults: Defaults
) -> Response[Any]:
    wanted = speech.request
    streams = defaults.streams(wanted.response_format) if wanted.stream is None else wanted.stream
    try:
        await while_connected(http, speech.start())
        headers = {**speech.headers(), **headers}
        if speech.request.stream_format == "sse":
            return _stream(speech, speech.events(), "text/event-stream", headers)
        if streams:
            return _stream(speech, speech.raw(), speech.encoder.content_type, headers)
        body = await while_connected(http, speech.whole())
    except BaseException:
        speech.close()
        raise
    headers |= speech.ending()
    return Response(body, status_code=200, media_type=speech.encoder.content_type, headers=headers)


def _stream(
    speech: SpeechResponse, content: AsyncIterator[bytes], media_type: str, headers: dict[str, str]
) -> Stream:
    return StreamWithTrailers(
        speech.ending,
        content,
        status_code=200,
        media_type=media_type,
        headers=headers,
        background=closing(speech.close),
    )


def closing(close: Callable[[], None]) -> BackgroundTask:
    """When the answer has gone out. On the event loop: a plain function would run in a thread."""

    async def run() -> None:
        close()

    return BackgroundTask(run)


async def while_connected(http: Request, work: Awaitable[T]) -> T:
    """`work`, unless the client leaves first: then it is cancelled."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(http))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ApiError(499, "The client closed the connection.", code="client_closed")
    finally:
        for pending in (task, gone):
            pending.cancel()


async def _disconnected(http: Request) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


def server_sent(**fields: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + msgspec.json.encode(fields) + b"\n\n"
