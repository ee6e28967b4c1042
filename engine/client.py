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
import logging
import os
import socket
import sys
import time
from collections import OrderedDict

import msgspec

from engine.config import EngineConfig, ModelSpec
from engine.errors import (
    CheckpointError,
    EngineDeadError,
    EngineError,
    GenerationFailedError,
    InvalidPromptError,
    QueueFullError,
)
from engine.protocol import (
    HEADER,
    MAX_VOICES,
    SAMPLE_RATE_HZ,
    Abort,
    Append,
    AudioChunk,
    Failed,
    Fatal,
    Finished,
    ForgetVoice,
    Heartbeat,
    Hold,
    Inbound,
    ModelInfo,
    Outbound,
    Prompt,
    Ready,
    ReferenceAudio,
    RegisterVoice,
    SamplingParams,
    Shutdown,
    Start,
    Stats,
    Submit,
)

log = logging.getLogger(__name__)

BACK_OFF_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
STABLE_AFTER_S = 60.0  # a worker that lived this long starts the back-off anew
CLOSE_TIMEOUT_S = 5.0
WATCH_EVERY_S = 0.5
# What the worker, which reads no keys, must not be able to tell anybody.
SECRET_VARIABLES = ("QTTS_API_KEYS",)


class SpeechStream:
    """PCM of one utterance: `async for pcm in stream`, then `stream.finished` says why it ended.

    Chunks are int16 little-endian mono at 24 kHz and merge when the reader lags. Raises
    GenerationFailedError, InvalidPromptError or EngineDeadError in place of the next chunk.
    `abort()` is idempotent and safe at any time.
    """

    def __init__(self, id_: int, worker: "_Worker", prompt: Prompt) -> None:
        self.id = id_
        self.text_open = prompt.text_open  # it may wait for its text as long as that takes
        self._text = list(prompt.text) if prompt.text_open else []
        self.heard_at = time.monotonic()  # its last audio; before that, its submission or last text
        self.finished: Finished | None = None
        self.ended = asyncio.Event()  # finished or failed; PCM may still be unread
        self._worker = worker
        self._pcm = bytearray()
        self._max_unread = round(worker.config.max_unread_s * SAMPLE_RATE_HZ) * 2
        self._held = False
        self._error: EngineError | None = None
        self._news = asyncio.Event()

    def __aiter__(self) -> "SpeechStream":
        return self

    async def __anext__(self) -> bytes:
        while not self._pcm:
            if self._error is not None:
                raise self._error
            if self.finished is not None:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        pcm = bytes(self._pcm)
        self._pcm.clear()
        self._hold(False)
        return pcm

    def append(self, text: tuple[int, ...], final: bool = False) -> None:
        """More text for a prompt that was submitted with text_open; `final` ends it. What the
        engine had no use for any more is `unread_text` at the end.
        """
        self._text += text
        if self.is_open:
            self._worker.send(Append(self.id, text, final))
            self.text_open, self.heard_at = self.text_open and not final, time.monotonic()

    @property
    def unread_text(self) -> tuple[int, ...]:
        """Once finished: ids at the end of the text that were not spoken, because they came after
        the end or did not fit the frame budget.
        """
        return tuple(self._text[self.finished.num_text :]) if self.finished is not None else ()

    def abort(self, reason: str = "the utterance was aborted") -> None:
        """Stop generating and free everything; what was not read yet is dropped."""
        if self.is_open:
            self._worker.send(Abort(self.id))
            self._worker.streams.pop(self.id, None)
            self.fail(GenerationFailedError(reason))

    @property
    def is_open(self) -> bool:
        return self.finished is None and self._error is None

    def feed(self, pcm: bytes) -> None:
        self._pcm += pcm
        self.heard_at = time.monotonic()
        self._hold(len(self._pcm) >= self._max_unread)
        self._news.set()

    def _hold(self, held: bool) -> None:
        if held is not self._held and self.is_open:
            self._held = held
            self._worker.send(Hold(self.id, held))

    def finish(self, finished: Finished) -> None:
        self.finished = finished
        self.ended.set()
        self._news.set()

    def fail(self, error: EngineError) -> None:
        self._error = error
        self._pcm.clear()
        self.ended.set()
        self._news.set()


