"""The stages that an encoder is made of: tempo, sample rate, and a writer for each container.

In: 16-bit mono PCM, cut anywhere. Out: PCM for the next stage, or bytes of the file. The bytes do
not depend on how the PCM was cut.
"""

import struct
from typing import Protocol

import av
import lameenc
import numpy as np
import soxr
from av.filter import Graph

from engine import SAMPLE_RATE_HZ, SAMPLES_PER_FRAME
from qtts_openai.provenance.marks import Mark

_UNKNOWN_SIZE = 0xFFFFFFFF
_TEMPO_FRAME_BYTES = SAMPLES_PER_FRAME * 2


class Stage(Protocol):
    """Bytes in, bytes out, and what was held back at the end. The last one knows its file."""

    def encode(self, pcm: bytes) -> bytes: ...

    def flush(self) -> bytes: ...

    def with_exact_sizes(self, body: bytes) -> bytes:
        return body


class Pcm(Stage):
    def encode(self, pcm: bytes) -> bytes:
        return pcm

    def flush(self) -> bytes:
        return b""


class Wav(Pcm):
    """A header first. Its sizes are 0xFFFFFFFF, as OpenAI sends them, while the length is unknown.
    It has 44 bytes: some clients read no other, so only who asks for it has a mark in between.
    """

    def __init__(self, rate: int, mark: Mark | None) -> None:
        riff = mark.riff() if mark else b""
        self._inner, self._trailer = (riff, b"") if mark and mark.in_wav_streams else (b"", riff)
        kind = (1, 1, rate, rate * 2, 2, 16)
        self._header = (
            struct.pack("<4sI4s4sIHHIIHH", b"RIFF", _UNKNOWN_SIZE, b"WAVE", b"fmt ", 16, *kind)
            + self._inner
            + struct.pack("<4sI", b"data", _UNKNOWN_SIZE)
        )

    def encode(self, pcm: bytes) -> bytes:
        header, self._header = self._header, b""
        return header + pcm

    def with_exact_sizes(self, body: bytes) -> bytes:
        """16-bit samples need no byte to make them even."""
        start = 44 + len(self._inner)
        riff = struct.pack("<I", len(body) + len(self._trailer) - 8)
        data = struct.pack("<I", len(body) - start)
        return body[:4] + riff + body[8 : start - 4] + data + body[start:] + self._trailer


class Mp3(Stage):
    """Constant bit rate without Xing header: several answers may be concatenated. The mark comes
    with the first frame and after the last.
    """

    def __init__(self, rate: int, mark: Mark | None) -> None:
        self._tag, self._end_tag = (mark.id3(), mark.id3v1()) if mark else (b"", b"")
        self._lame = lameenc.Encoder()
        self._lame.silence()
        self._lame.set_channels(1)
        self._lame.set_in_sample_rate(rate)
        self._lame.set_out_sample_rate(rate)
        self._lame.set_bit_rate(128 if rate >= 16_000 else 64)
        self._lame.set_quality(5)

    def encode(self, pcm: bytes) -> bytes:
        return self._tagged(bytes(self._lame.encode(pcm))) if pcm else b""

    def flush(self) -> bytes:
        return self._tagged(bytes(self._lame.flush())) + self._end_tag

    def _tagged(self, frames: bytes) -> bytes:
        if frames:
            frames, self._tag = self._tag + frames, b""
        return frames


class Resampler(Stage):
    """In float32: soxr dithers int16, which would make the bytes depend on the cuts."""

    def __init__(self, rate: int) -> None:
        self._stream = soxr.ResampleStream(SAMPLE_RATE_HZ, rate, 1, dtype="float32", quality="HQ")

    def encode(self, pcm: bytes) -> bytes:
        return self._resample(pcm)

    def flush(self) -> bytes:
        return self._resample(b"", last=True)

    def _resample(self, pcm: bytes, last: bool = False) -> bytes:
        wave = self._stream.resample_chunk(np.frombuffer(pcm, "<i2").astype(np.float32), last=last)
        resampled: bytes = np.rint(wave).clip(-32768, 32767).astype("<i2").tobytes()
        return resampled


