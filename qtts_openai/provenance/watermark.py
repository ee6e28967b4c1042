"""A watermark in the sound itself: written block by block while it streams, found in samples.

It is resemble-perth's, whose net runs in a process of its own (engine/watermark.py). A block is
marked together with CONTEXT before and after it, as far as the net sees, so that blocks are those
of the whole and nothing is heard where they meet. Speech leaves CONTEXT and a block later.
"""

import asyncio
import logging
import os
import socket
import struct
import subprocess
import sys
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np

import engine
from engine import EngineDeadError
from qtts_openai.answers import Finding
from qtts_openai.decoding.client import AudioDecoder, DecodeError
from qtts_openai.settings import SettingsError

logger = logging.getLogger(__name__)

EXTRA = "needs: pip install 'qtts-openai[watermark]'"
# Of samples at 24 kHz. Steps of the net's spectrum are 240 long; blocks must be whole ones of them.
CONTEXT = 4800
BLOCKS = (2400, 12_000)  # the first is short, for early audio; the last comes again and again
# More is there than this where speech is marked.
PRESENT = 0.5
# For torch and the net to be loaded, on a busy machine, and then for each answer.
START_TIMEOUT_S = 600.0
TIMEOUT_S = 60.0
_PACKAGES = str(Path(engine.__file__).resolve().parents[1])
_HEAD, _LENGTH = struct.Struct("<cI"), struct.Struct("<I")


class Watermark:
    """The process; used from several threads. SettingsError where the package is missing."""

    def __init__(self) -> None:
        if find_spec("perth") is None:
            raise SettingsError(EXTRA, "provenance.watermark")
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._is_ready = False

    def begin(self) -> None:
        """Start it; its first answer takes some seconds."""
        with self._lock:
            self._begin()

    def _begin(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-P", "-m", "engine.watermark"]
            # It needs no keys of the server's.
            kept = {name: v for name, v in os.environ.items() if not name.startswith("QTTS_")}
            path = os.pathsep.join(filter(None, (_PACKAGES, os.environ.get("PYTHONPATH"))))
            environment = kept | {"PYTHONPATH": path}
            self._process = subprocess.Popen(
                command, stdin=theirs.fileno(), env=environment, start_new_session=True
            )
        ours.settimeout(START_TIMEOUT_S)
        self._socket, self._is_ready = ours, False

    def mark_of(self, samples: np.ndarray) -> np.ndarray:
        """What is to be added to them. EngineDeadError: nothing goes out unmarked."""
        return self._asked(b"a", samples)

    def score(self, samples: np.ndarray) -> float:
        """From 0 to 1, where a mark is in it."""
        return float(self._asked(b"d", samples)[0])

    def _asked(self, what: bytes, samples: np.ndarray) -> np.ndarray:
        with self._lock:
            if self._process is None:
                self._begin()
            try:
                return self._exchange(what, samples)
            except (OSError, EOFError) as error:
                logger.error("what watermarks speech has ended: %s", error)
                self._end()
                message = "the speech cannot be watermarked at the moment"
                raise EngineDeadError(message) from error

    def _exchange(self, what: bytes, samples: np.ndarray) -> np.ndarray:
        assert self._socket is not None
        if not self._is_ready:
            self._read(1)
            self._socket.settimeout(TIMEOUT_S)
            self._is_ready = True
        data = samples.astype("<f4").tobytes()
        self._socket.sendall(_HEAD.pack(what, len(samples)) + data)
        (num_values,) = _LENGTH.unpack(self._read(_LENGTH.size))
        return np.frombuffer(self._read(4 * num_values), "<f4")

    def _read(self, num_bytes: int) -> bytes:
        assert self._socket is not None
        data = bytearray()
        while len(data) < num_bytes:
            part = self._socket.recv(num_bytes - len(data))
            if not part:
                raise EOFError("its socket was closed")
            data += part
        return bytes(data)

    def _end(self) -> None:
        if self._process is not None and self._socket is not None:
            self._socket.close()
            self._process.kill()
            self._process.wait()
        self._process = None

    def close(self) -> None:
        with self._lock:
            self._end()


async def heard(watermark: Watermark, decoder: AudioDecoder, data: bytes) -> Finding:
    """Of a file, as far as it can be decoded: no less and no more than reference audio may have."""
    try:
        audio = await decoder.decode(data)
    except DecodeError as error:
        return Finding(what="watermark", verdict="unchecked", detail=str(error))
    samples = np.frombuffer(audio.samples, "<f4")
    score = await asyncio.to_thread(watermark.score, samples)
    verdict: Literal["present", "absent"] = "present" if score > PRESENT else "absent"
    return Finding(what="watermark", verdict=verdict, detail=f"{score:.2f} of 1")


class Marking:
    """A stage of an encoder: 16-bit PCM at 24 kHz in and, marked, out. Blocks lie where they lie,
    however the PCM was cut.
    """

    def __init__(self, watermark: Watermark) -> None:
        self._watermark = watermark
        self._before = np.zeros(0, "<i2")  # the end of what went out, unmarked
        self._held = bytearray()
        self._num_blocks = 0

    def encode(self, pcm: bytes) -> bytes:
        self._held += pcm
        out = b""
        while len(self._held) >= 2 * (self._block + CONTEXT):
            out += self._mark(self._block)
        return out

    def flush(self) -> bytes:
        out = b""
        while self._held:
            out += self._mark(min(self._block, len(self._held) // 2))
        return out

    def with_exact_sizes(self, body: bytes) -> bytes:
        return body

    @property
    def _block(self) -> int:
        return BLOCKS[min(self._num_blocks, len(BLOCKS) - 1)]

    def _mark(self, num_samples: int) -> bytes:
        ahead = np.frombuffer(bytes(self._held[: 2 * (num_samples + CONTEXT)]), "<i2")
        window = np.concatenate([self._before, ahead]).astype(np.float32) / 32768
        start = len(self._before)
        mark = self._watermark.mark_of(window)[start : start + num_samples]
        block = ahead[:num_samples]
        self._before = np.concatenate([self._before, block])[-CONTEXT:]
        del self._held[: 2 * num_samples]
        self._num_blocks += 1
        marked: np.ndarray = np.rint(block + mark * 32768).clip(-32768, 32767).astype("<i2")
        return marked.tobytes()
