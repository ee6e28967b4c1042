"""ECAPA-TDNN speaker encoder (Base checkpoints): 24 kHz audio -> one embedding of the talker's
width.

No batch norm, "same" convolutions with reflect padding, log-mel input in float32.
"""

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.layers.modules import Modules
from engine.models.config import SpeakerEncoderConfig
from engine.models.weights import ParamView

N_FFT, HOP = 1024, 256


class Conv(nn.Module):
    """Conv1d, "same" length by reflection: [B, in, T] -> [B, out, T]."""

    def __init__(self, in_: int, out: int, kernel: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out, in_, kernel), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(out), requires_grad=False)
        self.dilation, self.pad = dilation, dilation * (kernel - 1) // 2

    def forward(self, x: Tensor) -> Tensor:
        if self.pad:
            x = F.pad(x, (self.pad, self.pad), mode="reflect")
        return F.conv1d(x, self.weight, self.bias, dilation=self.dilation)


class SERes2Block(nn.Module):
    """1x1, Res2Net over `scale` channel groups, 1x1, squeeze-excitation, residual."""

    def __init__(
        self, channels: int, kernel: int, dilation: int, config: SpeakerEncoderConfig
    ) -> None:
        super().__init__()
        self.scale = config.enc_res2net_scale
        width = channels // self.scale
        self.tdnn1, self.tdnn2 = Conv(channels, channels), Conv(channels, channels)
        self.res2net = Modules(Conv(width, width, kernel, dilation) for _ in range(self.scale - 1))
        self.se1 = Conv(channels, config.enc_se_channels)
        self.se2 = Conv(config.enc_se_channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        first, *rest = F.relu(self.tdnn1(x)).chunk(self.scale, dim=1)
        parts = [first]
        for i, (conv, part) in enumerate(zip(self.res2net, rest, strict=True)):
            parts.append(F.relu(conv(part if i == 0 else part + parts[-1])))
        y = F.relu(self.tdnn2(torch.cat(parts, dim=1)))
        gate = torch.sigmoid(self.se2(F.relu(self.se1(y.mean(2, keepdim=True)))))
        return y * gate + x


class SpeakerEncoder(nn.Module):
    def __init__(self, config: SpeakerEncoderConfig) -> None:
        super().__init__()
        self.config = c = config
        channels, kernels, dilations = c.enc_channels, c.enc_kernel_sizes, c.enc_dilations
        self.first = Conv(c.mel_dim, channels[0], kernels[0], dilations[0])
        self.blocks = Modules(
            SERes2Block(channels[i], kernels[i], dilations[i], c)
            for i in range(1, len(channels) - 1)
        )
        self.mfa = Conv(channels[-1], channels[-1], kernels[-1], dilations[-1])
        self.asp_tdnn = Conv(channels[-1] * 3, c.enc_attention_channels)
        self.asp_conv = Conv(c.enc_attention_channels, channels[-1])
        self.fc = Conv(channels[-1] * 2, c.enc_dim)

    def forward(self, wave: Tensor) -> Tensor:
        """wave [S] float32 at 24 kHz, at least N_FFT samples -> embedding [enc_dim], in the
        weights' dtype.
        """
        return self.embed(log_mel(wave, self.config.mel_dim)[None])[0]

    def embed(self, mel: Tensor) -> Tensor:
        """mel [B, mel_dim, T] of log_mel -> embeddings [B, enc_dim]."""
        x = F.relu(self.first(mel.to(self.fc.weight.dtype)))
        outs = []
        for block in self.blocks:
            x = block(x)
            outs.append(x)
        x = F.relu(self.mfa(torch.cat(outs, dim=1)))
        mean, std = self._attentive_stats(x)
        return self.fc(torch.cat([mean, std], dim=1))[:, :, 0]

    def _attentive_stats(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = _weighted_stats(x, torch.full_like(x[:, :1], 1.0 / x.shape[2]))
        context = torch.cat([x, mean.expand_as(x), std.expand_as(x)], dim=1)
        attention = self.asp_conv(torch.tanh(F.relu(self.asp_tdnn(context))))
        return _weighted_stats(x, attention.softmax(dim=2))

    def weight_map(self) -> Iterator[tuple[str, ParamView]]:
        """Where each tensor of the checkpoint goes."""
        named = {"blocks.0.conv": self.first, "mfa.conv": self.mfa, "fc": self.fc}
        named |= {"asp.tdnn.conv": self.asp_tdnn, "asp.conv": self.asp_conv}
        for i, block in enumerate(self.blocks, start=1):
            prefix = f"blocks.{i}"
            named |= {f"{prefix}.tdnn1.conv": block.tdnn1, f"{prefix}.tdnn2.conv": block.tdnn2}
            named |= {f"{prefix}.se_block.conv1": block.se1, f"{prefix}.se_block.conv2": block.se2}
            named |= {
                f"{prefix}.res2net_block.blocks.{j}.conv": conv
                for j, conv in enumerate(block.res2net)
            }
        for name, conv in named.items():
            yield f"speaker_encoder.{name}.weight", ParamView(conv.weight)
            yield f"speaker_encoder.{name}.bias", ParamView(conv.bias)


def _weighted_stats(x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    mean = (weights * x).sum(2, keepdim=True)
    variance = (weights * (x - mean).square()).sum(2, keepdim=True)
    return mean, variance.clamp_min(1e-12).sqrt()


def log_mel(wave: Tensor, num_bands: int) -> Tensor:
    """wave [S] float32 -> log-mel [num_bands, frames], float32 (Slaney scale and area norm, 0..12
    kHz).
    """
    pad = (N_FFT - HOP) // 2
    padded = F.pad(wave[None, None], (pad, pad), mode="reflect")[0, 0]
    window = torch.hann_window(N_FFT, device=wave.device)
    spectrum = torch.view_as_real(
        torch.stft(padded, N_FFT, HOP, window=window, center=False, return_complex=True)
    )
    magnitude = (spectrum.square().sum(-1) + 1e-9).sqrt()
    bands = torch.from_numpy(mel_filters(num_bands)).to(wave.device)
    return (bands @ magnitude).clamp_min(1e-5).log()


def mel_filters(num_bands: int, rate_hz: int = 24_000) -> np.ndarray:
    """Triangular filters [num_bands, N_FFT // 2 + 1], Slaney mel scale (linear below 1 kHz), unit
    area in hertz.
    """
    edges = _mel_to_hz(np.linspace(0.0, _hz_to_mel(rate_hz / 2), num_bands + 2))
    bins = np.linspace(0.0, rate_hz / 2, N_FFT // 2 + 1)
    ramps = edges[:, None] - bins[None]
    widths = np.diff(edges)
    rising, falling = -ramps[:-2] / widths[:-1, None], ramps[2:] / widths[1:, None]
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    return (triangles * (2.0 / (edges[2:] - edges[:-2]))[:, None]).astype(np.float32)


_LINEAR_HZ, _LINEAR_STEP, _LOG_STEP = 1000.0, 200.0 / 3, np.log(6.4) / 27.0


def _hz_to_mel(hz: float) -> float:
    if hz < _LINEAR_HZ:
        return hz / _LINEAR_STEP
    return _LINEAR_HZ / _LINEAR_STEP + np.log(hz / _LINEAR_HZ) / _LOG_STEP


def _mel_to_hz(mel: np.ndarray) -> np.ndarray:
    knee = _LINEAR_HZ / _LINEAR_STEP
    return np.where(mel < knee, mel * _LINEAR_STEP, _LINEAR_HZ * np.exp(_LOG_STEP * (mel - knee)))
