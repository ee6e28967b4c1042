"""One worker process as the client sees it: its socket, its streams, its watchdog, its restarts.

In: Submit and other messages of engine.protocol for that worker. Out: the reports it sends, handed
to the SpeechStreams they belong to.
"""

import asyncio
import contextlib
import logging
import subprocess
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
)
from engine.protocol import (
    HEADER,
    MAX_VOICES,
    AudioChunk,
    Embed,
    Embedding,
    Failed,
    Fatal,
    Finished,
    ForgetVoice,
    Heartbeat,
    Inbound,
    Measured,
    ModelInfo,
    Outbound,
    Ready,
    ReferenceAudio,
    RegisterVoice,
    Shutdown,
    Start,
    Stats,
    Submit,
)
from engine.spawn import Spawned, spawned
from engine.speech_stream import SpeechStream

log = logging.getLogger(__name__)

BACK_OFF_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
STABLE_AFTER_S = 10.0  # a worker that lived this long starts the back-off anew
CLOSE_TIMEOUT_S = 5.0
WATCH_EVERY_S = 0.5
# Of silence: from then on the next worker gets ready, though this one may yet speak again.
SUSPECT_AFTER_S = 3.0


class WorkerProcess:
    """One worker process: its socket, its streams, and its restarts."""

    def __init__(self, config: EngineConfig, models: list[ModelSpec], index: int) -> None:
        self.config, self.specs, self.index = config, models, index
        self.status = "starting"
        self.num_restarts = 0
        self.num_rows = 0  # utterances it speaks at once, as it says itself
        self.measured: Measured | None = None
        self.device = ""
        self.streams: dict[int, SpeechStream] = {}
        self._heard: dict[int, asyncio.Future[bytes]] = {}
        self.stats: Stats | None = None
        self.restart_in_s = 0.0
        self._heartbeat: Heartbeat | None = None
        self._voices: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(Outbound)
        self._process: subprocess.Popen[bytes] | None = None
        self._standby: Spawned | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._supervisor: asyncio.Task[None] | None = None

    @property
    def frames_left(self) -> float:
        """Work that lies before it, by estimate."""
        return sum(stream.frames_left for stream in self.streams.values())

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
        self.send(Start(self.config, self.specs, self.index, self.measured))
        try:
            fact = await self._read(reader)
        except (asyncio.IncompleteReadError, ConnectionError, msgspec.DecodeError):
            fact = None
        if isinstance(fact, Ready):
            self.status, self.num_rows, self.measured = "ready", fact.num_rows, fact.measured
            self.device = f"{fact.device}, {fact.dtype}"
            return fact, reader
        await self._reap()
        if isinstance(fact, Fatal):
            raise CheckpointError(fact.message)
        raise EngineDeadError("the engine process ended before it was ready; see the log above")

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A process, and the streams to and from it: the one that stands by, or a new one."""
        standby, self._standby = self._standby, None
        if standby is not None and standby.process.poll() is not None:
            standby.socket.close()
            standby = None
        self._process, ours = standby or spawned()
        try:
            return await asyncio.open_connection(sock=ours)
        except BaseException:
            ours.close()
            raise

    def _stand_by(self) -> None:
        """Have another process import what it needs, so that a restart only loads and warms up."""
        if self._standby is None:
            try:
                self._standby = spawned()
            except OSError as error:
                log.warning("no process can stand by for worker %d: %s", self.index, error)

    async def _dismiss_standby(self) -> None:
        standby, self._standby = self._standby, None
        if standby is not None:
            standby.socket.close()
            standby.process.kill()
            await self._await_killed(standby.process)

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
            if self.config.standby:
                self._stand_by()
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
            self._stand_by()
            await self._reap()
            while self.status != "ready":
                self.restart_in_s = BACK_OFF_S[min(failures, len(BACK_OFF_S) - 1)]
                failures += 1
                await asyncio.sleep(self.restart_in_s)
                try:
                    _, reader = await self._spawn()
                    self.num_restarts += 1
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
            elif silent_turns * WATCH_EVERY_S == SUSPECT_AFTER_S:
                self._stand_by()
            elif heartbeat is not None and not config.standby:
                await self._dismiss_standby()
            self._fail_overdue()

    def _kill(self, reason: str) -> None:
        """The reader then finds the connection closed."""
        log.error("engine worker %d hangs, and is killed: %s", self.index, reason)
        if self._process is not None:
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
                    case AudioChunk(id_, pcm, timing):
                        if stream := self.streams.get(id_):
                            stream.timing = stream.timing or timing
                            stream.feed(pcm)
                    case Finished(id_):
                        if stream := self.streams.pop(id_, None):
                            stream.finish(fact)
                    case Failed(id_, kind, message, param):
                        bad_prompt = kind == "invalid_prompt"
                        error: EngineError = (
                            InvalidPromptError(message, param)
                            if bad_prompt
                            else GenerationFailedError(message)
                        )
                        if stream := self.streams.pop(id_, None):
                            stream.fail(error)
                        elif (heard := self._heard.get(id_)) and not heard.done():
                            heard.set_exception(error)
                    case Embedding(id_, numbers):
                        if (heard := self._heard.get(id_)) and not heard.done():
                            heard.set_result(numbers)
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
        if submit.params.max_new_tokens is not None:
            stream.frames_left = min(stream.frames_left, submit.params.max_new_tokens)
        self.streams[submit.id] = stream
        return stream

    async def embed(self, embed: Embed) -> bytes:
        heard = self._heard[embed.id] = asyncio.get_running_loop().create_future()
        try:
            self.send(embed)
            numbers: bytes = await heard
            return numbers
        finally:
            del self._heard[embed.id]

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
        for heard in self._heard.values():
            if not heard.done():
                heard.set_exception(EngineDeadError(message))

    async def _reap(self) -> None:
        """Close the socket, which ends a healthy worker, and make sure that the process is gone."""
        if self._writer is not None:
            self._writer.close()
            with contextlib.suppress(ConnectionError):
                await self._writer.wait_closed()
        if self._process is not None and not await _ends(self._process):
            self._process.kill()
            await self._await_killed(self._process)

    async def _await_killed(self, process: "subprocess.Popen[bytes]") -> None:
        """The kernel may keep a process that waits for a broken device: go on without it then."""
        if not await _ends(process):
            log.error("engine worker %d (pid %d) cannot be killed", self.index, process.pid)

    async def close(self) -> None:
        if self._supervisor is not None:
            self._supervisor.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._supervisor
        self.send(Shutdown())
        await self._reap()
        await self._dismiss_standby()
        self.status = "dead"
        self._fail_streams("the engine was stopped")


async def _ends(process: "subprocess.Popen[bytes]") -> bool:
    """Whether it has ended within CLOSE_TIMEOUT_S."""
    until = time.monotonic() + CLOSE_TIMEOUT_S
    while process.poll() is None:
        if time.monotonic() > until:
            return False
        await asyncio.sleep(0.01)
    return True
