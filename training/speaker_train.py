"""Trains the speaker encoder of the Base checkpoint: sound -> the embedding that means its voice.

    python -m training.speaker_train --minutes 30 [--device cuda --workers 4]   -> work/speaker.pt

The net is the engine's own, in small widths. What it learns to say is voice_space.embedding of the
voice that it hears: teacher, tract, tilt and breath as the sound was made, pitch, spread and pace
as the labels measure them.
"""

import argparse
import math
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from engine.models.config import SpeakerEncoderConfig
from engine.models.speaker_encoder import SpeakerEncoder, log_mel
from training import codec_train
from training.codes import PHONE, played_faster
from training.feeding import feed
from training.voice_space import (
    DIRECTIONS,
    TRACT_HIGH,
    TRACT_LOW,
    TRACT_STEP,
    WHISPER,
    Voice,
    features,
)

WORK = Path(__file__).parent / "work"
CONFIG = SpeakerEncoderConfig(
    enc_dim=256,
    sample_rate=24000,
    mel_dim=128,
    enc_channels=(96, 96, 96, 96, 288),
    enc_kernel_sizes=(5, 3, 3, 3, 1),
    enc_dilations=(1, 2, 3, 4, 1),
    enc_attention_channels=32,
    enc_res2net_scale=4,
    enc_se_channels=32,
)
SECONDS = 3.0
# Of the teachers' neutral readings: spread of the logarithm of pitch, seconds per phone.
SPREADS, PHONE_S = (0.066, 0.115, 0.082), (0.0855, 0.079, 0.085)


def measured(labels, voice):
    """The voice with the pitch, spread and pace that its labels show."""
    voiced = labels.f0 > 0
    phones = labels.phones != PHONE["pau"]
    durations = np.diff(labels.ends, prepend=0)[phones] * 0.005
    rate = PHONE_S[voice.teacher] / max(durations.mean(), 0.02)
    if not voiced.any():
        return voice._replace(rate=rate).clipped()
    logs = np.log(labels.f0[voiced])
    spread = max(float(logs.std()), 1e-3) / SPREADS[voice.teacher]
    return voice._replace(pitch=float(np.exp(logs.mean())), spread=spread, rate=rate).clipped()


def examples(rng, items, gains, batch, fresh):
    """Batches of spectra [B, T, 128] of 3 s of sound, and the features [B, 10] of their voices.
    `fresh` of a batch are new; the others were heard before, for a sound costs more to make than
    to learn from.
    """
    pool = []
    while True:
        while len(pool) < batch:
            pool.append(one_example(rng, items, gains))
        new = [one_example(rng, items, gains) for _ in range(fresh)]
        chosen = [pool[i] for i in rng.permutation(len(pool))[: batch - fresh]]
        pool += new
        mels, wanted = zip(*new, *chosen, strict=True)
        yield np.stack(mels).astype(np.float32), np.stack(wanted)


def one_example(rng, items, gains):
    size = int(SECONDS * 24000)
    while True:
        labels, pcm, teacher = items[rng.integers(len(items))]
        whispered = not (labels.f0 > 0).any()
        breath = WHISPER if whispered else int(rng.choice(3, p=(0.5, 0.25, 0.25)))
        tract = int(rng.integers(TRACT_LOW, TRACT_HIGH + 1))
        voice = Voice(teacher, tract, int(rng.integers(-2, 3)), breath)
        factor = TRACT_STEP**tract
        moved = played_faster(labels, factor)
        if len(moved.f0) >= 250:
            break
    sound = codec_train.heard(rng, pcm * gains[teacher], factor, voice) * codec_train.GAIN
    at = rng.integers(0, max(1, len(sound) - size))
    piece = np.resize(sound[at : at + size], size)
    level = float(np.exp(rng.uniform(-1.6, 0.7)))
    noise = rng.standard_normal(size) * float(np.exp(rng.uniform(-9, -5)))
    heard = (piece * level + noise).astype(np.float32).clip(-1, 1)
    mel = log_mel(torch.from_numpy(heard), CONFIG.mel_dim)
    return mel.numpy().astype(np.float16), features(measured(moved, voice))


def parse():
    args = argparse.ArgumentParser()
    args.add_argument("--minutes", type=float, default=30.0)
    args.add_argument("--batch", type=int, default=24)
    args.add_argument("--fresh", type=int, default=4, help="of a batch: sounds not heard before")
    args.add_argument("--rate", type=float, default=2e-3)
    args.add_argument("--workers", type=int, default=0)
    args.add_argument("--device", default="cpu")
    return args.parse_args()


def main():
    args = parse()
    items = codec_train.load_corpus()
    gains = codec_train.loudness(items)
    make = partial(examples, items=items, gains=gains, batch=args.batch, fresh=args.fresh)
    stream = feed(make, args.workers, 1)
    torch.set_num_threads(1)
    torch.manual_seed(1)
    model, step = initialised(SpeakerEncoder(CONFIG)), 0
    if (WORK / "speaker.pt").exists():
        state = torch.load(WORK / "speaker.pt", map_location="cpu")
        model.load_state_dict(state["model"])
        step = state["step"]
    model = model.to(args.device)
    directions = torch.from_numpy(DIRECTIONS).to(args.device)
    optimiser = torch.optim.AdamW(model.parameters(), args.rate, weight_decay=0.02)
    start, done, told, average, first = time.monotonic(), 0.0, 0.0, None, step
    while done < 1.0:
        done = (time.monotonic() - start) / (60 * args.minutes)
        for group in optimiser.param_groups:
            group["lr"] = (
                args.rate
                * min(1, (step - first) / 100 + 0.05)
                * 0.5
                * (1.02 + math.cos(math.pi * done))
            )
        mel, wanted = (torch.from_numpy(a).to(args.device) for a in next(stream))
        heard = model.embed(mel)
        said = heard @ directions.T / 16  # rows of DIRECTIONS have length 4
        off = heard - said @ directions
        loss = nn.functional.smooth_l1_loss(said, wanted, beta=0.2) + 0.1 * off.square().mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        step += 1
        error = (said - wanted).abs().mean(0).detach().cpu().numpy()
        average = error if average is None else 0.95 * average + 0.05 * error
        if time.monotonic() - told > 10:
            told = time.monotonic()
            print(
                f"{step} {told - start:.0f} s {float(loss):.3f} {np.round(average, 2)}", flush=True
            )
    torch.save({"model": model.state_dict(), "step": step}, WORK / "speaker.pt")


def initialised(model):
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, nn.Parameter):
            nn.init.normal_(weight, std=(2 / weight[0].numel()) ** 0.5)
            nn.init.zeros_(module.bias)
    return model


if __name__ == "__main__":
    main()
