# ruff: noqa: RUF001
"""Long text in pieces that are spoken one after the other: whole sentences, as far as they fit."""

from collections.abc import Iterator
from typing import NamedTuple

import regex
import sentencex

from engine import FRAME_S
from qtts_openai.text.duration_estimate import expected_frames, seconds_of
from qtts_openai.text.pauses import Part

CODES = {
    "chinese": "zh",
    "japanese": "ja",
    "korean": "ko",
    "german": "de",
    "french": "fr",
    "russian": "ru",
    "portuguese": "pt",
    "spanish": "es",
    "italian": "it",
}
# What the library is given at once: some marks make its time grow with the square of that.
BLOCK_CHARS = 4000
NEAR_CHARS = 100
_GRAPHEME = regex.compile(r"\X")
# Where a sentence that is too long is cut, the best kind first.
_CUTS = (
    regex.compile(r"\n"),
    regex.compile(r"[;:؛；：](?=\s)|[；：؛]"),
    regex.compile(r"[,،](?=\s)|[，、،]|\s[-–—](?=\s)"),
    regex.compile(r"\s"),
)


class Size(NamedTuple):
    """How long a piece may be, in characters and in seconds of expected speech."""

    chars: float = float("inf")
    seconds: float = float("inf")

    def holds(self, text: str) -> bool:
        return len(text) <= self.chars and expected_frames(text) * FRAME_S <= self.seconds


def split_sentences(parts: list[Part], size: Size, language: str = "auto") -> list[Part]:
    """Every text that is longer in pieces of whole sentences of `language`."""
    pieces: list[Part] = []
    for part in parts:
        if isinstance(part, float) or size.holds(part):
            pieces.append(part)
        else:
            pieces += _pack(_fitting(part, size, CODES.get(language, "en")), size)
    return pieces


def _fitting(text: str, size: Size, code: str) -> Iterator[str]:
    for block in _blocks(text):
        for sentence in sentencex.segment(code, block):
            yield from _cut(sentence, size)


def _blocks(text: str) -> Iterator[str]:
    """Cut after a line end or a sentence's mark and space, else after a space, else anywhere."""
    at = 0
    while len(text) - at > BLOCK_CHARS:
        head = text[at : at + BLOCK_CHARS]
        cut = max(head.rfind("\n"), head.rfind(". "), head.rfind("。")) + 1
        cut = cut or head.rfind(" ") + 1 or _whole_graphemes(text, at, BLOCK_CHARS)
        yield text[at : at + cut]
        at += cut
    yield text[at:]


def _cut(sentence: str, size: Size) -> Iterator[str]:
    """A sentence in pieces that fit, cut at its best mark within each."""
    while not size.holds(sentence):
        fits = _fitting_chars(sentence, size)
        cut = _best_cut(sentence[:fits]) or _whole_graphemes(sentence, 0, fits)
        yield sentence[:cut]
        sentence = sentence[cut:]
    if sentence:
        yield sentence


def _fitting_chars(text: str, size: Size) -> int:
    """How many characters from the start on fit; at least one."""
    seconds, most = 0.0, int(min(len(text), size.chars))
    for at in range(most):
        seconds += seconds_of(text[at])
        if seconds > size.seconds:
            return max(1, at)
    return most


def _best_cut(head: str) -> int:
    for pattern in _CUTS:
        end = max((match.end() for match in pattern.finditer(head)), default=0)
        if end > len(head) // 8:
            return end
    return 0


def _whole_graphemes(text: str, at: int, most: int) -> int:
    """The largest number of characters up to `most` that ends between two graphemes, or `most`
    where one grapheme is longer than that. Looks at the end only, which is enough for real ones.
    """
    start = max(0, most - NEAR_CHARS)
    ends = (start + m.end() for m in _GRAPHEME.finditer(text[at + start : at + most + NEAR_CHARS]))
    return max((end for end in ends if end <= most), default=most)


def _pack(sentences: Iterator[str], size: Size) -> list[Part]:
    """As many sentences in a piece as fit."""
    packed: list[Part] = []
    held: list[str] = []
    chars, seconds = 0, 0.0
    for sentence in sentences:
        more_s = expected_frames(sentence) * FRAME_S
        if held and (chars + len(sentence) > size.chars or seconds + more_s > size.seconds):
            packed.append("".join(held).strip())
            held, chars, seconds = [], 0, 0.0
        held.append(sentence)
        chars, seconds = chars + len(sentence), seconds + more_s
    packed.append("".join(held).strip())
    return [piece for piece in packed if piece]
