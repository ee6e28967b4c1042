"""Looks into audio bytes: what they are and how long they play."""

import io

import av
import numpy as np

G711 = {"ulaw": "mulaw", "alaw": "alaw"}  # and FFmpeg's names
MAGIC = {
    "flac": b"fLaC",
    "opus": b"OggS",
    "wav": b"RIFF",
    "aac": b"\xff\xf1",
    "mp3": (b"\xff", b"ID3"),
}


def decode(audio_format: str, data: bytes, rate: int = 24000) -> tuple[np.ndarray, int]:
    """(int16 samples, sample rate)"""
    if audio_format == "pcm":
        return np.frombuffer(data, "<i2"), rate
    raw = G711.get(audio_format)
    assert raw or data.startswith(MAGIC[audio_format]), data[:8]
    options = {"sample_rate": "8000"} if raw else {}
    with av.open(io.BytesIO(data), format=raw, options=options) as container:
        resampler = av.AudioResampler("s16", "mono")
        frames = [out for frame in container.decode(audio=0) for out in resampler.resample(frame)]
    return np.concatenate([frame.to_ndarray()[0] for frame in frames]), frames[0].sample_rate


def seconds(audio_format: str, data: bytes, rate: int = 24000) -> float:
    samples, rate = decode(audio_format, data, rate)
    return len(samples) / rate


def without_serials(data: bytes) -> bytes:
    """An Ogg file with serial numbers and checksums of its pages left out."""
    first, *pages = data.split(b"OggS")
    return first + b"".join(page[:10] + page[14:18] + page[22:] for page in pages)


def loudness(samples: np.ndarray) -> float:
    return float(np.sqrt(np.mean(samples.astype(np.float64) ** 2)))
