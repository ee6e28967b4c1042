"""The meaning of the 16 codes of a frame (80 ms); teacher dumps -> labels -> codes in any voice.

    python -m training.codes      -> work/labels/BUCKET-NNN-TEACHER.npz, for every finished dump

The codec of this checkpoint is not learnt: its codes say outright what the decoder has to render.

     c0      the phone after the one sounding at the end of the frame (END after the last)
     c1-c3   the phones that begin in the frame, in order, 0 = none
     c4-c6   where they begin, in 5 ms steps 0..15
     c7      how much longer the phone at the end of the frame sounds, 5 ms steps, 0..63
     c8      pitch: 0 unvoiced, 1..63 logarithmic from 70 to 320 Hz
     c9-c12  place in the pitch cycle at 20, 40, 60, 80 ms: 0 unvoiced, 1..32
     c13-c15 the voice: voice_space.py

Looking ahead (c0, c7) makes the decoder causal without loss, and makes most of the next frame
follow from this one. The place in the pitch cycle is what a waveform with the right harmonics
needs and what no decoder could count up by itself.
"""

import re
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from training.voice_space import PITCH_CEILING, PITCH_FLOOR, TEACHERS, WHISPER, Voice

WORK = Path(__file__).parent / "work"
PHONES = re.findall(
    r"\w+",
    "pau aa ae ah ao aw ax ay b ch d dh eh er ey f g hh ih iy jh k l m n ng ow oy p r s sh t th"
    " uh uw v w y z zh",
)
PHONE = {p: i + 1 for i, p in enumerate(PHONES)}
PHONE["axr"] = PHONE["er"]
END, SIZE, USED = 62, 64, 16
UNIT_SAMPLES, UNITS = 80, 16  # at 16 kHz; units of 5 ms per frame
LEAD, TAIL = 12, 20  # silence kept before and after, in units
PITCH_LOW, PITCH_STEPS = np.log(70.0), 62 / np.log(320 / 70)


class Labels(NamedTuple):
    """What a teacher said. Per phone: id, end in units, byte range of its token in the text (-1 for
    pauses), share of the token that is over. Per unit: f0 in Hz (0 unvoiced), phase at its end in
    cycles, not wrapped, -1 while unvoiced.
    """

    phones: np.ndarray
    ends: np.ndarray
    tokens: np.ndarray
    f0: np.ndarray
    phase: np.ndarray


def parse(line: str) -> tuple[Labels, int] | None:
    """A dump line -> labels and the number of samples; None where nothing was said."""
    _, segments, f0, phase, samples = line.rstrip("\n").split("\t")
    rows = [s.rsplit(":", 4) for s in segments.split(" ")]
    if len(rows) < 3 or rows[0][0] != "pau" or rows[-1][0] != "pau":
        return None
    f0 = np.array(f0.split(" "), np.float32) / 10
    phase = np.array(phase.split(" "), np.float32) / 1000
    labels = Labels(
        np.array([PHONE[row[0]] for row in rows]),
        np.array([round(int(row[1]) / 5) for row in rows]),
        np.array([[int(x) for x in row[2:]] for row in rows]),
        f0,
        unwrapped(phase, f0),
    )
    return labels, int(samples)


def unwrapped(phase, f0):
    """Phase within the cycle -> phase that goes on counting through a voiced stretch."""
    voiced = phase >= 0
    moved = np.diff(phase, prepend=0.0)
    middle = (f0 + np.concatenate([f0[:1], f0[:-1]])) / 2
    turns = np.round(middle * 0.005 - moved) + moved
    return np.where(voiced, _sum_in_runs(turns, voiced, phase), -1.0)


def counted(f0):
    """The phase that the teacher's vocoder would have at this pitch: a pulse where voice begins."""
    voiced = f0 > 0
    turns = 0.005 * (f0 + np.concatenate([f0[:1], f0[:-1]])) / 2
    first = voiced & ~np.concatenate([[False], voiced[:-1]])
    voiced = voiced & ~first  # the first unit is noise still
    return np.where(voiced, _sum_in_runs(turns, voiced, turns), -1.0)


def _sum_in_runs(steps, voiced, start):
    """Cumulative sum within each voiced run, which begins with `start`'s value there."""
    first = voiced & ~np.concatenate([[False], voiced[:-1]])
    total = np.cumsum(np.where(voiced, steps, 0.0))
    runs = np.cumsum(first)
    base = np.concatenate([[0.0], (total - start)[first]])
    return total - base[runs]