class EngineClient:
    """One engine as the HTTP side sees it: `config.data_parallel_size` workers, each with all
    models, least loaded first. A model on vLLM has as many of its own.
    """

    def __init__(self, config: EngineConfig, models: list[ModelSpec]) -> None:
        self.config = config
        self.models: dict[str, ModelInfo] = {}
        self._workers: list[_Worker] = []
        first_gpu = 0
        for group, num_gpus in _groups(config, models):
            for _ in range(config.data_parallel_size):
                self._workers.append(_Worker(config, group, first_gpu))
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
    def num_rows(self) -> int:
        """How many utterances the workers that are ready can speak at once."""
        return sum(worker.num_rows for worker in self._workers if worker.status == "ready")

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
    ) -> SpeechStream:
        """Queue one utterance. QueueFullError or EngineDeadError at once, before any work. With
        `buffered_s` it follows another one, of which that much is still to be heard, and need not
        hurry.
        """
        have = [worker for worker in self._workers if any(s.id == model for s in worker.specs)]
        # A model that nobody has is refused by a worker.
        ready = [worker for worker in have or self._workers if worker.status == "ready"]
        if self._draining or not ready:
            raise EngineDeadError(
                f"the engine is {self.status}", retry_after_s=self._retry_after_s()
            )
        worker = min(ready, key=lambda w: len(w.streams))
        limit = worker.num_rows + self.config.max_queued
        if len(worker.streams) >= limit:
            raise QueueFullError(f"{limit} utterances are already running or waiting")
        submit = Submit(next(self._ids), model, prompt, params, buffered_s)
        return worker.submit(submit, reference)

    def forget_voice(self, key: str) -> None:
        """Of a ReferenceAudio: no worker keeps it, or what was made of it, for later."""
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


