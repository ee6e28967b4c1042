"""Teacher speech: runs teacher_dump (flite) over the text in shards.

    python -m training.teacher [--share 1.0]     -> work/dump/BUCKET-NNN-VOICE.{lines,tsv[,pcm]}

Audio (16 kHz) is kept only for the `audio` bucket, which trains the codec: all teachers, each
sentence with another pitch, spread of pitch and pace. Everything else needs only segments and F0,
from one teacher per shard in turn; voice_space.py varies those. Finished shards are skipped.
"""

import argparse
import random
import subprocess
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
WORK = HERE / "work"
VOICES = ("slt", "rms", "awb")
SHARD, SHARDS = 2000, {"paragraphs": 350, "audio": 200}  # lines


# How the sentences of the `audio` bucket are varied, so that the codec meets every pitch.
def some_pitch(rng):
    if rng.random() < 0.07:
        return 0.0  # a whisper
    return float(np.exp(rng.uniform(np.log(0.72), np.log(1.6))))


def some_spread(rng):
    return float(rng.choice([0.2, 1.0, 1.0, 1.6]))


def some_stretch(rng):
    return float(np.exp(rng.uniform(np.log(0.8), np.log(1.3))))


def build_tool():
    tool = WORK / "teacher_dump"
    if not tool.exists():
        libs = [
            "flite_cmu_us_slt",
            "flite_cmu_us_rms",
            "flite_cmu_us_awb",
            "flite_usenglish",
            "flite_cmulex",
            "flite",
            "dl",
            "m",
        ]
        subprocess.run(
            [
                "gcc",
                "-O2",
                "-rdynamic",
                "-o",
                tool,
                HERE / "teacher_dump.c",
                *(f"-l{x}" for x in libs),
            ],
            check=True,
        )
    return tool


def run_shard(tool, lines, stem, voice, audio):
    done = stem.with_suffix(".tsv")
    if done.exists():
        return
    stem.with_suffix(".lines").write_text("\n".join(lines) + "\n")
    part, pcm, vary = stem.with_suffix(".part"), "-", []
    spoken = lines
    if audio:
        pcm, vary = str(stem.with_suffix(".pcm")), ["vary"]
        rng = np.random.default_rng(zlib.crc32(stem.name.encode()))
        spoken = [
            f"{some_pitch(rng):.3f} {some_spread(rng):.3f} {some_stretch(rng):.3f} {x}"
            for x in lines
        ]
    with open(part, "w") as sink:
        source = "\n".join(spoken) + "\n"
        subprocess.run([tool, voice, pcm, *vary], input=source, text=True, stdout=sink, check=True)
    part.rename(done)


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--share", type=float, default=1.0, help="of each bucket's shards")
    args.add_argument("--workers", type=int, default=1)
    args = args.parse_args()
    tool, out, start = build_tool(), WORK / "dump", time.time()
    out.mkdir(exist_ok=True)
    text = {p.stem: p.read_text().splitlines() for p in (WORK / "text").glob("*.txt")}
    text["glosses"] = text["glosses"][:16000]
    text["audio"] = (
        text["examples"][-2600:] + text["closed"][-900:] + text["words"][-300:] + text["long"][-60:]
    )
    random.Random(5).shuffle(text["audio"])
    text["audio"] = text["audio"][:1200]
    text["examples"], text["closed"] = text["examples"][:-2600], text["closed"][:-900]
    jobs = []
    for bucket, lines in text.items():
        size = SHARDS.get(bucket, SHARD)
        shards = [lines[at : at + size] for at in range(0, len(lines), size)]
        for n, shard in enumerate(shards):
            voices = VOICES if bucket == "audio" else VOICES[n % 3 : n % 3 + 1]
            # `audio` first, then all buckets side by side
            place = -1.0 if bucket == "audio" else n / len(shards)
            jobs += [(place, bucket, n, voice, shard) for voice in voices if place < args.share]
    with ThreadPoolExecutor(args.workers) as pool:
        running = [
            pool.submit(run_shard, tool, lines, out / f"{bucket}-{n:03d}-{voice}", voice, place < 0)
            for place, bucket, n, voice, lines in sorted(jobs, key=lambda job: job[:3])
        ]
        for i, one in enumerate(running):
            one.result()
            print(f"{i + 1}/{len(jobs)} {time.time() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
