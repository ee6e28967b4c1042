"""PCM -> bytes of an audio format, chunk by chunk, in this process.

In: 16-bit mono PCM at 24 kHz, cut anywhere. Out: bytes of mp3, opus, aac, flac, wav, pcm, ulaw or
alaw. The stages, of which a request has those it needs:

    int16 mono 24 kHz -> speed (atempo, pitch kept) -> watermark -> sample_rate (soxr) -> container

`encode(pcm)` may return nothing yet; `flush()` ends the file. The bytes do not depend on how the
PCM was cut, and are the same each time, but for the serial number of an Ogg stream.
"""

import secrets
from collections.abc import Iterator

from engine import SAMPLE_RATE_HZ
from qtts_openai.errors import invalid
from qtts_openai.provenance.marks import Mark
from qtts_openai.provenance.policy import Provenance
from qtts_openai.provenance.watermark import Marking, Watermark
from qtts_openai.schemas import AudioFormat, SpeechRequest
from qtts_openai.speech.stages import Flac, Mp3, Muxed, Pcm, Resampler, Stage, Tempo, Wav

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

_MPEG_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
# Rates a format can carry; formats that are not here carry any.
_RATES: dict[AudioFormat, tuple[int, ...]] = {
    "mp3": _MPEG_RATES,
    "aac": _MPEG_RATES,
    "ulaw": (8000,),
    "alaw": (8000,),
}
_OPUS_RATES = (8000, 12000, 16000, 24000, 48000)


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
        yield Tempo(speed)
    if watermark is not None:
        yield Marking(watermark)
    if audio_format == "opus":
        # Ogg Opus always plays at 48 kHz; the nearest rate above keeps what was asked for.
        rate = next(known for known in _OPUS_RATES if known >= rate)
    if rate != SAMPLE_RATE_HZ:
        yield Resampler(rate)
    match audio_format:
        case "pcm":
            yield Pcm()
        case "wav":
            yield Wav(rate, mark)
        case "mp3":
            yield Mp3(rate, mark)
        case "opus":
            # Files can be joined only if each has a serial number of its own (RFC 3533, 4).
            serial = str(secrets.randbelow(1 << 31))
            options = {"page_duration": "20000", "serial_offset": serial}
            yield Muxed("ogg", "libopus", rate, 64_000, options, comments=comments)
        case "aac":
            yield Muxed("adts", "aac", rate, 96_000, {}, {"aac_coder": "fast"})
        case "flac":
            yield Flac("flac", "flac", rate, None, {}, {"frame_size": "1920"}, comments)
        case "ulaw":
            yield Muxed("mulaw", "pcm_mulaw", rate, None)
        case "alaw":
            yield Muxed("alaw", "pcm_alaw", rate, None)
