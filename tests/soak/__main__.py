"""A server as it comes, callers of every kind, and everything that can go wrong: what is lost?

    make soak REQUESTS=10000        make soak MINUTES=30        python -m tests.soak --requests 1000

The server speaks with the embedded voice and a random cloning model. Callers mix formats, streams,
events, batches, live dialects, voices made and deleted, bodies that are broken on purpose, and
leave when they like. After every twentieth of the run something goes wrong (chaos.py); after every
tenth all fall silent and memory is read. The status is 1 where anything was lost, hung or leaked,
or where the server's memory has grown by more than 5 % since half of a long run.

Answers are short (a second of speech at most), for this is about what is kept and not about speed.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import httpx

from engine.dummy.checkpoint import write_random_checkpoint
from tests.attack.conftest import Victim, serving
from tests.soak.callers import Callers
from tests.soak.chaos import Chaos, children, shifted_clock, small_disk
from tests.soak.ledger import HUNG_S, Ledger, Refused

PHASES, TROUBLES = 10, 20
IDLE_S = 30.0
# Few rows and a short queue, so that some are refused.
ENGINE = {
    "threads": 1, "max_num_seqs": 8, "max_queued": 4, "standby": True, "heartbeat_timeout_s": 3,
    "max_unread_s": 2,
}  # fmt: skip


class Soak:
    def __init__(self, victim: Victim, chaos: Chaos, ledger: Ledger, seed: int) -> None:
        self.victim, self.chaos, self.ledger = victim, chaos, ledger
        self.callers = Callers(victim.url, seed)
        self.started = time.monotonic()
        self._num_begun = 0
        self._baseline: dict[str, float] = {}

    async def run(self, requests: float, minutes: float, concurrency: int) -> None:
        async with self.callers.http:
            for phase in range(PHASES):
                share = (phase + 1) / PHASES
                trouble = asyncio.create_task(self._troubles(phase))
                limits = requests * share, self.started + 60 * minutes * share
                await asyncio.gather(*(self._client(*limits) for _ in range(concurrency)), trouble)
                await self._read(phase)
        await self._check()

    async def _client(self, requests: float, until: float) -> None:
        while self._num_begun < requests and time.monotonic() < until:
            self._num_begun += 1
            act, began = self.callers.pick(), time.monotonic()
            outcome: str | BaseException
            try:
                async with asyncio.timeout(HUNG_S):
                    outcome = await act()
            except Exception as error:
                outcome = error
            self.ledger.note(act.__name__, outcome, began)
            if isinstance(outcome, Refused) and outcome.status in (429, 503):
                await asyncio.sleep(1)  # what Retry-After says at least

    async def _troubles(self, phase: int) -> None:
        """The first tenth is calm."""
        for number in range(TROUBLES // PHASES if phase else 0):
            await self.chaos.one(phase * TROUBLES // PHASES + number)
            await asyncio.sleep(1)

    async def _read(self, phase: int) -> None:
        seen = await self._idle()
        self._baseline = self._baseline or seen
        self.ledger.rss_mb.append(self.victim.rss_mb())
        seconds = time.monotonic() - self.started
        done = self.ledger.num_requests
        print(f"{done:7} requests, {seconds:6.0f} s, {self.ledger.rss_mb[-1]:.0f} MB", flush=True)

    async def _idle(self) -> dict[str, float]:
        """Metrics when nothing runs any more; after a while as they are."""
        deadline = time.monotonic() + IDLE_S
        while True:
            seen = await self._metrics()
            if not busy(seen) or time.monotonic() > deadline:
                return seen
            await asyncio.sleep(0.3)

    async def _metrics(self) -> dict[str, float]:
        async with httpx.AsyncClient(base_url=self.victim.url, trust_env=False) as client:
            lines = (await client.get("/metrics", timeout=30)).text.splitlines()
        pairs = (line.rpartition(" ") for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in pairs}

    async def _check(self) -> None:
        await self.chaos.back(time.monotonic())  # a worker that was started anew tells nothing yet
        await asyncio.sleep(1)
        seen, leaks = await self._idle(), self.ledger.leaks
        leaks |= {name: f"{value:g}" for name, value in busy(seen).items()}
        for what in ("engine_num_{}rows", "engine_num_{}blocks"):
            free, every = (f'qtts_{what.format(free)}{{worker="0"}}' for free in ("free_", ""))
            if seen[free] != seen[every]:
                leaks[free] = f"{seen[free]:g} of {seen[every]:g}"
        names = [file.read_bytes() for file in children(self.victim.process.pid)]
        if len(names) > 3:  # a worker, one that stands by, the decoder
            leaks["processes"] = f"{len(names)}: {names}"
        if (files := self.victim.num_files()) > 60:
            leaks["open files"] = str(files)


def busy(seen: dict[str, float]) -> dict[str, float]:
    names = ("qtts_engine_load", "qtts_streams", "qtts_live_sessions")
    return {name: value for name, value in seen.items() if name.startswith(names) and value}


def begin(stack: ExitStack, ledger: Ledger) -> tuple[Victim, Chaos]:
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    disk = stack.enter_context(small_disk(directory))
    clock, environment = shifted_clock(directory)
    stack.enter_context(mock.patch.dict(os.environ, environment))
    write_random_checkpoint(directory / "base", model_type="base", shape="tiny-0b6", seed=1)
    embedded = {"id": "embedded", "checkpoint": "embedded", "aliases": ["tts-1"]}
    settings = {
        "models": [embedded, {"id": "base", "checkpoint": str(directory / "base")}],
        "engine": ENGINE,
        "voices": {"directory": str(disk or directory / "voices")},
    }
    victim = stack.enter_context(serving(directory, None, settings))
    os.environ.pop("LD_PRELOAD", None)
    return victim, Chaos(victim, ledger.troubles, disk, clock)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--requests", type=float, default=float("inf"))
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--concurrency", type=int, default=14)
    parser.add_argument("--seed", type=int, default=0)
    wanted = parser.parse_args()
    if wanted.requests == wanted.minutes:
        parser.error("say how long: --requests or --minutes")
    ledger = Ledger()
    with ExitStack() as stack:
        victim, chaos = begin(stack, ledger)
        print(f"seed {wanted.seed}; troubles: {', '.join(k.__name__ for k in chaos.kinds)}")
        soak = Soak(victim, chaos, ledger, wanted.seed)
        try:
            asyncio.run(soak.run(wanted.requests, wanted.minutes, wanted.concurrency))
        except (httpx.HTTPError, AssertionError) as error:
            status = victim.process.poll()
            ledger.leaks["the run ended early"] = f"{error!r}; status of the server: {status}"
            print(victim.log.read_text()[-6000:])
        log = victim.log.read_text()
        if "Traceback" in log:
            ledger.leaks["a traceback in the log"] = log[log.index("Traceback") :][:3000]
    print(ledger.table())
    document = {"soak": wanted.seed, "requests": ledger.num_requests, "lost": len(ledger.lost)}
    document |= {"hung": len(ledger.hung), "leaked": len(ledger.leaks), "drift": ledger.rss_drift}
    print(json.dumps(document))
    return 0 if ledger.is_good() else 1


if __name__ == "__main__":
    sys.exit(main())
