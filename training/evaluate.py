"""Lets a checkpoint read sentences it never saw, and a recogniser write them down.

    .venv/bin/python -m training.evaluate                      the voice that ships
    .venv/bin/python -m training.evaluate --checkpoint DIR     another one, see export.py
    .venv/bin/python -m training.evaluate --teacher            ceiling: the teacher itself
    .venv/bin/python -m training.evaluate --codec              ceiling: its codes, our decoder
    .venv/bin/python -m training.evaluate --quantization int8  the layers' weights in fewer bits

Regime. One sentence at a time through the real engine (EngineCore, float32, one thread), with the
checkpoint's own sampling and a fixed seed. Errors are summed over a category and divided by its
words (WER), letters (CER) or phones (PER). PER needs no recogniser: codes say outright which phone
they are, and the teacher's are the truth. An utterance is `guarded` when the engine's runaway guard
ended it, `long` above twice the teacher's length and 4 frames, `short` below half of it. Without
the teacher (flite, see teacher.py) PER, `long` and `short` are left out. `core` is the engine's
seconds of one core for a second of speech: time on the processor, so other load hardly counts.

Prints a table; the last line of stdout is one JSON document.
"""

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import get_args

from engine.config import Quantization
from engine.protocol import FRAME_S, SamplingParams
from qtts_openai.settings import DEFAULT_MODELS
from training.judge import Judge, Sentence, distance, errors, normalise, sentences
from training.readers import SPEAKERS, Reader, Reading, has_teacher, teach

MODES = ("whole", "streaming")
SLACK_FRAMES = 4
COLUMNS = ("wer", "cer", "per")
COUNTS = ("guarded", "long", "short")


def main() -> None:
    options = parse_arguments()
    items = sentences(options.only)[:: options.every]
    judge = None if options.judge == "none" else Judge(options.judge)
    reader = None if options.teacher else Reader(options.checkpoint, options.quantization)
    report, totals = {}, []
    for speaker in options.speakers.split(","):
        truth = teach([item.plain for item in items], speaker) if has_teacher() else None
        for mode, read in readers(options, reader, speaker).items():
            tallies = measure(items, truth, read, judge, options.show)
            report[f"{speaker} {mode}"] = summarise(tallies)
            totals.append(tallies)
            print(table(f"{speaker} {mode}", report[f"{speaker} {mode}"]), flush=True)
    report["all"] = summarise({name: sum_up(t[name] for t in totals) for name in totals[0]})
    print(table("all", report["all"]))
    print(json.dumps({"options": vars(options), "results": report}))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default="embedded", help="an exported directory")
    parser.add_argument("--quantization", choices=get_args(Quantization), default="none")
    parser.add_argument("--speakers", default=",".join(SPEAKERS))
    parser.add_argument("--modes", default=",".join(MODES))
    parser.add_argument("--only", help="one category")
    parser.add_argument("--every", type=int, default=1, help="every n-th sentence")
    parser.add_argument("--auto", action="store_true", help="name no language")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--segment-chars",
        type=int,
        default=DEFAULT_MODELS[0].segment_chars,
        help="longest text in one piece, by default as the server has it; 0: any",
    )
    parser.add_argument(
        "--temperature", type=float, help="default: the checkpoint's own; 0: greedy"
    )
    parser.add_argument(
        "--judge", choices=("base", "tiny", "none"), default="base", help="none: PER only"
    )
    parser.add_argument("--show", action="store_true", help="print what was heard wrongly")
    ceiling = parser.add_mutually_exclusive_group()
    ceiling.add_argument("--teacher", action="store_true")
    ceiling.add_argument("--codec", action="store_true")
    return parser.parse_args()


def readers(
    options: argparse.Namespace, reader: Reader | None, speaker: str
) -> dict[str, Callable[[Sentence], Reading]]:
    """What is measured, by name: sentence -> Reading."""
    if reader is None:
        return {"teacher": lambda item: _taught(item, speaker)}
    if options.codec:
        return {"codec": lambda item: reader.render(_taught(item, speaker).codes)}

    def by_mode(mode: str) -> Callable[[Sentence], Reading]:
        return lambda item: reader.read(
            item.text,
            speaker,
            streaming=mode == "streaming",
            language="auto" if options.auto else "english",
            params=SamplingParams(seed=options.seed, temperature=options.temperature),
            segment_chars=options.segment_chars,
        )

    return {mode: by_mode(mode) for mode in options.modes.split(",")}


