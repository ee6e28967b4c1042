"""Speech that was made before, for requests that decide their audio: those with a seed, and greedy
ones.

What is kept is PCM, so one entry serves every format, speed and rate, and each answer goes out the
way a new one does. The key is the whole SpeechPlan: model, ids, sampling, and of a reference the
hash of its content. An utterance that was cut, failed or was left is not kept. Entries and what is
being recorded together stay within max_bytes; the least recently used go first.
"""

import hashlib
from collections import OrderedDict

import msgspec

from engine import SAMPLE_RATE_HZ, Finished, FinishReason
from qtts_openai.speech.planner import SpeechPlan
from qtts_openai.speech.segmented_stream import PcmStream

# Replayed in pieces of a second, so that encoding one delays no other.
PIECE_BYTES = SAMPLE_RATE_HZ * 2


class SpeechCache:
    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._entries: OrderedDict[bytes, tuple[bytes, Finished]] = OrderedDict()

    def get(self, key: bytes) -> "Replay | None":
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return Replay(*entry)

    def put(self, key: bytes, pcm: bytes, finished: Finished) -> None:
        """Keep what claim() has made room for."""
        replaced = self._entries.pop(key, None)
        self.give_back(len(replaced[0]) if replaced else 0)
        self._entries[key] = (pcm, finished)

    def claim(self, num_bytes: int) -> bool:
        """Make room by forgetting; False where even that is not enough."""
        while self.num_bytes + num_bytes > self.max_bytes and self._entries:
            _, (pcm, _) = self._entries.popitem(last=False)
            self.give_back(len(pcm))
        fits = self.num_bytes + num_bytes <= self.max_bytes
        self.num_bytes += num_bytes if fits else 0
        return fits

    def clear(self) -> None:
        """Where a voice is to be heard no more."""
        for pcm, _ in self._entries.values():
            self.give_back(len(pcm))
        self._entries.clear()

    def give_back(self, num_bytes: int) -> None:
        self.num_bytes -= num_bytes


def cache_key(utterance: SpeechPlan) -> bytes | None:
    """None where two answers to the request would differ."""
    params = utterance.params
    if params.temperature == 0:
        params = msgspec.structs.replace(params, seed=0)
    if params.seed is None:
        return None
    reference = utterance.reference.key if utterance.reference else None
    decides = (utterance.model.id, utterance.parts, params, reference)
    return hashlib.sha256(msgspec.msgpack.encode(decides)).digest()


class Replay:
    """A PcmStream of what was kept."""

    def __init__(self, pcm: bytes, finished: Finished) -> None:
        self.finished: Finished | None = finished
        self._pcm, self._at = pcm, 0

    def __aiter__(self) -> "Replay":
        return self

    async def __anext__(self) -> bytes:
        piece = self._pcm[self._at : self._at + PIECE_BYTES]
        self._at += len(piece)
        if not piece:
            raise StopAsyncIteration
        return piece

    def abort(self) -> None:
        self._at = len(self._pcm)


class Recording:
    """A PcmStream that is kept once it has ended well."""

    def __init__(self, stream: PcmStream, cache: SpeechCache, key: bytes) -> None:
        self._stream, self._cache, self._key = stream, cache, key
        self._pcm: bytearray | None = bytearray()  # None: not to be kept

    @property
    def finished(self) -> Finished | None:
        return self._stream.finished

    def __aiter__(self) -> "Recording":
        return self

    async def __anext__(self) -> bytes:
        try:
            pcm = await anext(self._stream)
        except StopAsyncIteration:
            self._keep()
            raise
        if self._pcm is not None and self._cache.claim(len(pcm)):
            self._pcm += pcm
        else:
            self._drop()
        return pcm

    def abort(self) -> None:
        self._drop()
        self._stream.abort()

    def _keep(self) -> None:
        finished = self._stream.finished
        if self._pcm is None or finished is None or finished.reason is not FinishReason.STOP:
            self._drop()
            return
        self._cache.put(self._key, bytes(self._pcm), finished)
        self._pcm = None

    def _drop(self) -> None:
        if self._pcm is not None:
            self._cache.give_back(len(self._pcm))
            self._pcm = None
