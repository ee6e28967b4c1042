"""Trains the codec decoder: codes -> teacher's sound.

    python codec_train.py [--shape-steps 3000]     -> work/codec.pt (resumed if present)

Two stages in one run. `shape`: up to the 50 Hz latents, against log-mel spectrum and pitch cycle
through throw-away heads; cheap. `wave`: the convolutions on frozen latents, against the teacher's
waveform, with log-magnitude and, where voiced, phase-sensitive spectral losses; the codes fix the
phase, so the waveform is predictable.
"""

import argparse
import math
import time
from pathlib import Path

import numpy as np
import soxr
import torch
from codec_model import CodecDecoder
from torch import nn

WORK = Path(__file__).parent / "work"
GAIN = 1.6 / 32768
HOP = 240


def load_corpus():
    """Codes and 24 kHz sound (int16) of every sentence of the `audio` bucket."""
    items = []
    for path in sorted((WORK / "codes").glob("audio-*.npz")):
        z = np.load(path)
        pcm = np.memmap(WORK / "dump" / f"{path.stem}.pcm", dtype="<i2", mode="r")
        cuts = np.cumsum(z["lengths"])[:-1]
        for codes, first, (offset, count) in zip(
            np.split(z["codes"], cuts), z["first"], z["pcm"], strict=True
        ):
            at = offset + 80 * int(first)
            sound = np.array(pcm[max(at, offset) : min(at + len(codes) * 1280, offset + count)])
            sound = np.pad(sound, (max(offset - at, 0), 0))
            sound = np.pad(sound, (0, len(codes) * 1280 - len(sound)))
            items.append((codes, soxr.resample(sound, 16000, 24000, quality="MQ")))
    return items


def crop(items, rng, batch, frames):
    codes, sound, fresh = [], [], []
    while len(codes) < batch:
        c, s = items[rng.integers(len(items))]
        if len(c) < frames:
            c, s = (
                np.pad(c, ((0, frames - len(c)), (0, 0)), mode="edge"),
                np.pad(s, (0, 1920 * (frames - len(c)))),
            )
        at = rng.integers(0, len(c) - frames + 1) if rng.random() < 0.8 else 0
        codes.append(c[at : at + frames])
        sound.append(s[1920 * at : 1920 * (at + frames)])
        fresh.append(at == 0)
    sound = torch.from_numpy(np.stack(sound).astype(np.float32)) * GAIN
    return torch.from_numpy(np.stack(codes).astype(np.int64)), sound, torch.tensor(fresh)


