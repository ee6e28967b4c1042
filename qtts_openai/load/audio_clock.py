"""When the samples of a stream arrive, and what a listener in real time hears of them.

The listener starts to play with the first sample that arrives and keeps playing at the sample rate.
When all that has arrived is played and the stream is not over, it falls silent until more arrives:
an underrun.

    arrivals   |##|    |######|         |####|          # = 80 ms of speech
    playing    ## ..   ######  ........ ####            . = underrun
               ^ first playable

Audible onset: the stream is cut into windows of 10 ms from its first sample on, and the first whole
window whose RMS is above -45 dBFS (full scale: 32768) is the onset. It can be dated in two ways:

    arrived    the arrival that completed the window: how soon the server had speech to send; its
               leading silence counts only by the time it took to make
    heard      when the listener begins to play the window: leading silence, and underruns within
               it, count in full

No clocks here: times are arguments, in seconds from the start of the request.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

WINDOW_S = 0.01
AUDIBLE_RMS = 32768 * 10 ** (-45 / 20)
WINDOWS_AT_ONCE = 100  # speech mostly begins early: the rest need not be looked at


class Arrival(NamedTuple):
    """`num_samples` whole samples that became available at `at_s`."""

    at_s: float
    num_samples: int


@dataclass(frozen=True)
class Playback:
    """What the listener heard; `starts_s[i]` is when the first sample of arrival i was played."""

    starts_s: list[float]
    num_underruns: int
    gap_s: float


def play(arrivals: list[Arrival], rate_hz: int) -> Playback:
    """`arrivals` in order of time. Data that arrives at the very moment it is needed is in time."""
    starts: list[float] = []
    num_underruns, gap_s = 0, 0.0
    dry_at = arrivals[0].at_s if arrivals else 0.0
    for at_s, num_samples in arrivals:
        if at_s > dry_at:
            num_underruns += 1
            gap_s += at_s - dry_at
            dry_at = at_s
        starts.append(dry_at)
        dry_at += num_samples / rate_hz
    return Playback(starts, num_underruns, gap_s)


def audible_onset(pcm: bytes | bytearray, rate_hz: int) -> int | None:
    """First sample of the first audible window of int16 mono PCM; None when there is none."""
    window = round(WINDOW_S * rate_hz)
    for start in range(0, len(pcm) // 2 // window, WINDOWS_AT_ONCE):
        num_windows = min(len(pcm) // 2 // window - start, WINDOWS_AT_ONCE)
        part = np.frombuffer(pcm, "<i2", num_windows * window, start * window * 2)
        power = np.mean(part.reshape(num_windows, window).astype(np.float32) ** 2, axis=1)
        loud = np.flatnonzero(np.sqrt(power) > AUDIBLE_RMS)
        if len(loud):
            return (start + int(loud[0])) * window
    return None


def onset_times(
    arrivals: list[Arrival], playback: Playback, onset: int, rate_hz: int
) -> tuple[float, float]:
    """(arrived, heard) of the window that starts at sample `onset`."""
    ends = np.cumsum([arrival.num_samples for arrival in arrivals])
    last = onset + round(WINDOW_S * rate_hz) - 1
    first_chunk, last_chunk = np.searchsorted(ends, [onset, last], side="right")
    offset = onset - (ends[first_chunk] - arrivals[first_chunk].num_samples)
    return arrivals[last_chunk].at_s, playback.starts_s[first_chunk] + float(offset) / rate_hz


def percentiles(values: list[float]) -> dict[str, float] | None:
    """p50, p95, p99 (linear between the two nearest ranks), max and mean; None of no values."""
    if not values:
        return None
    p50, p95, p99 = np.percentile(values, [50, 95, 99])
    named = {"p50": p50, "p95": p95, "p99": p99, "max": max(values), "mean": np.mean(values)}
    return {name: float(value) for name, value in named.items()}
