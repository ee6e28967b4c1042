"""Trains the codec decoder: codes -> teacher's sound.

    python -m training.codec_train --minutes 60 [--device cuda --workers 10]   work/codec.pt -> same

Every sentence is heard in a random voice of its teacher (voice_space.py): played faster or slower,
which moves formants and pitch, through a tilt, with breath. Two stages in one run. `shape`: up to
the 50 Hz latents, against log-mel spectrum and pitch cycle through throw-away heads; cheap. `wave`:
the convolutions on frozen latents, against the teacher's waveform, with log-magnitude and, where
voiced, phase-sensitive spectral losses; the codes fix the phase, so the waveform is predictable.
"""

import argparse
import math
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from training.codec_model import CodecDecoder
from training.codes import encode, parse, played_faster, teacher_of
from training.descriptions import some_description
from training.feeding import feed
from training.voice_space import SPEAKERS, TRACT_STEP, WHISPER, Voice, random_voice

WORK = Path(__file__).parent / "work"
GAIN = 1.6 / 32768
HOP = 240
LEVEL = 0.16  # root mean square of every teacher's speech, pauses included


def load_corpus():
    """(labels, 16 kHz sound (int16), teacher) of every sentence of the `audio` bucket."""
    items = []
    for path in sorted((WORK / "dump").glob("audio-*.tsv")):
        pcm, at = np.fromfile(path.with_suffix(".pcm"), "<i2"), 0
        for line in path.read_text().splitlines():
            count = int(line.rsplit("\t", 1)[1])
            parsed = parse(line)
            if parsed is not None:
                items.append((parsed[0], pcm[at : at + count], teacher_of(path)))
            at += count
    return items


def loudness(items):
    """A factor per teacher that makes them equally loud."""
    gains = np.zeros(3)
    for teacher in range(3):
        power = [np.mean(np.square(s, dtype=np.float64)) for _, s, t in items if t == teacher]
        gains[teacher] = LEVEL / GAIN / np.sqrt(np.mean(power)) if power else 1
    return gains


def crops(rng, items, gains, frames, batch):
    """Batches of codes [B, frames, 16], sound [B, 1920 * frames] and whether a crop is a sentence's
    beginning. Every sentence is heard in another voice.
    """
    while True:
        codes, sound, fresh = [], [], []
        while len(codes) < batch:
            labels, pcm, teacher = items[rng.integers(len(items))]
            whole = voiced_anew(rng, labels, pcm * gains[teacher], teacher)
            if whole is None:
                continue
            for _ in range(2):
                at = rng.integers(0, max(1, len(whole[0]) - frames + 1)) * (rng.random() < 0.8)
                c, s = whole[0][at : at + frames], whole[1][1920 * at : 1920 * (at + frames)]
                short = frames - len(c)
                codes.append(np.pad(c, ((0, short), (0, 0)), mode="edge"))
                sound.append(np.pad(s, (0, 1920 * frames - len(s))))
                fresh.append(at == 0)
        yield (
            np.stack(codes[:batch]).astype(np.int64),
            np.stack(sound[:batch]).astype(np.float32) * GAIN,
            np.array(fresh[:batch]),
        )


def voiced_anew(rng, labels, pcm, teacher):
    """-> codes and sound of one sentence in a random voice of its teacher."""
    voice = some_timbre(rng, teacher)
    whispered = not (labels.f0 > 0).any()
    breath = WHISPER if whispered else min(voice.breath, 2)
    voice = Voice(teacher, voice.tract, voice.tilt, breath)
    factor = TRACT_STEP**voice.tract
    codes, _, first = encode(played_faster(labels, factor), voice)
    if len(codes) < 4:
        return None
    sound = heard(rng, pcm, factor, voice)
    at, length = first * 120, 1920 * len(codes)
    sound = np.pad(sound, (max(-at, 0), max(0, at + length - len(sound))))[max(at, 0) :][:length]
    return codes, np.pad(sound, (0, length - len(sound)))


def some_timbre(rng, teacher):
    """As voices will be asked for: half named ones (`ava` and `max`, the teachers themselves, twice
    as often), else described ones, which reach further, or any.
    """
    kind = rng.random()
    if kind < 0.25:
        return random_voice(rng, teacher)
    if kind < 0.5:
        return some_description(rng, teacher)[0]
    named = [voice for voice in SPEAKERS.values() if voice.teacher == teacher]
    own = [voice for voice in named if voice.tract == 0]
    return [*named, *own][rng.integers(len(named) + len(own))]


