"""Open and closed loop: when requests go out."""

import asyncio
import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx

from qtts_openai.load.client import Result, speak

LAG_PROBE_S = 0.01


@dataclass
class Load:
    """Requests on their way, and what became of them."""

    client: httpx.AsyncClient
    requests: Iterator[dict[str, Any]]
    rate_hz: int
    started: float = field(default_factory=lambda: time.perf_counter())
    results: list[Result] = field(default_factory=list)
    in_flight: int = 0
    peak_in_flight: int = 0
    num_unfinished: int = 0  # cancelled on their way
    late_s: list[float] = field(default_factory=list)  # open loop: start after its time

    def elapsed(self) -> float:
        return time.perf_counter() - self.started

    async def one(self) -> None:
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
        try:
            fields = next(self.requests)
            self.results.append(
                await speak(self.client, fields, run_started=self.started, rate_hz=self.rate_hz)
            )
        except asyncio.CancelledError:
            self.num_unfinished += 1
            raise
        finally:
            self.in_flight -= 1

    async def open_loop(self, arrivals: Iterator[float]) -> None:
        """One request at each of `arrivals`, seconds after the start."""
        async with asyncio.TaskGroup() as group:
            for at_s in arrivals:
                await asyncio.sleep(max(0.0, at_s - self.elapsed()))
                self.late_s.append(max(0.0, self.elapsed() - at_s))
                group.create_task(self.one())

    async def closed_loop(
        self, concurrency: int, num: float, duration_s: float = float("inf")
    ) -> None:
        """`num` requests by `concurrency` clients; none starts after `duration_s`."""

        async def client() -> None:
            nonlocal num
            while num > 0 and self.elapsed() < duration_s:
                num -= 1
                await self.one()

        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(client())


def poisson(
    rates: tuple[float, float], num: float, duration_s: float, seed: int
) -> Iterator[float]:
    """Arrival times of a Poisson process, until `num` of them or until `duration_s`, over which its
    rate goes evenly from the first of `rates` to the last.
    """
    rng = random.Random(seed)
    first, last = rates
    slope = (last - first) / duration_s
    expected = 0.0  # arrivals by now
    while num > 0:
        expected += rng.expovariate(1.0)
        # first t + slope t^2 / 2 = expected, in the form that holds without a slope, too.
        at_s = 2 * expected / (first + math.sqrt(max(0.0, first**2 + 2 * slope * expected)))
        if at_s >= duration_s or first**2 + 2 * slope * expected < 0:
            return
        yield at_s
        num -= 1


async def probe_lag(lags: list[float]) -> None:
    """How late this process's timers are: what arrival times can be wrong by. Runs until
    cancelled.
    """
    while True:
        before = time.perf_counter()
        await asyncio.sleep(LAG_PROBE_S)
        lags.append(max(0.0, time.perf_counter() - before - LAG_PROBE_S))
