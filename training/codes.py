"""The meaning of the 16 codes of a frame (80 ms), and teacher dumps -> codes.

    python codes.py             -> work/codes/BUCKET-NNN-VOICE.npz, for every finished dump

The codec of this checkpoint is not learnt: its codes say outright what the decoder has to render.

     c0      the phone after the one sounding at the end of the frame (END after the last)
     c1-c3   the phones that begin in the frame, in order, 0 = none
     c4-c6   where they begin, in 5 ms steps 0..15
     c7      how much longer the phone at the end of the frame sounds, 5 ms steps, 0..63
     c8      pitch: 0 unvoiced, 1..63 logarithmic from 70 to 320 Hz
     c9-c12  place in the pitch cycle at 20, 40, 60, 80 ms: 0 unvoiced, 1..32
     c13     voice, c14-c15 always 0

Looking ahead (c0, c7) makes the decoder causal without loss, and makes most of the next frame
follow from this one. The place in the pitch cycle is what a waveform with the right harmonics
needs and what no decoder could count up by itself.
"""

import re
import time
from pathlib import Path

import numpy as np

WORK = Path(__file__).parent / "work"
PHONES = re.findall(
    r"\w+",
    "pau aa ae ah ao aw ax ay b ch d dh eh er ey f g hh ih iy jh k l m n ng ow oy p r s sh t th"
    " uh uw v w y z zh",
)
PHONE = {p: i + 1 for i, p in enumerate(PHONES)}
PHONE["axr"] = PHONE["er"]
END, SIZE, USED = 62, 64, 14
VOICES = ("slt", "rms")
UNIT_SAMPLES, UNITS = 80, 16  # at 16 kHz; units per frame
LEAD, TAIL = 12, 20  # silence kept before and after, in units
PITCH_LOW, PITCH_STEPS = np.log(70.0), 62 / np.log(320 / 70)


def parse(line):
    _, segments, f0, phase, samples = line.rstrip("\n").split("\t")
    segments = [s.rsplit(":", 4) for s in segments.split(" ")]
    segments = [
        (p, round(int(e) / 5), int(a), int(b), int(share)) for p, e, a, b, share in segments
    ]
    return (
        segments,
        np.array(f0.split(" "), float) / 10,
        np.array(phase.split(" "), float) / 1000,
        int(samples),
    )


def encode(line, voice):
    """One dump line -> codes [T, 16], byte offset in the text [T], first unit, samples."""
    segments, f0, phase, samples = parse(line)
    if segments[0][0] != "pau" or segments[-1][0] != "pau" or len(segments) < 3:
        return None
    first = segments[0][1] - LEAD
    last = min(segments[-2][1] + TAIL, len(f0))
    frames = -(-(last - first) // UNITS)
    ids = [PHONE[s[0]] for s in segments] + [END]
    ends = [s[1] - first for s in segments]
    ends[-1] = max(ends[-1], frames * UNITS)
    out = np.zeros((frames, 16), np.uint8)
    place = np.zeros(frames, np.int32)
    now, at = 0, 0
    f0 = np.pad(f0[max(first, 0) :], (max(-first, 0), frames * UNITS))
    phase = np.pad(phase[max(first, 0) :], (max(-first, 0), frames * UNITS), constant_values=-1)
    for t in range(frames):
        stop, k = (t + 1) * UNITS, 0
        while now + 1 < len(segments) and ends[now] < stop and k < 3:
            now += 1
            out[t, 1 + k], out[t, 4 + k] = ids[now], max(ends[now - 1] - t * UNITS, 0)
            k += 1
        out[t, 0] = ids[now + 1]
        out[t, 7] = min(max(ends[now] - stop, 0), 63)
        span = slice(t * UNITS, stop)
        voiced = phase[span] >= 0
        if voiced.any():
            pitch = (np.log(np.maximum(f0[span][voiced], 50)).mean() - PITCH_LOW) * PITCH_STEPS
            out[t, 8] = 1 + np.clip(round(pitch), 0, 62)
        ticks = phase[t * UNITS + 4 : stop + 1 : 4]
        out[t, 9:13] = np.where(ticks >= 0, 1 + np.floor(ticks * 32), 0)
        ahead = segments[min(now + 1, len(segments) - 1)]
        if ahead[2] >= 0:
            at = ahead[2] + (ahead[3] - ahead[2]) * ahead[4] // 1000
        place[t] = at
    out[:, 13] = VOICES.index(voice)
    return out, place, first, samples


def with_longer_lead(codes, place):
    """The same after two more frames of silence: text that arrives token by token needs them."""
    extra = np.zeros((2, 16), np.uint8)
    started = codes[0, 1] if codes[0, 1] else codes[0, 0]
    extra[:, 0], extra[:, 13] = started, codes[0, 13]
    extra[:, 7] = [UNITS + LEAD, LEAD]
    return np.concatenate([extra, codes]), np.concatenate([place[:1].repeat(2), place])


def encode_shard(path):
    voice = path.stem.rsplit("-", 1)[1]
    lines = path.with_suffix(".lines").read_text().splitlines()
    texts, codes, places, firsts, offsets, offset = [], [], [], [], [], 0
    for text, line in zip(lines, path.read_text().splitlines(), strict=True):
        result = encode(line, voice)
        samples = int(line.rsplit("\t", 1)[1])
        if result and 3 < len(result[0]) < 700:
            c, p, first, _ = result
            texts.append(text)
            codes.append(c)
            places.append(p)
            firsts.append(first)
            offsets.append((offset, samples))
        offset += samples
    out = WORK / "codes" / f"{path.stem}.npz"
    out.parent.mkdir(exist_ok=True)
    part = out.with_suffix(".part.npz")
    np.savez(
        part,
        texts=np.array("\n".join(texts)),
        codes=np.concatenate(codes),
        place=np.concatenate(places),
        lengths=np.array([len(c) for c in codes]),
        first=np.array(firsts),
        pcm=np.array(offsets),
    )
    part.rename(out)
    return len(codes), sum(map(len, codes))


def main():
    start, total = time.time(), 0
    for path in sorted((WORK / "dump").glob("*.tsv")):
        if (WORK / "codes" / f"{path.stem}.npz").exists():
            continue
        count, frames = encode_shard(path)
        total += frames
        print(
            f"{path.stem} {count} sentences {frames / 45e3:.2f} h, {time.time() - start:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
