"""A process that hears and writes the watermark of resemble-perth: torch, so apart from the server.

    server --> "a" or "d", number of samples (4 bytes, little-endian), samples
           <-- number of values, values: the mark to add to each sample, or one value from 0 to 1,
               1 where there is a mark

Samples and values are float32 at 24 kHz, mono. Its first byte says that it is ready. Started as
`python -P -m engine.watermark` with a socket for its standard input; it ends with that.
"""

import os
import socket
import struct
import sys
from importlib.resources import files
from types import ModuleType
from typing import Any

import numpy as np
import soxr
import torch
from torch import Tensor, nn

from engine.protocol import SAMPLE_RATE_HZ

READY = b"+"
HEAD = struct.Struct("<cI")
LENGTH = struct.Struct("<I")
# The net mirrors half a window at each edge, so it takes no less.
LEAST_SAMPLES = 2400


def main() -> None:
    connection = socket.socket(fileno=0)
    asked = connection.makefile("rb")
    os.dup2(2, 1)  # the library prints
    torch.set_num_threads(1)
    with torch.inference_mode():
        perth = load()
        connection.sendall(READY)
        while len(head := asked.read(HEAD.size)) == HEAD.size:
            what, num_samples = HEAD.unpack(head)
            data = asked.read(4 * num_samples)
            if len(data) < 4 * num_samples:
                return
            work = mark_of if what == b"a" else score
            values = work(perth, np.frombuffer(data, "<f4"))
            connection.sendall(LENGTH.pack(len(values)) + values.astype("<f4").tobytes())


def load() -> Any:
    """Its weights come with the package. Of torchaudio, whose wheels need CUDA's libraries, it uses
    transforms that torch has; of librosa what resamples, and here nothing is; of pkg_resources,
    which setuptools no longer has, where its files are.
    """
    transforms: Any = ModuleType("torchaudio.transforms")
    transforms.Spectrogram, transforms.InverseSpectrogram = Spectrogram, InverseSpectrogram
    transforms.TimeStretch = TimeStretch
    librosa: Any = ModuleType("librosa")
    librosa.resample = None
    resources: Any = ModuleType("pkg_resources")
    resources.resource_filename = lambda package, name: str(files(package) / name)
    sys.modules["torchaudio.transforms"], sys.modules["librosa"] = transforms, librosa
    sys.modules["pkg_resources"] = resources
    from perth.perth_net.perth_net_implicit.perth_watermarker import PerthImplicitWatermarker

    return PerthImplicitWatermarker()


def mark_of(perth: Any, samples: np.ndarray) -> np.ndarray:
    """What is to be added to the samples: nothing of them passes through the net's own rate."""
    padded = np.pad(samples, (0, max(0, LEAST_SAMPLES - len(samples))))
    rate = perth.perth_net.hp.sample_rate
    wave = soxr.resample(padded, SAMPLE_RATE_HZ, rate)
    marked = perth.apply_watermark(wave, rate)
    mark: np.ndarray = np.zeros_like(wave)
    mark[: len(marked)] = marked - wave[: len(marked)]
    back = soxr.resample(mark, rate, SAMPLE_RATE_HZ)
    return np.pad(back, (0, max(0, len(samples) - len(back))))[: len(samples)]


def score(perth: Any, samples: np.ndarray) -> np.ndarray:
    padded = np.pad(samples, (0, max(0, LEAST_SAMPLES - len(samples))))
    rate = perth.perth_net.hp.sample_rate
    wave = soxr.resample(padded, SAMPLE_RATE_HZ, rate)
    found = perth.get_watermark(wave, rate, round=False)
    # Silence alone has no frame to look at.
    value: np.ndarray = np.nan_to_num(np.atleast_1d(found)[:1])
    return value


class _Windowed(nn.Module):
    window: Tensor

    def __init__(
        self, n_fft: int, win_length: int, hop_length: int, window_fn: Any, **_: Any
    ) -> None:
        super().__init__()
        self.sizes = (n_fft, hop_length, win_length)
        self.register_buffer("window", window_fn(win_length))


class Spectrogram(_Windowed):
    def forward(self, wave: Tensor) -> Tensor:
        return torch.stft(wave, *self.sizes, self.window, return_complex=True)


class InverseSpectrogram(_Windowed):
    def forward(self, spectrum: Tensor) -> Tensor:
        return torch.istft(spectrum, *self.sizes, self.window)


class TimeStretch(nn.Module):
    """Only its numbers, which the library's file of weights holds; it is used in training."""

    def __init__(self, n_freq: int, hop_length: int) -> None:
        super().__init__()
        self.register_buffer("phase_advance", torch.zeros(n_freq, 1))


if __name__ == "__main__":
    main()