class Tempo(Stage):
    """FFmpeg's atempo; each link of the chain stays within 0.5-2, where it blends and does not
    skip. What comes out depends on the frames that go in, so they are all of one size.
    """

    def __init__(self, speed: float) -> None:
        self._graph = Graph()
        source = self._graph.add_abuffer(
            format="s16", sample_rate=SAMPLE_RATE_HZ, layout="mono", time_base=None
        )
        links = [self._graph.add("atempo", f"{factor:.9f}") for factor in _factors(speed)]
        links.append(self._graph.add("aformat", "sample_fmts=s16:channel_layouts=mono"))
        links.append(self._graph.add("abuffersink"))
        for link in links:
            source.link_to(link)
            source = link
        self._graph.configure()
        self._samples = 0
        self._held = b""

    def encode(self, pcm: bytes) -> bytes:
        self._held += pcm
        whole = len(self._held) // _TEMPO_FRAME_BYTES * _TEMPO_FRAME_BYTES
        ready, self._held = self._held[:whole], self._held[whole:]
        return b"".join(
            self._push(ready[at : at + _TEMPO_FRAME_BYTES])
            for at in range(0, whole, _TEMPO_FRAME_BYTES)
        )

    def flush(self) -> bytes:
        last = self._push(self._held) if self._held else b""
        if not self._samples:
            return b""
        self._graph.push(None)
        return last + self._pull()

    def _push(self, pcm: bytes) -> bytes:
        self._graph.push(_frame(pcm, SAMPLE_RATE_HZ, self._samples))
        self._samples += len(pcm) // 2
        return self._pull()

    def _pull(self) -> bytes:
        parts: list[bytes] = []
        while True:
            try:
                frame = self._graph.pull()
            except (BlockingIOError, EOFError):
                return b"".join(parts)
            parts.append(frame.to_ndarray().tobytes())


def _factors(speed: float) -> list[float]:
    factors = []
    while not 0.5 <= speed <= 2.0:
        step = 2.0 if speed > 2.0 else 0.5
        factors.append(step)
        speed /= step
    return [*factors, speed]


def _frame(pcm: bytes, rate: int, start: int) -> av.AudioFrame:
    frame = av.AudioFrame.from_ndarray(
        np.frombuffer(pcm, "<i2")[None, :], format="s16", layout="mono"
    )
    frame.sample_rate = rate
    frame.pts = start
    return frame


class _Sink:
    """What a muxer writes to: it can be emptied and not be sought."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def write(self, data: bytes) -> int:
        self._bytes += data
        return len(data)

    def take(self) -> bytes:
        taken = bytes(self._bytes)
        self._bytes.clear()
        return taken


class Muxed(Stage):
    """An FFmpeg encoder and muxer that write every packet at once."""

    def __init__(
        self,
        container: str,
        codec: str,
        rate: int,
        bit_rate: int | None,
        container_options: dict[str, str] | None = None,
        codec_options: dict[str, str] | None = None,
        comments: dict[str, str] | None = None,
    ) -> None:
        self._sink = _Sink()
        options = {"flush_packets": "1", "fflags": "+bitexact", **(container_options or {})}
        self._container = av.open(self._sink, "w", format=container, options=options)
        self._container.metadata.update(comments or {})
        self._stream = self._container.add_stream(codec, rate=rate, options=codec_options or {})
        self._stream.layout = "mono"
        if bit_rate is not None:
            self._stream.bit_rate = bit_rate
        self._rate = rate
        self._samples = 0

    def encode(self, pcm: bytes) -> bytes:
        if pcm:
            self._container.mux(self._stream.encode(_frame(pcm, self._rate, self._samples)))
            self._samples += len(pcm) // 2
        return self._sink.take()

    def flush(self) -> bytes:
        self._container.mux(self._stream.encode(None))
        self._container.close()
        return self._sink.take()


class Flac(Muxed):
    def with_exact_sizes(self, body: bytes) -> bytes:
        """The number of samples: the last 36 of the 64 bits that begin at byte 18. libsndfile does
        not read a file without it.
        """
        (bits,) = struct.unpack(">Q", body[18:26])
        return body[:18] + struct.pack(">Q", bits | self._samples) + body[26:]
