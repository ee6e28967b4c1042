"""Thousands of utterances that come, speak and leave at random: does memory stay flat, is anything
lost?

Regime. Two checkpoints (custom voices and cloning) share one engine of few rows, so that requests
queue. Texts, lengths, sampling parameters, voices (twice as many recordings as an engine keeps),
live text and the moment a listener leaves are random; a third of them leave early. First against
EngineCore in this process, then through EngineClient and a worker process. The checkpoints are tiny
random ones: this is about what is kept, not about speed.

RSS is read after every tenth of the requests, when everything is idle. Growth is the last reading
over the one at 30 %, by which time caches and allocator pools have filled. Leaks are counted when
idle: rows, blocks, sequences, voice prompts and streams that nobody owns.

    nice -n 10 python -m benchmarks.soak --requests 2000

A table for people, then one JSON document on the last line. The exit status is 1 after a leak.
"""

import argparse
import asyncio
import json
import os
import random
import resource
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from engine import (
    EngineClient,
    EngineConfig,
    EngineError,
    GenerationFailedError,
    ModelSpec,
    Prompt,
    ReferenceAudio,
    SamplingParams,
    SpeechStream,
)
from engine.core import EngineCore
from engine.dummy.checkpoint import write_random_checkpoint
from engine.protocol import MAX_VOICES, Finished, Submit
from engine.startup import build

ROWS, QUEUE = 8, 8
CUSTOM, BASE = "custom_voice", "base"
CONFIG = EngineConfig(
    device="cpu",
    dtype="float32",
    threads=1,
    max_num_seqs=ROWS,
    max_queued=QUEUE,
    max_model_len=512,
    max_num_batched_tokens=64,
    kv_cache_memory="6MB",
)


@dataclass
class Request:
    model: str
    prompt: Prompt
    params: SamplingParams
    reference: ReferenceAudio | None
    more_text: tuple[int, ...] | None  # comes live, after the first audio
    leaves_after: int | None  # steps (core) or 4 ms each (client)


class Requests:
    """The same sequence of random requests for a seed."""

    def __init__(self, seed: int, max_frames: int) -> None:
        self.rng, self.max_frames = random.Random(seed), max_frames
        noise = np.random.default_rng(seed)
        self.references = [
            ReferenceAudio(
                f"voice-{i}", (0.1 * noise.standard_normal(size)).astype("<f4").tobytes()
            )
            for i, size in enumerate(noise.integers(2_000, 12_000, 2 * MAX_VOICES))
        ]

    def next(self) -> Request:
        rng = self.rng
        model = rng.choice([CUSTOM, BASE])
        reference = rng.choice(self.references) if model == BASE else None
        in_context = reference is not None and rng.random() < 0.5
        live = not in_context and rng.random() < 0.2
        prompt = Prompt(
            role=(1, 2, 3),
            text=self._text(4 if live else 30),
            instruct=self._text(10) if model == CUSTOM and rng.random() < 0.5 else (),
            speakers=((3061, 1.0),) if model == CUSTOM else (),
            reference=reference.key if reference else None,
            reference_text=self._text(6) if in_context else (),
            streaming_text=live or rng.random() < 0.3,
            text_open=live,
        )
        params = SamplingParams(
            temperature=rng.choice([0.0, 0.9]),
            top_p=rng.choice([None, 0.9]),
            max_new_tokens=rng.randint(2, self.max_frames + 1),
        )
        leaves_after = rng.randint(0, 12) if rng.random() < 1 / 3 else None
        more_text = self._text(20) if live else None
        return Request(model, prompt, params, reference, more_text, leaves_after)

    def _text(self, most: int) -> tuple[int, ...]:
        return tuple(self.rng.randrange(600) for _ in range(self.rng.randint(1, most)))


