"""The asyncio side of the engine: starts worker processes, submits prompts, returns streams of PCM.

In: a Prompt (ids) with its sampling parameters. Out: a SpeechStream of bytes, 16-bit mono PCM at
24 kHz. It runs in the HTTP server's process and never imports torch.

Each worker has one task that reads its messages and passes audio to the streams. A stream keeps
what has not been read in one buffer, so chunks merge if the listener is slow. If a listener is
max_unread_s behind, its utterance is paused until it reads on; the worker never waits for it.
If a worker dies, its streams fail at once and it is started again, each time after a longer pause.
If one hangs (a watchdog sees that its heart-beats stop), it is killed and treated the same way.
"""

import asyncio
import contextlib
import itertools
from typing import NamedTuple

from engine.config import EngineConfig, ModelSpec
from engine.errors import EngineDeadError, QueueFullError
from engine.protocol import Embed, ModelInfo, Prompt, ReferenceAudio, SamplingParams, Stats, Submit
from engine.speech_stream import SpeechStream
from engine.worker_process import WorkerProcess


class WorkerState(NamedTuple):
    status: str  # starting, ready, restarting, dead
    num_restarts: int
    stats: Stats | None  # the latest, if it has sent any since it started
    device: str = ""  # and dtype, once it was ready


class EngineClient:
    """One engine as the HTTP side sees it: `config.data_parallel_size` workers, each with all
    models. An utterance goes to the worker with the least work before it. A model on vLLM has as
    many workers of its own.
    """

    def __init__(self, config: EngineConfig, models: list[ModelSpec]) -> None:
        self.config = config
        self.models: dict[str, ModelInfo] = {}
        self._workers: list[WorkerProcess] = []
        first_gpu = 0
        for group, num_gpus in _groups(config, models):
            for _ in range(config.data_parallel_size):
                self._workers.append(WorkerProcess(config, group, first_gpu))
                first_gpu += num_gpus
        self._ids = itertools.count(1)
        self._draining = False

    @property
    def status(self) -> str:
        """One of starting, ready, restarting, draining, dead; ready as long as each model has a
        worker that is.
        """
        if self._draining:
            return "draining"
        order = ("ready", "starting", "restarting", "dead")
        best: dict[str, int] = {}
        for worker in self._workers:
            for spec in worker.specs:
                rank = order.index(worker.status)
                best[spec.id] = min(rank, best.get(spec.id, rank))
        return order[max(best.values(), default=0)]

    @property
    def stats(self) -> list[Stats]:
        """The latest Stats of each worker that has sent one."""
        return [worker.stats for worker in self._workers if worker.stats is not None]

    @property
    def workers(self) -> list[WorkerState]:
        return [WorkerState(w.status, w.num_restarts, w.stats, w.device) for w in self._workers]

    @property
    def num_rows(self) -> int:
        """How many utterances the workers that are ready can speak at once."""
        return sum(worker.num_rows for worker in self._workers if worker.status == "ready")

    @property
    def num_places(self) -> int:
        """How many utterances the ready workers should be given, so that each is spoken in time."""
        ready = [worker for worker in self._workers if worker.status == "ready"]
        return sum(worker.measured.num_places for worker in ready if worker.measured is not None)

    async def start(self) -> None:
        """Spawn the workers and wait until all are ready; CheckpointError or EngineDeadError when
        they cannot be.
        """
        # One after the other: replicas then find a checkpoint that the first one has downloaded or
        # made.
        try:
            for worker in self._workers:
                self.models |= await worker.start()
        except BaseException:
            await self.close()
            raise

    def submit(
        self,
        model: str,
        prompt: Prompt,
        params: SamplingParams,
        reference: ReferenceAudio | None = None,
        buffered_s: float = 0.0,
        is_alone: bool = False,
    ) -> SpeechStream:
        """Queue one utterance; QueueFullError or EngineDeadError is raised at once. `buffered_s`:
        seconds that the listener still has to hear of an utterance before this one, which then
        need not hurry. `is_alone`: the caller's only utterance, which goes before those of who has
        many.
        """
        ready, queued = self._ready_workers(model), self.config.max_queued
        with_room = [w for w in ready if len(w.streams) < w.num_rows + queued]
        if not with_room:
            limit = sum(worker.num_rows + queued for worker in ready)
            raise QueueFullError(f"{limit} utterances are already running or waiting")
        worker = min(with_room, key=lambda w: (len(w.streams) >= w.num_rows, w.frames_left))
        submit = Submit(next(self._ids), model, prompt, params, buffered_s, is_alone)
        return worker.submit(submit, reference)

    def _ready_workers(self, model: str) -> list[WorkerProcess]:
        have = [worker for worker in self._workers if any(s.id == model for s in worker.specs)]
        # A model that nobody has is refused by a worker.
        ready = [worker for worker in have or self._workers if worker.status == "ready"]
        if self._draining or not ready:
            raise EngineDeadError(
                f"the engine is {self.status}", retry_after_s=self._retry_after_s()
            )
        return ready

    async def embed(self, model: str, samples: bytes) -> bytes:
        """A Base model's speaker embedding of a recording, both as float32 bytes. It raises the
        errors that a stream raises.
        """
        worker = min(self._ready_workers(model), key=lambda w: w.frames_left)
        embed = Embed(next(self._ids), model, samples)
        try:
            async with asyncio.timeout(self.config.request_timeout_s):
                return await worker.embed(embed)
        except TimeoutError:
            raise EngineDeadError("the engine did not hear a recording in time") from None

    def forget_voice(self, key: str) -> None:
        """Make all workers drop the ReferenceAudio of that key and what they made of it."""
        for worker in self._workers:
            worker.forget_voice(key)

    def _retry_after_s(self) -> float:
        return max(1.0, min(worker.restart_in_s for worker in self._workers))

    async def drain(self, timeout_s: float) -> None:
        """Refuse new work (EngineDeadError) and wait until running streams have ended, or the time
        is up.
        """
        self._draining = True
        streams = [stream for worker in self._workers for stream in worker.streams.values()]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await asyncio.gather(*(stream.ended.wait() for stream in streams))

    async def close(self) -> None:
        """Stop the workers; open streams fail with EngineDeadError."""
        self._draining = True
        await asyncio.gather(*(worker.close() for worker in self._workers))


def _groups(config: EngineConfig, models: list[ModelSpec]) -> list[tuple[list[ModelSpec], int]]:
    """Models that share a worker, and how many GPUs that takes."""
    on_vllm = [spec for spec in models if (spec.backend or config.backend) == "vllm"]
    others = [spec for spec in models if spec not in on_vllm]
    groups = [(others, 1)] if others or not models else []
    return groups + [([spec], config.vllm.tensor_parallel_size) for spec in on_vllm]
