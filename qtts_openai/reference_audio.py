"""Reference audio of a request: base64 or a data: URL -> float32 mono 24 kHz, within bounds."""

import base64
import binascii
import hashlib
import io
import re

import av
import numpy as np
import soundfile
import soxr

from engine import SAMPLE_RATE_HZ, ReferenceAudio
from qtts_openai.errors import ApiError, invalid

_DATA_URL = re.compile(r"^data:[^,]{0,200},", re.I)
_URL = re.compile(r"^[a-z][a-z0-9+.-]*://", re.I)


def decode_base64(text: str, param: str = "ref_audio") -> bytes:
    if _URL.match(text):
        raise invalid(f"{param}: only a data: URL or base64 text is accepted here.", param)
    try:
        return base64.b64decode(re.sub(r"\s+", "", _DATA_URL.sub("", text)), validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid(f"{param}: not valid base64: {error}.", param) from error


def read_reference(
    data: bytes, *, min_s: float, max_s: float, param: str = "ref_audio"
) -> ReferenceAudio:
    """Decodes at most `max_s` seconds, whatever the file claims; others are a 400."""
    wave, rate = _decode(data, max_s, param)
    if not np.isfinite(wave).all():
        raise invalid(f"{param}: the audio holds samples that are not finite.", param)
    seconds = len(wave) / rate
    if not min_s <= seconds <= max_s:
        length = f"more than {max_s:g}" if seconds > max_s else f"{seconds:.2f}"
        raise invalid(
            f"{param}: the audio is {length} s long; {min_s:g} to {max_s:g} s are accepted.", param
        )
    mono = soxr.resample(wave, rate, SAMPLE_RATE_HZ, "HQ").astype("<f4")
    samples = mono.tobytes()
    return ReferenceAudio(key=hashlib.sha256(samples).hexdigest(), samples=samples)


def _decode(data: bytes, max_s: float, param: str) -> tuple[np.ndarray, int]:
    """(float32 mono wave, rate): soundfile for wav, flac, ogg and mp3, PyAV for the rest (aac, mp4,
    webm).
    """
    try:
        return _with_soundfile(data, max_s)
    except soundfile.LibsndfileError:
        pass
    try:
        return _with_av(data, max_s)
    except (av.FFmpegError, IndexError, ValueError) as error:
        message = (
            f"{param}: this is not audio that can be decoded (wav, mp3, flac, ogg, aac, mp4, webm)."
        )
        raise invalid(message, param) from error


def _with_soundfile(data: bytes, max_s: float) -> tuple[np.ndarray, int]:
    with soundfile.SoundFile(io.BytesIO(data)) as file:
        _check_shape(file.samplerate, file.channels)
        wave = file.read(int((max_s + 1) * file.samplerate), dtype="float32", always_2d=True)
        return wave.mean(axis=1), file.samplerate


def _with_av(data: bytes, max_s: float) -> tuple[np.ndarray, int]:
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.audio[0]
        rate = stream.codec_context.sample_rate
        _check_shape(rate, stream.codec_context.channels)
        resampler = av.AudioResampler("flt", "mono", rate)
        parts: list[np.ndarray] = []
        num_samples = 0
        for decoded in container.decode(stream):
            for frame in resampler.resample(decoded):
                parts.append(frame.to_ndarray()[0])
                num_samples += frame.samples
            if num_samples > (max_s + 1) * rate:
                break
    return np.concatenate(parts), rate


def _check_shape(rate: int, channels: int) -> None:
    if not (4000 <= rate <= 192_000 and 1 <= channels <= 8):
        message = f"ref_audio: {rate} Hz with {channels} channels is outside of what is accepted."
        raise ApiError(400, message, param="ref_audio", code="invalid_value")
