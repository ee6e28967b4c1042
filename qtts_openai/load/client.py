"""One request to a speech server, with the arrival of every piece noted.

The clock is time.perf_counter (monotonic). It starts right before the request is sent, connecting
included where no kept connection is free, and is read again when the headers and when each piece of
the body come out of the HTTP library.
"""

import time
from dataclasses import dataclass
from typing import Any

import httpx

from qtts_openai.load.audio_body import BodyError, open_body
from qtts_openai.load.audio_clock import Arrival, audible_onset, onset_times, play

# uvicorn and others close a connection that was idle for 5 s; a request must not run into that.
KEEPALIVE_S = 2.0


@dataclass(frozen=True, kw_only=True)
class Result:
    """Seconds from the start of the request, but `sent_at_s`, which is from the start of the run.

    An `error` is an HTTP status, the name of a transport error, or a kind of BodyError; with one,
    what came before it is not told.
    """

    sent_at_s: float
    num_characters: int
    ended_s: float
    error: str | None = None
    message: str = ""
    ttfb_s: float | None = None
    first_playable_s: float | None = None
    audible_arrived_s: float | None = None
    audible_heard_s: float | None = None
    leading_silence_s: float | None = None
    audio_s: float = 0.0
    num_chunks: int = 0
    num_underruns: int = 0
    gap_s: float = 0.0

    @property
    def rtf(self) -> float:
        """Time the answer took over the time it plays; lower is better."""
        return self.ended_s / self.audio_s


def open_client(base_url: str, api_key: str | None, timeout_s: float) -> httpx.AsyncClient:
    """As many connections as there are requests in flight; no proxy; nothing compressed."""
    headers = {"accept": "*/*", "accept-encoding": "identity"}
    if api_key:
        headers["authorization"] = f"Bearer {api_key}"
    limits = httpx.Limits(
        max_connections=None, max_keepalive_connections=None, keepalive_expiry=KEEPALIVE_S
    )
    return httpx.AsyncClient(
        base_url=base_url.rstrip("/") + "/",
        headers=headers,
        timeout=timeout_s,
        limits=limits,
        trust_env=False,
    )


class Recording:
    """One request under way: PCM and arrivals so far."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.ttfb_s = 0.0
        self.rate_hz = 0
        self.arrivals: list[Arrival] = []
        self.pcm = bytearray()

    def elapsed(self) -> float:
        return time.perf_counter() - self.started

    async def run(self, client: httpx.AsyncClient, fields: dict[str, Any], rate_hz: int) -> None:
        """Raises httpx.HTTPError or BodyError where the server does not deliver."""
        async with client.stream("POST", "audio/speech", json=fields) as answer:
            self.ttfb_s = self.elapsed()
            if answer.status_code != 200:
                text = (await answer.aread()).decode("utf-8", "replace")
                raise BodyError(str(answer.status_code), text[:200])
            body = open_body(answer.headers, rate_hz)
            async for data in answer.aiter_raw():
                at_s = self.elapsed()
                self._note(at_s, body.feed(data))
            body.finish()
        self.rate_hz = body.rate_hz
        if not self.arrivals:
            raise BodyError("no_audio", "the body has no sample")

    def _note(self, at_s: float, pcm: bytes) -> None:
        """A sample has arrived with its last byte."""
        samples_before = len(self.pcm) // 2
        self.pcm += pcm
        if num_samples := len(self.pcm) // 2 - samples_before:
            self.arrivals.append(Arrival(at_s, num_samples))

    def result(self, **common: Any) -> Result:
        playback = play(self.arrivals, self.rate_hz)
        onset = audible_onset(self.pcm, self.rate_hz)
        arrived_s, heard_s = None, None
        if onset is not None:
            arrived_s, heard_s = onset_times(self.arrivals, playback, onset, self.rate_hz)
        return Result(
            ttfb_s=self.ttfb_s,
            first_playable_s=self.arrivals[0].at_s,
            audible_arrived_s=arrived_s,
            audible_heard_s=heard_s,
            leading_silence_s=None if onset is None else onset / self.rate_hz,
            audio_s=len(self.pcm) // 2 / self.rate_hz,
            num_chunks=len(self.arrivals),
            num_underruns=playback.num_underruns,
            gap_s=playback.gap_s,
            **common,
        )


async def speak(
    client: httpx.AsyncClient, fields: dict[str, Any], *, run_started: float, rate_hz: int
) -> Result:
    """Send one request and read its answer to the end; whatever goes wrong is in the result."""
    recording = Recording()
    error, message = None, ""
    try:
        await recording.run(client, fields, rate_hz)
    except BodyError as refused:
        error, message = refused.kind, str(refused)
    except httpx.HTTPError as broken:
        error, message = type(broken).__name__, str(broken)
    common: dict[str, Any] = {
        "sent_at_s": recording.started - run_started,
        "num_characters": len(fields["input"]),
        "ended_s": recording.elapsed(),
    }
    if error is not None:
        return Result(error=error, message=message, **common)
    return recording.result(**common)