def played_faster(labels: Labels, factor: float) -> Labels:
    """The labels of the same recording played `factor` times as fast: pitch and formants rise."""
    count = round(len(labels.f0) / factor)
    at = (np.arange(count) + 1) * factor - 1
    low = np.clip(np.floor(at).astype(int), 0, len(labels.f0) - 1)
    high = np.minimum(low + 1, len(labels.f0) - 1)
    part = (at - low).astype(np.float32)
    both = (labels.phase[low] >= 0) & (labels.phase[high] >= labels.phase[low])
    near = np.where(part < 0.5, low, high)
    phase = labels.phase[low] * (1 - part) + labels.phase[high] * part
    return labels._replace(
        ends=np.round(labels.ends / factor).astype(int),
        f0=labels.f0[near] * factor,
        phase=np.where(both, phase, np.where(labels.phase[near] >= 0, labels.phase[near], -1.0)),
    )


def spoken_by(labels: Labels, voice: Voice) -> Labels:
    """The teacher's neutral reading with this voice's pace, pitch and spread."""
    count = max(1, round(len(labels.f0) / voice.rate))
    old = np.minimum(((np.arange(count) + 0.5) * voice.rate).astype(int), len(labels.f0) - 1)
    f0, ends = labels.f0[old], np.round(labels.ends / voice.rate).astype(int)
    voiced = f0 > 0
    if voice.breath == WHISPER or not voiced.any():
        f0 = np.zeros_like(f0)
    else:
        logs = np.log(np.maximum(f0, 1))
        moved = np.log(voice.pitch) + voice.spread * (logs - logs[voiced].mean())
        f0 = np.where(voiced, np.clip(np.exp(moved), PITCH_FLOOR, PITCH_CEILING), 0.0)
    return labels._replace(ends=ends, f0=f0, phase=counted(f0))


