"""AudioDecoder: the server's side of decoding. No thread is used: it waits on sockets only.

Two files are decoded at a time, and one of a caller; the rest wait in turn, for a bounded time. A
file that takes too long, or whose sender leaves, loses its child; a zygote that does not answer is
replaced.
"""

import asyncio
import hashlib
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec
import numpy as np

import qtts_openai
from engine import SAMPLE_RATE_HZ, ReferenceAudio
from qtts_openai.decoding.turns import BusyError, Turns

logger = logging.getLogger(__name__)

MAX_AT_ONCE = 2
START_TIMEOUT_S = 20.0
# Beside what the file and its samples take: tables of a demuxer, codecs, a resampler.
EXTRA_MEMORY_BYTES = 192 << 20
_PACKAGES = Path(qtts_openai.__file__).resolve().parents[1]
_SAMPLE_BYTES = 4

Outcome = Literal[
    "decoded", "examined", "refused", "crashed", "timed_out", "cancelled", "busy", "unavailable"
]
HELLO = b"+"  # a child's first byte, from behind its filter of system calls


class DecodeError(Exception):
    """The message says what is wrong with the file, without a full stop."""


class DecoderUnavailableError(Exception):
    """The server cannot start what decodes."""


class Reply(msgspec.Struct, frozen=True):
    num_bytes: Annotated[int, msgspec.Meta(ge=0)] = 0
    refused: Annotated[str, msgspec.Meta(max_length=500)] | None = None


T = TypeVar("T")
Answer = Callable[[asyncio.StreamReader], Awaitable[T]]


async def _line(reader: asyncio.StreamReader) -> bytes:
    """JSON, which may be a refusal."""
    line = await reader.readuntil(b"\n")
    if (refused := msgspec.json.decode(line, type=Reply).refused) is not None:
        raise _Refused(refused)
    return line