class _Worker:
    """One worker process: its socket, its streams, and its restarts."""

    def __init__(self, config: EngineConfig, models: list[ModelSpec], index: int) -> None:
        self.config, self.specs, self.index = config, models, index
        self.status = "starting"
        self.num_rows = 0  # utterances it speaks at once, as it says itself
        self.streams: dict[int, SpeechStream] = {}
        self.stats: Stats | None = None
        self.restart_in_s = 0.0
        self._heartbeat: Heartbeat | None = None
        self._voices: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(Outbound)
        self._process: asyncio.subprocess.Process | None = None
        self._standby: tuple[asyncio.subprocess.Process, socket.socket] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._supervisor: asyncio.Task[None] | None = None

    async def start(self) -> dict[str, ModelInfo]:
        """Spawn and wait for Ready. The first start must succeed; later ones are the supervisor's
        business.
        """
        ready, reader = await self._spawn()
        self._supervisor = asyncio.create_task(
            self._supervise(reader), name=f"engine-worker-{self.index}"
        )
        return {info.id: info for info in ready.models}

    async def _spawn(self) -> tuple[Ready, asyncio.StreamReader]:
        reader, self._writer = await self._connect()
        self._voices.clear()
        self.send(Start(self.config, self.specs, self.index))
        try:
            fact = await self._read(reader)
        except (asyncio.IncompleteReadError, ConnectionError, msgspec.DecodeError):
            fact = None
        if isinstance(fact, Ready):
            self.status, self.num_rows = "ready", fact.num_rows
            return fact, reader
        await self._reap()
        if isinstance(fact, Fatal):
            raise CheckpointError(fact.message)
        raise EngineDeadError("the engine process ended before it was ready; see the log above")

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A process, and the streams to and from it: the one that stands by, or a new one."""
        standby, self._standby = self._standby, None
        if standby is not None and standby[0].returncode is not None:
            standby[1].close()
            standby = None
        self._process, ours = standby or await _begin_process()
        try:
            return await asyncio.open_connection(sock=ours)
        except BaseException:
            ours.close()
            raise

    async def _stand_by(self) -> None:
        """Have another process import what it needs, so that a restart only loads and warms up."""
        if self.config.standby and self._standby is None:
            try:
                self._standby = await _begin_process()
            except OSError as error:
                log.warning("no process can stand by for worker %d: %s", self.index, error)

    async def _read(self, reader: asyncio.StreamReader) -> Outbound:
        (length,) = HEADER.unpack(await reader.readexactly(HEADER.size))
        message: Outbound = self._decoder.decode(await reader.readexactly(length))
        return message

    async def _supervise(self, reader: asyncio.StreamReader) -> None:
        """Route facts while the worker lives; when it dies, fail its streams and start it again,
        waiting ever longer.
        """
        failures = 0
        while True:
            began = time.monotonic()
            await self._stand_by()
            watchdog = asyncio.create_task(self._watch(), name=f"engine-watchdog-{self.index}")
            try:
                reason = await self._route(reader)
            finally:
                watchdog.cancel()
            failures = 0 if time.monotonic() - began > STABLE_AFTER_S else failures
            self.status, self.stats = "restarting", None
            log.error(
                "engine worker %d died: %s; it was speaking sequences %s",
                *(self.index, reason, sorted(self.streams)),
            )
            self._fail_streams("the engine died while it spoke this; it is being restarted")
            await self._reap()
            while self.status != "ready":
                self.restart_in_s = BACK_OFF_S[min(failures, len(BACK_OFF_S) - 1)]
                failures += 1
                await asyncio.sleep(self.restart_in_s)
                try:
                    _, reader = await self._spawn()
                    log.info("engine worker %d is back", self.index)
                except (EngineError, OSError) as error:
                    log.error("engine worker %d did not restart: %s", self.index, error)
            self.restart_in_s = 0.0

    async def _watch(self) -> None:
        """Kill a worker that has gone silent or whose step does not end; fail an utterance of which
        nothing is heard. Silence is counted in turns of this loop, not by the clock, for the loop
        itself may have stood still.
        """
        silent_turns, config = 0, self.config
        while True:
            await asyncio.sleep(WATCH_EVERY_S)
            heartbeat, self._heartbeat = self._heartbeat, None
            silent_turns = 0 if heartbeat is not None else silent_turns + 1
            if silent_turns * WATCH_EVERY_S >= config.heartbeat_timeout_s:
                self._kill(f"it gave no sign of life for {config.heartbeat_timeout_s:g} s")
            elif heartbeat is not None and heartbeat.step_s > config.step_timeout_s:
                self._kill(f"a step took longer than {config.step_timeout_s:g} s")
            self._fail_overdue()

    def _kill(self, reason: str) -> None:
        """The reader then finds the connection closed."""
        log.error("engine worker %d hangs, and is killed: %s", self.index, reason)
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    def _fail_overdue(self) -> None:
        limit_s = self.config.request_timeout_s
        since = time.monotonic() - limit_s
        overdue = [s for s in self.streams.values() if not s.text_open and s.heard_at < since]
        for stream in overdue:
            log.error("sequence %d: nothing was heard of it for %g s", stream.id, limit_s)
            stream.abort(f"nothing was spoken for {limit_s:g} s (engine.request_timeout_s)")

    async def _route(self, reader: asyncio.StreamReader) -> str:
        """Hand facts to streams until the worker ends; returns why it did."""
        try:
            while True:
                fact = await self._read(reader)
                match fact:
                    case AudioChunk(id_, pcm):
                        if stream := self.streams.get(id_):
                            stream.feed(pcm)
                    case Finished(id_):
                        if stream := self.streams.pop(id_, None):
                            stream.finish(fact)
                    case Failed(id_, kind, message, param):
                        if stream := self.streams.pop(id_, None):
                            bad_prompt = kind == "invalid_prompt"
                            stream.fail(
                                InvalidPromptError(message, param)
                                if bad_prompt
                                else GenerationFailedError(message)
                            )
                    case Stats():
                        self.stats = fact
                    case Heartbeat():
                        self._heartbeat = fact
                    case Fatal(message):
                        return message
        except (asyncio.IncompleteReadError, ConnectionError):
            return "the process ended"
        except msgspec.DecodeError as error:
            return f"it sent what cannot be read ({error})"

    def submit(self, submit: Submit, reference: ReferenceAudio | None) -> SpeechStream:
        assert reference is None or reference.key == submit.prompt.reference
        if reference is not None:
            self._register(submit.model, reference)
        self.send(submit)
        stream = SpeechStream(submit.id, self, submit.prompt)
        self.streams[submit.id] = stream
        return stream

    def _register(self, model: str, reference: ReferenceAudio) -> None:
        """Send a recording unless this worker still has it; both sides forget the least recently
        used ones alike.
        """
        key = (model, reference.key)
        if key not in self._voices:
            self.send(RegisterVoice(model, reference))
        self._voices[key] = None
        self._voices.move_to_end(key)
        mine = [k for k in self._voices if k[0] == model]
        if len(mine) > MAX_VOICES:
            del self._voices[mine[0]]

    def forget_voice(self, key: str) -> None:
        for known in [known for known in self._voices if known[1] == key]:
            del self._voices[known]
        self.send(ForgetVoice(key))

    def send(self, message: Inbound) -> None:
        if self._writer is not None and not self._writer.is_closing():
            data = self._encoder.encode(message)
            self._writer.write(HEADER.pack(len(data)) + data)

    def _fail_streams(self, message: str) -> None:
        streams, self.streams = self.streams, {}
        for stream in streams.values():
            stream.fail(EngineDeadError(message))

    async def _reap(self) -> None:
        """Close the socket, which ends a healthy worker, and make sure that the process is gone."""
        if self._writer is not None:
            self._writer.close()
            with contextlib.suppress(ConnectionError):
                await self._writer.wait_closed()
        if self._process is not None:
            try:
                await asyncio.wait_for(self._process.wait(), CLOSE_TIMEOUT_S)
            except TimeoutError:
                self._process.kill()
                await self._await_killed(self._process)

    async def _await_killed(self, process: asyncio.subprocess.Process) -> None:
        """The kernel may keep a process that waits for a broken device: go on without it then."""
        try:
            await asyncio.wait_for(process.wait(), CLOSE_TIMEOUT_S)
        except TimeoutError:
            log.error("engine worker %d (pid %d) cannot be killed", self.index, process.pid)

    async def close(self) -> None:
        if self._supervisor is not None:
            self._supervisor.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._supervisor
        self.send(Shutdown())
        await self._reap()
        if self._standby is not None:
            process, ours = self._standby
            ours.close()
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await self._await_killed(process)
        self.status = "dead"
        self._fail_streams("the engine was stopped")


async def _begin_process() -> tuple[asyncio.subprocess.Process, socket.socket]:
    """A worker that waits for Start, and our end of its socket."""
    ours, theirs = socket.socketpair()
    try:
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "engine.worker", str(theirs.fileno()),
                pass_fds=[theirs.fileno()], env=worker_environment(), start_new_session=True,
            )  # fmt: skip
    except BaseException:
        ours.close()
        raise
    return process, ours


def worker_environment() -> dict[str, str]:
    """What a worker inherits."""
    environment = {name: v for name, v in os.environ.items() if name not in SECRET_VARIABLES}
    # Spin briefly: without end starves what else runs on these cores, not at all costs a wake-up in
    # every operator (figures in benchmarks/RESULTS.md).
    environment.setdefault("GOMP_SPINCOUNT", "5000")
    return environment