def encode(labels: Labels, voice: Voice) -> tuple[np.ndarray, np.ndarray, int]:
    """Labels as they sound -> codes [T, 16], byte of the text being spoken [T], first unit."""
    first = int(labels.ends[0]) - LEAD
    last = min(int(labels.ends[-2]) + TAIL, len(labels.f0))
    frames = -(-(last - first) // UNITS)
    units = frames * UNITS
    begins = _frames_of_begins(labels.ends[:-1] - first, frames)
    now = np.searchsorted(begins, np.arange(frames), side="right")  # phone at the frame's end
    ids = np.append(labels.phones, END)
    ends = np.append(labels.ends[:-1] - first, max(labels.ends[-1] - first, units))
    out = np.zeros((frames, 16), np.uint8)
    place_in_frame = np.arange(len(begins)) - np.searchsorted(begins, begins)
    said = begins < frames
    out[begins[said], 1 + place_in_frame[said]] = labels.phones[1:][said]
    offsets = np.clip(ends[:-1] - begins * UNITS, 0, UNITS - 1)
    out[begins[said], 4 + place_in_frame[said]] = offsets[said]
    out[:, 0] = ids[now + 1]
    out[:, 7] = np.clip(ends[now] - (np.arange(frames) + 1) * UNITS, 0, 63)
    f0 = _window(labels.f0, first, units, 0.0).reshape(frames, UNITS)
    phase = _window(labels.phase, first, units + 1, -1.0)
    voiced = phase[:units].reshape(frames, UNITS) >= 0
    logs = np.log(np.maximum(f0, 50)) * voiced
    mean = logs.sum(1) / np.maximum(voiced.sum(1), 1)
    steps = 1 + np.clip(np.round((mean - PITCH_LOW) * PITCH_STEPS), 0, 62)
    out[:, 8] = np.where(voiced.any(1), steps, 0)
    ticks = phase[np.arange(1, 4 * frames + 1) * 4].reshape(frames, 4)
    out[:, 9:13] = np.where(ticks >= 0, 1 + np.floor((ticks % 1.0) * 32) % 32, 0)
    out[:, 13:] = voice.codes()
    return out, _places(labels.tokens[np.minimum(now + 1, len(labels.tokens) - 1)]), first


def _frames_of_begins(starts, frames):
    """The frame in which each phone begins; a fourth one in a frame waits for the next."""
    begins = np.maximum(starts, 0) // UNITS
    for i in range(3, len(begins)):
        if begins[i] <= begins[i - 3]:
            begins[i] = begins[i - 3] + 1
    return np.minimum(np.maximum.accumulate(begins), frames)


def _window(values, first, count, fill):
    """values[first : first + count], filled where there is nothing."""
    out = np.full(count, fill, np.float64)
    low, high = max(first, 0), min(first + count, len(values))
    if high > low:
        out[low - first : high - first] = values[low:high]
    return out


def _places(tokens):
    """Byte of the text that is being spoken, per frame; pauses stay where they are."""
    start, end, share = tokens.T
    at = np.where(start >= 0, start + (end - start) * share // 1000, -1)
    known = np.maximum.accumulate(np.where(at >= 0, np.arange(len(at)), -1))
    return np.where(known >= 0, at[np.maximum(known, 0)], 0).astype(np.int32)


def with_longer_lead(codes, place):
    """The same after two more frames of silence: text that arrives token by token needs them."""
    extra = np.zeros((2, 16), np.uint8)
    started = codes[0, 1] if codes[0, 1] else codes[0, 0]
    extra[:, 0], extra[:, 13:] = started, codes[0, 13:]
    extra[:, 7] = [UNITS + LEAD, LEAD]
    return np.concatenate([extra, codes]), np.concatenate([place[:1].repeat(2), place])


# ---- labels on disk: everything as bytes, so that hours of speech are small

COLUMNS = ("phones", "durations", "starts", "ends", "shares", "pitch")


def pack(path: Path) -> None:
    """A dump -> work/labels/STEM.npz. Pitch is kept in steps of 1 %, the phase not at all: with
    the neutral reading it can be counted.
    """
    lines = path.with_suffix(".lines").read_text().splitlines()
    parsed = zip(lines, map(parse, path.read_text().splitlines()), strict=True)
    good = [(text, p[0]) for text, p in parsed if p is not None and len(p[0].f0) < 11000]
    columns = {name: [] for name in COLUMNS}
    for _, labels in good:
        columns["phones"].append(labels.phones.astype(np.uint8))
        columns["durations"].append(np.diff(labels.ends, prepend=0).astype(np.uint16))
        for name, column in zip(COLUMNS[2:5], labels.tokens.T, strict=True):
            columns[name].append(column.astype(np.int16))
        steps = np.round(np.log(np.maximum(labels.f0, 1)) * 100 - 380)
        columns["pitch"].append(np.where(labels.f0 > 0, np.clip(steps, 1, 255), 0).astype(np.uint8))
    out = WORK / "labels" / f"{path.stem}.npz"
    out.parent.mkdir(exist_ok=True)
    part = out.with_suffix(".part.npz")
    np.savez_compressed(
        part,
        texts=np.array("\n".join(text for text, _ in good)),
        num_phones=np.array([len(labels.phones) for _, labels in good]),
        num_units=np.array([len(labels.f0) for _, labels in good]),
        **{name: np.concatenate(column) for name, column in columns.items()},
    )
    part.rename(out)


def unpack(path: Path) -> list[tuple[str, Labels]]:
    z = dict(np.load(path))
    phone_cuts, unit_cuts = np.cumsum(z["num_phones"])[:-1], np.cumsum(z["num_units"])[:-1]
    split = {name: np.split(z[name], phone_cuts) for name in COLUMNS[:5]}
    split["pitch"] = np.split(z["pitch"], unit_cuts)
    items = []
    for i, text in enumerate(str(z["texts"]).split("\n")):
        pitch = split["pitch"][i].astype(np.float32)
        f0 = np.where(pitch > 0, np.exp((pitch + 380) / 100), 0.0)
        tokens = np.stack([split[name][i].astype(int) for name in COLUMNS[2:5]], 1)
        ends = np.cumsum(split["durations"][i].astype(int))
        items.append((text, Labels(split["phones"][i].astype(int), ends, tokens, f0, counted(f0))))
    return items


def teacher_of(path: Path) -> int:
    return TEACHERS.index(path.stem.rsplit("-", 1)[1])


def main():
    start = time.time()
    for path in sorted((WORK / "dump").glob("*.tsv")):
        if path.stem.startswith("audio") or (WORK / "labels" / f"{path.stem}.npz").exists():
            continue
        pack(path)
        print(f"{path.stem} {time.time() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