def _taught(item: Sentence, speaker: str) -> Reading:
    (reading,) = teach([item.plain], speaker)
    assert reading is not None, f"the teacher does not say {item.plain!r}"
    return reading


def measure(
    items: list[Sentence],
    truth: list[Reading | None] | None,
    read: Callable[[Sentence], Reading],
    judge: Judge | None,
    show: bool,
) -> dict[str, Counter]:
    """Sums by category, and over "all"."""
    tallies: dict[str, Counter] = defaultdict(Counter)
    for i, item in enumerate(items):
        reading = read(item)
        counts = lengths(reading, truth and truth[i])
        if judge is not None:
            heard = judge.hear(reading.samples, reading.rate_hz) if len(reading.codes) else ""
            counts.update(compare(heard, item.spoken))
            if show and counts["word_errors"]:
                print(f"   {item.text!r} -> {heard!r}", flush=True)
        tallies[item.category].update(counts)
    tallies["all"] = sum_up(tallies.values())
    return tallies


def sum_up(tallies: Iterable[Counter]) -> Counter:
    """Their sum, with the zeros that Counter's + drops."""
    total: Counter = Counter()
    for counts in tallies:
        total.update(counts)
    return total


def compare(heard: str, spoken: str) -> Counter:
    words, letters = errors(heard, spoken)
    wanted = normalise(spoken)
    return Counter(
        word_errors=words,
        words=len(wanted),
        letter_errors=letters,
        letters=len(" ".join(wanted)),
    )


def lengths(reading: Reading, truth: Reading | None) -> Counter:
    """Frames, time and endings, and what only the teacher can tell."""
    num_frames = len(reading.codes)
    counts = Counter(
        num=1, frames=num_frames, cpu_s=reading.cpu_s, guarded=int(not reading.by_itself)
    )
    if truth is not None:
        natural = len(truth.codes)
        counts.update(
            phone_errors=distance(reading.phones(), truth.phones()),
            phones=len(truth.phones()),
            long=int(num_frames > 2 * natural + SLACK_FRAMES),
            short=int(2 * num_frames < natural),
        )
    return counts


def summarise(tallies: dict[str, Counter]) -> dict:
    """Percentages by category, and the counts of them all."""
    total = tallies["all"]
    rates = {
        name: {
            "num": counts["num"],
            "wer": percent(counts["word_errors"], counts["words"]),
            "cer": percent(counts["letter_errors"], counts["letters"]),
            "per": percent(counts["phone_errors"], counts["phones"]),
        }
        for name, counts in tallies.items()
    }
    ends = {name: total[name] if name == "guarded" or total["phones"] else None for name in COUNTS}
    speech_s = total["frames"] * FRAME_S
    return {
        "rates": rates,
        **ends,
        "speech_s": round(speech_s, 2),
        "core": round(total["cpu_s"] / speech_s, 3) if total["cpu_s"] else None,
    }


def percent(errors: int, count: int) -> float | None:
    return round(100 * errors / count, 1) if count else None


def table(name: str, summary: dict) -> str:
    ends = ", ".join(f"{word} {_shown(summary[word])}" for word in COUNTS)
    lines = [
        f"{name}: {summary['speech_s']:.0f} s of speech, core {_shown(summary['core'])}; {ends}",
        f"   {'':10} {'num':>4}" + "".join(f" {column.upper():>6}" for column in COLUMNS),
    ]
    for category, rates in summary["rates"].items():
        shown = "".join(f" {_shown(rates[column]):>6}" for column in COLUMNS)
        lines.append(f"   {category:10} {rates['num']:>4}{shown}")
    return "\n".join(lines)


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"


if __name__ == "__main__":
    main()