def mel_filters(bands=80, fft=1024, rate=24000, top=8000):
    points = 700 * (np.exp(np.linspace(0, math.log(1 + top / 700), bands + 2)) - 1) * fft / rate
    bins = np.arange(fft // 2 + 1)[:, None]
    up, down = (
        (bins - points[:-2]) / np.diff(points)[:-1],
        (points[2:] - bins) / np.diff(points)[1:],
    )
    return torch.from_numpy(np.clip(np.minimum(up, down), 0, None).astype(np.float32))


MEL, WINDOWS = mel_filters(), {n: torch.hann_window(n) for n in (256, 512, 1024, 2048)}


def stft(x, n, hop):
    return torch.stft(
        x, n, hop, window=WINDOWS[n], return_complex=True, center=True, pad_mode="constant"
    )


def log_mel(x):
    return torch.log(stft(x, 1024, HOP).abs().transpose(1, 2) @ MEL + 5e-2)[:, :-1]


class ShapeHeads(nn.Module):
    """20 ms latents -> two log-mel frames, and the pitch cycle's sine and cosine every 2.5 ms."""

    def __init__(self, width):
        super().__init__()
        self.mel, self.cycle = nn.Conv1d(width, 160, 1), nn.Conv1d(width, 16, 1)


def pitch_cycle(codes):
    """[B, T, 16] codes -> [B, 16, 4T]: sine and cosine, 0 if unvoiced."""
    ticks = codes[:, :, 9:13].flatten(1).float()
    voiced = ticks > 0
    place = (ticks - 0.5) / 32
    before = torch.cat([torch.zeros_like(place[:, :1]), place[:, :-1]], 1)
    both = voiced & torch.cat([torch.zeros_like(voiced[:, :1]), voiced[:, :-1]], 1)
    f0 = 70 * torch.exp((codes[:, :, 8].float() - 1) * math.log(320 / 70) / 62).repeat_interleave(
        4, 1
    )
    turns = torch.round(f0 * 0.02 - (place - before)) + (place - before)
    steps = torch.arange(1, 9) / 8
    angle = 2 * math.pi * (before[..., None] + turns[..., None] * steps)
    return (torch.cat([angle.sin(), angle.cos()], -1) * both[..., None]).transpose(1, 2), both


def shape_loss(model, heads, codes, sound, keep):
    x = model.latents(codes)
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        mel = log_mel(sound)
    mel = mel.reshape(len(mel), -1, 160).transpose(1, 2)
    cycle, voiced = pitch_cycle(codes)
    a = ((heads.mel(x) - mel).abs() * keep[:, None]).mean()
    b = ((heads.cycle(x) - cycle).abs() * (keep & voiced)[:, None]).mean()
    return a + b, {"mel": a, "cycle": b}


def jitter(codes, rng):
    """The pitch cycle advances a little unevenly, as a talker's does: codes [B, T, 16] with a
    random walk of up to two steps a tick in it.
    """
    ticks = codes[:, :, 9:13].flatten(1)
    walk = rng.standard_normal(ticks.shape) * rng.uniform(0.5, 2.0, (len(ticks), 1))
    moved = (ticks - 1 + torch.from_numpy(np.rint(walk.cumsum(1)).astype(np.int64))) % 32 + 1
    codes = codes.clone()
    codes[:, :, 9:13] = torch.where(ticks > 0, moved, 0).unflatten(1, (-1, 4))
    return codes


def wave_loss(wave, sound, codes, keep, moved):
    """keep: [B, 4T] marks of the 20 ms stretches that count. moved [B] marks examples with jitter:
    they have another phase than the teacher, so only their short-time spectrum is compared.
    """
    parts = {}
    voiced = (codes[:, :, 9:13].flatten(1) > 0) & keep & ~moved[:, None]
    total = 0
    for n, hop in ((256, 60), (512, 120), (1024, 240), (2048, 480)):
        a, b = stft(wave, n, hop)[..., :-1], stft(sound, n, hop)[..., :-1]
        a, b = a[:, : 1 + n // 3], b[:, : 1 + n // 3]  # the teacher has nothing above 8 kHz
        scale = 16 / n
        ma, mb = (a.abs() + 1e-5) * scale, (b.abs() + 1e-5) * scale
        counted = keep if n <= 512 else keep & ~moved[:, None]
        weight = counted.float().repeat_interleave(480 // hop, 1)[:, None]
        total = total + ((torch.log(ma + 2e-3) - torch.log(mb + 2e-3)).abs() * weight).mean()
        if n in (512, 1024):
            low = slice(0, n // 6)  # up to 4 kHz
            ca, cb = a[:, low] * scale * ma[:, low] ** -0.6, b[:, low] * scale * mb[:, low] ** -0.6
            weight = voiced.float().repeat_interleave(480 // hop, 1)[:, None]
            parts[f"phase{n}"] = ((ca - cb).abs() * weight).mean()
            total = total + 4 * parts[f"phase{n}"]
    with torch.no_grad():
        parts["logmel"] = (
            (log_mel(wave) - log_mel(sound)).abs() * keep.repeat_interleave(2, 1)[..., None]
        ).mean()
    return total, parts


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--steps", type=int, default=100000)
    args.add_argument("--shape-steps", type=int, default=1200)
    args.add_argument(
        "--wave-steps", type=int, default=2500, help="length of the learning-rate schedule"
    )
    args.add_argument("--batch", type=int, default=8)
    args.add_argument("--frames", type=int, default=20)
    args.add_argument(
        "--jitter", type=float, default=0.5, help="share of examples with an uneven pitch cycle"
    )
    args.add_argument("--lr", type=float, default=1.0, help="multiplies the schedule")
    args = args.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    rng, items = np.random.default_rng(0), load_corpus()
    print(
        f"{len(items)} sentences, {sum(len(c) for c, _ in items) * 0.08 / 3600:.2f} h", flush=True
    )
    model = CodecDecoder()
    heads = ShapeHeads(model.config["latent_dim"])
    print({n: sum(p.numel() for p in m.parameters()) for n, m in model.named_children()})
    optimiser = torch.optim.AdamW(
        [*model.parameters(), *heads.parameters()], 1e-3, betas=(0.8, 0.98), weight_decay=0.01
    )
    step, path, start = 0, WORK / "codec.pt", time.process_time()
    if path.exists():
        state = torch.load(path)
        model.load_state_dict(state["model"])
        heads.load_state_dict(state["heads"])
        if "optimiser" in state:
            optimiser.load_state_dict(state["optimiser"])
        step = state["step"]
        rng = np.random.default_rng(step)
    average = {}
    while step < args.steps and step < args.shape_steps + args.wave_steps:
        shaping = step < args.shape_steps
        at = step if shaping else step - args.shape_steps
        top = 1.5e-3 if shaping else 1e-3
        length = args.shape_steps if shaping else args.wave_steps
        low = 0.2 if shaping else 0.02
        rate = (
            top
            * args.lr
            * min(1, (at + 1) / 60)
            * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * min(at / length, 1))))
        )
        for group in optimiser.param_groups:
            group["lr"] = rate
        codes, sound, fresh = crop(
            items, rng, 3 * args.batch if shaping else args.batch, args.frames
        )
        keep = torch.ones(len(codes), 4 * args.frames, dtype=torch.bool)
        keep[~fresh, :12] = False
        if shaping:
            with torch.autocast("cpu", torch.bfloat16):
                loss, parts = shape_loss(model, heads, codes, sound, keep)
        else:
            moved = torch.from_numpy(rng.random(len(codes)) < args.jitter)
            codes = torch.where(moved[:, None, None], jitter(codes, rng), codes)
            with torch.no_grad():
                x = model.latents(codes)
            loss, parts = wave_loss(model.wave(x), sound, codes, keep, moved)
        optimiser.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimiser.step()
        step += 1
        for name, value in {"loss": loss, "norm": norm, **parts}.items():
            average[name] = 0.95 * average.get(name, float(value)) + 0.05 * float(value)
        if step % 20 == 0:
            print(
                f"{step} {'shape' if shaping else 'wave'} {time.process_time() - start:.0f} s "
                + " ".join(f"{k} {v:.3f}" for k, v in average.items()),
                flush=True,
            )
        if step == args.shape_steps:
            average = {}
            optimiser.state.clear()
        last = min(args.steps, args.shape_steps + args.wave_steps)
        if step % 200 == 0 or step in (args.shape_steps, last):
            torch.save(
                {
                    "model": model.state_dict(),
                    "heads": heads.state_dict(),
                    "optimiser": optimiser.state_dict(),
                    "step": step,
                },
                path.with_suffix(".part"),
            )
            path.with_suffix(".part").rename(path)


if __name__ == "__main__":
    main()
