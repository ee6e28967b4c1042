"""Teacher speech: runs teacher_dump (flite) over the text in shards.

    python teacher.py [--limit-glosses 16000]     -> work/dump/BUCKET-NNN-VOICE.{lines,tsv[,pcm]}

Audio (16 kHz) is kept only for the `audio` bucket, which trains the codec; everything else needs
only segments, F0 and phase. Finished shards are skipped. Audio and the first examples get both
voices, everything else one voice per shard in turn.
"""

import argparse
import subprocess
import time
from pathlib import Path

HERE = Path(__file__).parent
WORK = HERE / "work"
VOICES = ("slt", "rms")
SHARD, SHARDS = 2000, {"paragraphs": 700}  # lines
BOTH = 10  # this many shards of examples get both voices


def build_tool():
    tool = WORK / "teacher_dump"
    if not tool.exists():
        libs = [
            "flite_cmu_us_slt",
            "flite_cmu_us_rms",
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
    part = stem.with_suffix(".part")
    with open(stem.with_suffix(".lines")) as source, open(part, "w") as sink:
        pcm = str(stem.with_suffix(".pcm")) if audio else "-"
        subprocess.run([tool, voice, pcm], stdin=source, stdout=sink, check=True)
    part.rename(done)


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--limit-glosses", type=int, default=16000)
    args = args.parse_args()
    tool, out, start = build_tool(), WORK / "dump", time.time()
    out.mkdir(exist_ok=True)
    text = {p.stem: p.read_text().splitlines() for p in (WORK / "text").glob("*.txt")}
    text["glosses"] = text["glosses"][: args.limit_glosses]
    text["audio"] = (
        text["examples"][-2600:] + text["closed"][-900:] + text["words"][-300:] + text["long"][-60:]
    )
    text["examples"], text["closed"] = text["examples"][:-2600], text["closed"][:-900]
    order = [
        ("audio", 0),
        ("examples", 0),
        ("closed", 0),
        ("long", 0),
        ("words", 0),
        ("numbers", 0),
        ("paragraphs", 0),
        ("formats", 0),
        ("examples", BOTH),
        ("glosses", 0),
    ]
    jobs = []
    for bucket, begin in order:
        size = SHARDS.get(bucket, SHARD)
        shards = [text[bucket][at : at + size] for at in range(0, len(text[bucket]), size)]
        for n in range(begin, BOTH if (bucket, begin) == ("examples", 0) else len(shards)):
            both = bucket == "audio" or (bucket == "examples" and n < BOTH)
            jobs += [
                (bucket, n, v, shards[n]) for v in (VOICES if both else VOICES[n % 2 : n % 2 + 1])
            ]
    for i, (bucket, n, voice, lines) in enumerate(jobs):
        run_shard(tool, lines, out / f"{bucket}-{n:03d}-{voice}", voice, bucket == "audio")
        print(
            f"{i + 1}/{len(jobs)} {bucket}-{n:03d}-{voice} {time.time() - start:.0f} s", flush=True
        )


if __name__ == "__main__":
    main()