@dataclass
class Report:
    name: str
    pid: int
    rss_mb: list[float] = field(default_factory=list)
    num_left: int = 0
    num_spoken: int = 0
    num_failed: int = 0
    leaks: dict[str, int] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)
    seconds: float = 0.0  # at the last reading

    def read_memory(self, done: int) -> None:
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        self.rss_mb.append(round(pages * resource.getpagesize() / 1e6, 1))
        self.seconds = time.monotonic() - self.began
        print(f"{self.name:8s} {done:7d} {self.rss_mb[-1]:9.1f} {self.seconds:9.1f}")

    def as_json(self) -> dict[str, Any]:
        settled = self.rss_mb[len(self.rss_mb) * 3 // 10]
        return {
            "rss_mb": self.rss_mb,
            "growth_mb": round(self.rss_mb[-1] - settled, 1),
            "spoken": self.num_spoken,
            "left": self.num_left,
            "failed": self.num_failed,
            "leaks": self.leaks,
            "seconds": round(self.seconds, 1),
        }


# ---- in this process ----


class CoreSoak:
    """EngineCore driven step by step; listeners come when there is room and leave by plan."""

    def __init__(self, core: EngineCore, requests: Requests) -> None:
        self.core, self.requests = core, requests
        self.report = Report("core", os.getpid())
        self.leaving: dict[int, int] = {}  # id -> step at which it leaves
        self.more_text: dict[int, tuple[int, ...]] = {}
        self.num_steps = 0

    def run(self, total: int) -> Report:
        for done in range(0, total, max(1, total // 10)):
            for id_ in range(done, min(total, done + max(1, total // 10))):
                self._submit(id_, self.requests.next())
                while len(self.core.sequences) >= ROWS + QUEUE:
                    self._step()
            while self.core.sequences or self.core.has_work:
                self._step()
            self.report.read_memory(min(total, done + max(1, total // 10)))
        self.core.talker.check_integrity()
        self.report.leaks = self._leaks()
        return self.report

    def _submit(self, id_: int, request: Request) -> None:
        if request.reference is not None:
            self.core.register_voice(request.model, request.reference)
        if request.leaves_after is not None:
            self.leaving[id_] = self.num_steps + request.leaves_after
        if request.more_text is not None:
            self.more_text[id_] = request.more_text
        self.core.add(Submit(id_, request.model, request.prompt, request.params))

    def _step(self) -> None:
        self.num_steps += 1
        for id_ in [id_ for id_, step in self.leaving.items() if step <= self.num_steps]:
            del self.leaving[id_]
            self.report.num_left += id_ in self.core.sequences
            self.core.abort(id_)
        for id_ in [i for i in self.more_text if self.requests.rng.random() < 0.2]:
            self.core.append(id_, self.more_text.pop(id_), True)
        for fact in self.core.step():
            self.report.num_spoken += isinstance(fact, Finished) and fact.reason.value != "abort"
            self.report.num_failed += type(fact).__name__ == "Failed"

    def _leaks(self) -> dict[str, int]:
        stats, core = self.core.stats(), self.core
        return {
            "rows": stats.num_rows - stats.num_free_rows,
            "blocks": stats.num_blocks - stats.num_free_blocks,
            "sequences": len(core.sequences) + len(core.encoding) + len(core.finishing),
            "voice_prompts": len(core.voice_prompts),
        }


# ---- through a worker process ----


class ClientSoak:
    """As many listeners as the engine takes, each a task."""

    def __init__(self, engine: EngineClient, requests: Requests) -> None:
        self.engine, self.requests = engine, requests
        process = engine._workers[0]._process
        assert process is not None
        self.report = Report("worker", process.pid)
        self.places = asyncio.Semaphore(ROWS + QUEUE)

    async def run(self, total: int) -> Report:
        for done in range(0, total, max(1, total // 10)):
            count = min(total - done, max(1, total // 10))
            async with asyncio.TaskGroup() as group:
                for _ in range(count):
                    await self.places.acquire()
                    group.create_task(self._listen(self.requests.next()))
            await self._idle()
            self.report.read_memory(done + count)
        self.report.leaks = self._leaks()
        return self.report

    async def _listen(self, request: Request) -> None:
        stream = self.engine.submit(
            request.model, request.prompt, request.params, request.reference
        )
        try:
            patience_s = None if request.leaves_after is None else request.leaves_after / 250
            async with asyncio.timeout(patience_s):
                await self._hear(stream, request)
            self.report.num_spoken += 1
        except TimeoutError:
            self.report.num_left += 1
        except GenerationFailedError:
            self.report.num_failed += 1
        finally:
            stream.abort()
            self.places.release()

    async def _hear(self, stream: SpeechStream, request: Request) -> None:
        if request.more_text is not None:
            await anext(stream, b"")
            stream.append(request.more_text, final=True)
        async for _ in stream:
            pass

    async def _idle(self) -> None:
        """The worker tells its Stats when it falls idle."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            await asyncio.sleep(0.25)
            stats = self.engine.stats[0] if self.engine.stats else None
            if stats and stats.num_running == stats.num_waiting == 0:
                return
        raise EngineError("the worker did not fall idle within a minute")

    def _leaks(self) -> dict[str, int]:
        (stats,) = self.engine.stats
        return {
            "rows": stats.num_rows - stats.num_free_rows,
            "blocks": stats.num_blocks - stats.num_free_blocks,
            "streams": len(self.engine._workers[0].streams),
        }


async def soak_client(models: list[ModelSpec], requests: Requests, total: int) -> Report:
    engine = EngineClient(CONFIG, models)
    await engine.start()
    try:
        return await ClientSoak(engine, requests).run(total)
    finally:
        await engine.close()


def soak_core(models: list[ModelSpec], requests: Requests, total: int) -> Report:
    core, _ = build(CONFIG, models)
    try:
        return CoreSoak(core, requests).run(total)
    finally:
        core.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--frames", type=int, default=8, help="most frames of an utterance")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=["core", "client"])
    args = parser.parse_args()
    print(f"{'where':8s} {'done':>7s} {'RSS MB':>9s} {'seconds':>9s}")
    reports = {}
    with tempfile.TemporaryDirectory() as folder:
        models = []
        for name in (CUSTOM, BASE):
            path = Path(folder) / name
            write_random_checkpoint(path, model_type=name, shape="tiny-0b6")  # type: ignore[arg-type]
            models.append(ModelSpec(id=name, checkpoint=str(path)))
        if args.only != "client":
            reports["core"] = soak_core(models, Requests(args.seed, args.frames), args.requests)
        if args.only != "core":
            requests = Requests(args.seed, args.frames)
            reports["client"] = asyncio.run(soak_client(models, requests, args.requests))
    results = {name: report.as_json() for name, report in reports.items()}
    print(json.dumps({"benchmark": "soak", "requests": args.requests, **results}))
    return int(any(any(report.leaks.values()) for report in reports.values()))


if __name__ == "__main__":
    sys.exit(main())
