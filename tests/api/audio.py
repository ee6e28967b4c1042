"""Looks into audio bytes: what they are and how long they play."""

import io

import av
import numpy as np

MAGIC = {"flac": b"fLaC", "opus": b"OggS", "wav": b"RIFF", "aac": b"\xff\xf1", "mp3": b"\xff"}


def decode(audio_format: str, data: bytes, rate: int = 24000) -> tuple[np.ndarray, int]:
    """(int16 samples, sample rate)"""
    if audio_format == "pcm":
        return np.frombuffer(data, "<i2"), rate
    assert data.startswith(MAGIC[audio_format]), data[:8]
    with av.open(io.BytesIO(data)) as container:
        resampler = av.AudioResampler("s16", "mono")
        frames = [out for frame in container.decode(audio=0) for out in resampler.resample(frame)]
    return np.concatenate([frame.to_ndarray()[0] for frame in frames]), frames[0].sample_rate


def seconds(audio_format: str, data: bytes, rate: int = 24000) -> float:
    samples, rate = decode(audio_format, data, rate)
    return len(samples) / rate


def loudness(samples: np.ndarray) -> float:
    return float(np.sqrt(np.mean(samples.astype(np.float64) ** 2)))