class AudioDecoder:
    """Begins its zygote at the first file, or with `warm_up()`; `close()` ends it."""

    def __init__(
        self,
        *,
        min_s: float,
        max_s: float,
        timeout_s: float,
        count: Callable[[Outcome], None] = lambda outcome: None,
    ) -> None:
        self.min_s = min_s
        self.max_s = max_s
        self.timeout_s = timeout_s
        self.count = count
        self._begun: asyncio.Task[Zygote] | None = None
        self.turns = Turns(max_at_once=MAX_AT_ONCE, max_wait_s=3 * timeout_s)

    async def decode(self, data: bytes) -> ReferenceAudio:
        """Mono at the engine's rate. DecodeError: it is the file's fault; BusyError: others'."""
        return await self._in_turn([data], self._answer)

    async def run(self, function: str, parts: list[bytes]) -> bytes:
        """A line of JSON from `module:function`, which gets `parts` in a child as confined as one
        that decodes; raises as `decode`.
        """
        return await self._in_turn(parts, _line, function)

    async def _in_turn(
        self, parts: list[bytes], answer: Answer[T], function: str | None = None
    ) -> T:
        outcome: Outcome = "cancelled"
        try:
            async with self.turns.take():
                read = await self._have_read(parts, answer, function)
            outcome = "examined" if function else "decoded"
            return read
        except _Refused:
            outcome = "refused"
            raise
        except TimeoutError:
            outcome = "timed_out"
            raise DecodeError(f"it could not be read within {self.timeout_s:g} s") from None
        except (BusyError, DecoderUnavailableError) as error:
            outcome = "busy" if isinstance(error, BusyError) else "unavailable"
            raise
        except DecodeError:
            outcome = "crashed"
            logger.warning("an audio file ended the process that read it")
            raise
        finally:
            self.count(outcome)

    async def _have_read(self, parts: list[bytes], answer: Answer[T], function: str | None) -> T:
        zygote, job = await self._fork()
        taken = False
        try:
            reader, writer = await asyncio.open_connection(sock=job)
            try:
                async with asyncio.timeout(self.timeout_s):
                    writer.write(self._job([len(part) for part in parts], function))
                    await reader.readexactly(1)
                    taken = True
                    zygote.note_filter(await reader.readexactly(1))
                    writer.writelines(parts)
                    return await answer(reader)
            finally:
                # The child ends with this, whatever it is doing.
                writer.transport.abort()
        except TimeoutError:
            if not taken:  # it is the zygote that hangs
                zygote.close()
            raise
        except (EOFError, OSError, ValueError, asyncio.LimitOverrunError) as error:
            if not zygote.is_alive():
                raise DecoderUnavailableError("what decodes audio was ended") from error
            raise DecodeError("it cannot be decoded") from error

    async def _fork(self) -> "tuple[Zygote, socket.socket]":
        for _ in range(2):
            zygote = await self.begin()
            try:
                return zygote, zygote.fork()
            except OSError:  # it died just now
                zygote.close()
        raise DecoderUnavailableError("what decodes audio ends as soon as it is begun")

    def _job(self, parts: list[int], function: str | None) -> bytes:
        samples_bytes = int(self.max_s * 48_000 * _SAMPLE_BYTES)
        job = {
            "function": function,
            "parts": parts,
            "rate_hz": SAMPLE_RATE_HZ,
            "min_s": self.min_s,
            "max_s": self.max_s,
            "memory_bytes": EXTRA_MEMORY_BYTES + 4 * sum(parts) + 5 * samples_bytes,
            "cpu_s": int(self.timeout_s) + 1,
        }
        return msgspec.json.encode(job) + b"\n"

    async def _answer(self, reader: asyncio.StreamReader) -> ReferenceAudio:
        """What a child says is believed within bounds only: it may be the file that speaks."""
        reply = msgspec.json.decode(await _line(reader), type=Reply)
        most = int((self.max_s + 1) * SAMPLE_RATE_HZ) * _SAMPLE_BYTES
        if not 0 < reply.num_bytes <= most or reply.num_bytes % _SAMPLE_BYTES:
            raise ValueError(f"{reply.num_bytes} bytes of samples")
        samples, hasher = bytearray(), hashlib.sha256()
        while len(samples) < reply.num_bytes:
            part = await reader.read(min(1 << 16, reply.num_bytes - len(samples)))
            if not part:
                raise asyncio.IncompleteReadError(b"", reply.num_bytes)
            hasher.update(part)
            samples += part
        if not np.isfinite(np.frombuffer(samples, "<f4")).all():
            raise ValueError("samples that are not finite")
        return ReferenceAudio(key=hasher.hexdigest(), samples=bytes(samples))

    async def begin(self) -> "Zygote":
        """The zygote, ready."""
        # Others may wait for it too, so it goes on when this one leaves.
        return await asyncio.shield(self.warm_up())

    def warm_up(self) -> "asyncio.Task[Zygote]":
        """Begin the zygote where there is none or where it died."""
        if self._begun is None or not self._is_usable():
            self.close()
            self._begun = asyncio.create_task(Zygote.begin(), name="audio-decoder")
        return self._begun

    def _is_usable(self) -> bool:
        begun = self._begun
        if begun is None or not begun.done():
            return begun is not None
        return not (begun.cancelled() or begun.exception()) and begun.result().is_alive()

    def close(self) -> None:
        begun, self._begun = self._begun, None
        if begun is None or begun.cancel():
            return
        if not (begun.cancelled() or begun.exception()):
            begun.result().close()


class Zygote:
    """The process that children are forked from, seen from the server."""

    def __init__(self, process: subprocess.Popen[bytes], control: socket.socket) -> None:
        self.process = process
        self.control = control
        self.has_filter = True

    @classmethod
    async def begin(cls) -> "Zygote":
        control, theirs = socket.socketpair()
        control.setblocking(False)
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", f"{__package__}.zygote"],
                stdin=theirs.fileno(), stdout=subprocess.DEVNULL, env=_environment(), cwd="/",
                start_new_session=True,
            )  # fmt: skip
        zygote = cls(process, control)
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                ready = await asyncio.get_running_loop().sock_recv(control, 1)
            if not ready:
                raise DecoderUnavailableError("the process that decodes audio did not start")
        except TimeoutError:
            zygote.close()
            raise DecoderUnavailableError("the process that decodes audio is too slow") from None
        except BaseException:
            zygote.close()
            raise
        return zygote

    def is_alive(self) -> bool:
        return self.process.poll() is None

    def fork(self) -> socket.socket:
        """The server's end of a new child's socket."""
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self.control, [b"+"], [theirs.fileno()])
        return ours

    def note_filter(self, hello: bytes) -> None:
        if hello != HELLO and self.has_filter:
            self.has_filter = False
            logger.warning("no filter of system calls here: audio is decoded under limits only")

    def close(self) -> None:
        """Its children end with it."""
        self.control.close()
        self.process.kill()
        self.process.wait()


def _environment() -> dict[str, str]:
    """Nothing of the server's, so no keys; one thread, because a process with threads cannot fork
    safely.
    """
    kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return kept | threads | {"PYTHONPATH": str(_PACKAGES)}


class _Refused(DecodeError):
    """The child looked at the file and said no."""