def heard(rng, pcm, factor, voice):
    """16 kHz sound -> 24 kHz, played `factor` times as fast, through the voice's tilt and breath.

    All in one spectrum. What lies above the teacher's 8 kHz is a weaker copy of the octave below,
    for fricatives do not end there.
    """
    count = round(len(pcm) * 1.5 / factor)
    spectrum = np.fft.rfft(pcm.astype(np.float32))
    out = np.zeros(count // 2 + 1, np.complex64)
    size = min(len(spectrum), len(out))
    out[:size] = spectrum[:size] * (count / len(pcm))
    hertz = np.arange(len(out)) * (24000 / count)
    top = 7600 * factor
    if top < 11500:
        low, edge = np.searchsorted(hertz, (top - 3800, top))
        width = min(edge - low, len(out) - edge)
        out[edge : edge + width] = 0.4 * out[low : low + width]
    before = np.sqrt(np.mean(np.square(np.abs(out))))
    out *= (np.clip(hertz, 200, 9000) / 1000) ** (0.35 * voice.tilt)
    out *= before / max(np.sqrt(np.mean(np.square(np.abs(out)))), 1e-9)
    sound = np.fft.irfft(out, count)
    if voice.breath in (1, 2):
        sound = sound + breath_noise(rng, sound, (0.05, 0.12)[voice.breath - 1])
    loudest = np.abs(sound).max()
    return sound * min(1.0, 0.95 / GAIN / max(loudest, 1e-9))


def breath_noise(rng, sound, level):
    """Noise that follows the sound's envelope, weaker below 2 kHz."""
    hops = np.square(sound[: len(sound) // 240 * 240].reshape(-1, 240)).mean(1)
    envelope = np.sqrt(np.interp(np.arange(len(sound)) / 240 - 0.5, np.arange(len(hops)), hops))
    noise = np.fft.rfft(rng.standard_normal(len(sound)).astype(np.float32))
    hertz = np.arange(len(noise)) * (24000 / len(sound))
    noise *= hertz / (hertz + 2000) * (hertz < 10000)
    return level * 2 * envelope * np.fft.irfft(noise, len(sound))


def mel_filters(bands=80, fft=1024, rate=24000, top=12000):
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
    with torch.no_grad(), torch.autocast(sound.device.type, enabled=False):
        mel = log_mel(sound)
    mel = mel.reshape(len(mel), -1, 160).transpose(1, 2)
    cycle, voiced = pitch_cycle(codes)
    a = ((heads.mel(x) - mel).abs() * keep[:, None]).mean()
    b = ((heads.cycle(x) - cycle).abs() * (keep & voiced)[:, None]).mean()
    return a + b, {"mel": a, "cycle": b}


def jitter(codes):
    """The pitch cycle advances a little unevenly, as a talker's does: codes [B, T, 16] with a
    random walk of up to two steps a tick in it.
    """
    ticks = codes[:, :, 9:13].flatten(1)
    walk = torch.randn(ticks.shape) * (0.5 + 1.5 * torch.rand(len(ticks), 1))
    moved = (ticks - 1 + walk.cumsum(1).round().long()) % 32 + 1
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


def parse_arguments():
    args = argparse.ArgumentParser()
    args.add_argument("--minutes", type=float, default=60.0, help="the schedule's length")
    args.add_argument("--shape", type=float, default=0.25, help="share of it for the shape stage")
    args.add_argument("--batch", type=int, default=4)
    args.add_argument("--frames", type=int, default=20)
    args.add_argument(
        "--jitter", type=float, default=0.4, help="share of examples with an uneven pitch cycle"
    )
    args.add_argument("--rate", type=float, default=2e-3)
    args.add_argument("--workers", type=int, default=0)
    args.add_argument("--device", default="cpu")
    args.add_argument("--bf16", action="store_true", help="where the device is quick at it")
    return args.parse_args()


def main():
    args = parse_arguments()
    items = load_corpus()
    gains = loudness(items)
    print(f"{len(items)} sentences, gains {gains}", flush=True)
    path = WORK / "codec.pt"
    state = torch.load(path, map_location="cpu")
    step = state["step"]
    make = partial(crops, items=items, gains=gains, frames=args.frames, batch=args.batch)
    stream = feed(make, args.workers, step)
    torch.set_default_device(args.device)
    torch.manual_seed(step)
    to_device(args.device)
    model = CodecDecoder()
    model.load_state_dict(state["model"])
    heads = ShapeHeads(model.config["latent_dim"])
    heads.load_state_dict(state["heads"])
    optimiser = torch.optim.AdamW(
        [*model.parameters(), *heads.parameters()], 1e-3, betas=(0.8, 0.98), weight_decay=0.01
    )
    start, average, done, told, shaping = time.monotonic(), {}, 0.0, 0.0, True
    while done < 1.0:
        done = (time.monotonic() - start) / (60 * args.minutes)
        if shaping and done >= args.shape:
            shaping, average = False, {}
            optimiser.state.clear()
        at = done / args.shape if shaping else (done - args.shape) / (1 - args.shape)
        rate = min(1, at / 0.03 + 0.02) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * at)))
        for group in optimiser.param_groups:
            group["lr"] = args.rate * rate
        codes, sound, fresh = (torch.from_numpy(a).to(args.device) for a in next(stream))
        loss, parts = stage(model, heads, codes, sound, fresh, shaping, args)
        optimiser.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimiser.step()
        step += 1
        if step % 10 == 0:
            for name, value in {"loss": loss, "norm": norm, **parts}.items():
                average[name] = 0.8 * average.get(name, float(value)) + 0.2 * float(value)
        if time.monotonic() - told > 10:
            told = time.monotonic()
            print(
                f"{step} {'shape' if shaping else 'wave'} {told - start:.0f} s "
                + " ".join(f"{k} {v:.3f}" for k, v in average.items()),
                flush=True,
            )
        if step % 250 == 0 or done >= 1.0:
            save(path, {"model": model.state_dict(), "heads": heads.state_dict(), "step": step})


def stage(model, heads, codes, sound, fresh, shaping, args):
    """The loss of one batch, and its parts."""
    keep = torch.ones(len(codes), 4 * args.frames, dtype=torch.bool)
    keep[~fresh, :12] = False
    if shaping:
        with torch.autocast(args.device, torch.bfloat16, enabled=args.bf16):
            return shape_loss(model, heads, codes, sound, keep)
    moved = torch.rand(len(codes)) < args.jitter
    codes = torch.where(moved[:, None, None], jitter(codes), codes)
    with torch.no_grad():
        latents = model.latents(codes)
    return wave_loss(model.wave(latents), sound, codes, keep, moved)


def to_device(device):
    global MEL
    MEL = MEL.to(device)
    WINDOWS.update({n: window.to(device) for n, window in WINDOWS.items()})


def save(path, state):
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.rename(path)


if __name__ == "__main__":
    main()
