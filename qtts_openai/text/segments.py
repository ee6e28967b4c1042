# ruff: noqa: RUF001
"""Long text in pieces that are spoken one after the other: whole sentences, as far as they fit."""

from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
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
BLOCK_CHARS = 1000
NEAR_CHARS = 100
NOTHING_S = 1e-9  # what sums of floats may be wrong by
_GRAPHEME = regex.compile(r"\X")
# Where a sentence that is too long is cut, the best kind first; (?r): the last one there is.
_CUTS = (
    regex.compile(r"(?r)\n"),
    regex.compile(r"(?r)[;:؛；：](?=\s)|[；：؛]"),
    regex.compile(r"(?r)[,،](?=\s)|[，、،]|\s[-–—](?=\s)"),
    regex.compile(r"(?r)\s"),
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
            pieces += _pack(_sentences(part, CODES.get(language, "en")), size)
    return pieces


def _sentences(text: str, code: str) -> Iterator[str]:
    for block in _blocks(text):
        yield from sentencex.segment(code, block)


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
    spoken_s = [0.0, *accumulate(map(seconds_of, sentence))]
    at = 0
    while at < len(sentence):
        end = bisect_right(spoken_s, spoken_s[at] + size.seconds + NOTHING_S, at + 1) - 1
        end = max(at + 1, int(min(end, at + size.chars)))
        if end < len(sentence):
            end = at + (_best_cut(sentence[at:end]) or _whole_graphemes(sentence, at, end - at))
        yield sentence[at:end]
        at = end


def _best_cut(head: str) -> int:
    for last in _CUTS:
        found = last.search(head)
        if found is not None and found.end() > len(head) // 8:
            return found.end()
    return 0


def _whole_graphemes(text: str, at: int, most: int) -> int:
    """The largest number of characters up to `most` that ends between two graphemes, or `most`
    where one grapheme is longer than that. Looks at the end only, which is enough for real ones.
    """
    start = max(0, most - NEAR_CHARS)
    ends = (start + m.end() for m in _GRAPHEME.finditer(text[at + start : at + most + NEAR_CHARS]))
    return max((end for end in ends if end <= most), default=most)


def _fitting(sentences: Iterator[str], size: Size) -> Iterator[tuple[str, float]]:
    """Sentences, and pieces of those that are too long, each with its seconds."""
    for sentence in sentences:
        spoken_s = expected_frames(sentence) * FRAME_S
        if len(sentence) <= size.chars and spoken_s <= size.seconds:
            yield sentence, spoken_s
        else:
            yield from ((cut, expected_frames(cut) * FRAME_S) for cut in _cut(sentence, size))


def _pack(sentences: Iterator[str], size: Size) -> list[Part]:
    """As many sentences in a piece as fit."""
    packed: list[Part] = []
    held: list[str] = []
    chars, seconds = 0, 0.0
    for sentence, more_s in _fitting(sentences, size):
        if held and (chars + len(sentence) > size.chars or seconds + more_s > size.seconds):
            packed.append("".join(held).strip())
            held, chars, seconds = [], 0, 0.0
        held.append(sentence)
        chars, seconds = chars + len(sentence), seconds + more_s
    packed.append("".join(held).strip())
    return [piece for piece in packed if piece]
