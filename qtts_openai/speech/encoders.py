"""PCM -> bytes of an audio format, chunk by chunk, in this process.

In: 16-bit mono PCM at 24 kHz, cut anywhere. Out: bytes of mp3, opus, aac, flac, wav, pcm, ulaw or
alaw. The stages, of which a request has those it needs:

    int16 mono 24 kHz -> speed (atempo, pitch kept) -> watermark -> sample_rate (soxr) -> container

`encode(pcm)` may return nothing yet; `flush()` ends the file. The bytes do not depend on how the
PCM was cut, and are the same each time, but for the serial number of an Ogg stream.
"""

import secrets
import struct
from collections.abc import Iterator
from typing import Protocol

import av
import lameenc
import numpy as np
import soxr
from av.filter import Graph

from engine import SAMPLE_RATE_HZ, SAMPLES_PER_FRAME
from qtts_openai.errors import invalid
from qtts_openai.provenance.marks import Mark
from qtts_openai.provenance.policy import Provenance
from qtts_openai.provenance.watermark import Marking, Watermark
from qtts_openai.schemas import AudioFormat, SpeechRequest

CONTENT_TYPES: dict[AudioFormat, str] = {
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
    "ulaw": "audio/pcmu",
    "alaw": "audio/pcma",
}

_UNKNOWN_SIZE = 0xFFFFFFFF
_TEMPO_FRAME_BYTES = SAMPLES_PER_FRAME * 2
_MPEG_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
# Rates a format can carry; formats that are not here carry any.
_RATES: dict[AudioFormat, tuple[int, ...]] = {
    "mp3": _MPEG_RATES,
    "aac": _MPEG_RATES,
    "ulaw": (8000,),
    "alaw": (8000,),
}
_OPUS_RATES = (8000, 12000, 16000, 24000, 48000)


class Stage(Protocol):
    """Bytes in, bytes out, and what was held back at the end. The last one knows its file."""

    def encode(self, pcm: bytes) -> bytes: ...

    def flush(self) -> bytes: ...

    def with_exact_sizes(self, body: bytes) -> bytes:
        return body


class AudioEncoder:
    """`speed` 0.25-4; `sample_rate` as check_rate lets through, None for the format's own; `mark`
    goes where the format has a place for it, `watermark` into the sound.
    """

    def __init__(
        self,
        audio_format: AudioFormat,
        *,
        sample_rate: int | None = None,
        speed: float = 1.0,
        mark: Mark | None = None,
        watermark: Watermark | None = None,
    ) -> None:
        self.content_type = CONTENT_TYPES[audio_format]
        self.sample_rate = sample_rate or _default_rate(audio_format)
        self.bit_depth = 8 if audio_format in ("ulaw", "alaw") else 16
        self._stages = list(_stages(audio_format, self.sample_rate, speed, mark, watermark))
        # wav and pcm cost next to nothing; the rest is worth a thread.
        self.is_cheap = len(self._stages) == 1 and audio_format in ("wav", "pcm")

    @classmethod
    def of(cls, request: SpeechRequest, provenance: Provenance) -> "AudioEncoder":
        return cls(
            request.response_format,
            sample_rate=request.sample_rate,
            speed=request.speed,
            mark=provenance.mark,
            watermark=provenance.watermark,
        )

    def encode(self, pcm: bytes) -> bytes:
        for stage in self._stages:
            pcm = stage.encode(pcm)
        return pcm

    def flush(self) -> bytes:
        tail = b""
        for stage in self._stages:
            tail = stage.encode(tail) + stage.flush()
        return tail

    def with_exact_sizes(self, body: bytes) -> bytes:
        """The whole file that came out: what a stream has to leave open is filled in."""
        return self._stages[-1].with_exact_sizes(body)


def _default_rate(audio_format: AudioFormat) -> int:
    rates = _RATES.get(audio_format)
    return SAMPLE_RATE_HZ if rates is None or SAMPLE_RATE_HZ in rates else rates[0]


def check_rate(audio_format: AudioFormat, sample_rate: int | None) -> None:
    """400 for a rate that the format does not carry; None is always right."""
    rates = _RATES.get(audio_format)
    if sample_rate is not None and rates is not None and sample_rate not in rates:
        known = ", ".join(map(str, rates))
        known = f"one of {known}" if len(rates) > 1 else f"{known} only"
        raise invalid(
            f"sample_rate: {audio_format} carries {known}, not {sample_rate}.", "sample_rate"
        )


def _stages(
    audio_format: AudioFormat,
    rate: int,
    speed: float,
    mark: Mark | None,
    watermark: Watermark | None,
) -> Iterator[Stage]:
    comments = mark.comments() if mark else {}
    if speed != 1.0:
        yield _Tempo(speed)
    if watermark is not None:
        yield Marking(watermark)
    if audio_format == "opus":
        # Ogg Opus always plays at 48 kHz; the nearest rate above keeps what was asked for.
        rate = next(known for known in _OPUS_RATES if known >= rate)
    if rate != SAMPLE_RATE_HZ:
        yield _Resampler(rate)
    match audio_format:
        case "pcm":
            yield _Pcm()
        case "wav":
            yield _Wav(rate, mark)
        case "mp3":
            yield _Mp3(rate, mark)
        case "opus":
            # Files can be joined only if each has a serial number of its own (RFC 3533, 4).
            serial = str(secrets.randbelow(1 << 31))
            options = {"page_duration": "20000", "serial_offset": serial}
            yield _Muxed("ogg", "libopus", rate, 64_000, options, comments=comments)
        case "aac":
            yield _Muxed("adts", "aac", rate, 96_000, {}, {"aac_coder": "fast"})
        case "flac":
            yield _Flac("flac", "flac", rate, None, {}, {"frame_size": "1920"}, comments)
        case "ulaw":
            yield _Muxed("mulaw", "pcm_mulaw", rate, None)
        case "alaw":
            yield _Muxed("alaw", "pcm_alaw", rate, None)


class _Pcm(Stage):
    def encode(self, pcm: bytes) -> bytes:
        return pcm

    def flush(self) -> bytes:
        return b""


class _Wav(_Pcm):
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


class _Mp3(Stage):
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


class _Resampler(Stage):
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


class _Tempo(Stage):
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


class _Muxed(Stage):
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


class _Flac(_Muxed):
    def with_exact_sizes(self, body: bytes) -> bytes:
        """The number of samples: the last 36 of the 64 bits that begin at byte 18. libsndfile does
        not read a file without it.
        """
        (bits,) = struct.unpack(">Q", body[18:26])
        return body[:18] + struct.pack(">Q", bits | self._samples) + body[26:]
