# ruff: noqa: RUF001
"""Text in pieces of any cut -> segments that are spoken as they are.

A segment is one word, or more where later text could still change how it is read: markup, tags and
brackets stay with what closes them, figures with their unit, and words with the rest of a
pronunciation that they begin. Where a segment ends depends on the text alone and not on how it was
cut, so neither do the ids that the engine gets. Ids of segments are those of the whole text,
because a token never spans the space in front of a word.
"""

import re
from collections.abc import Callable, Iterator, Mapping

from qtts_openai.errors import ApiError
from qtts_openai.text.lines import end_line
from qtts_openai.text.pauses import Part, split_pauses

# A word and the space behind it, once what follows that is there; or one up to a mark of the
# scripts that have no spaces, which belongs to what comes after it.
_WORD = re.compile(
    r"\s*[^\s]+?(?:(?P<space>\s+)(?=\S)|(?<=[\u3040-\u30ff\u3400-\u9fff])(?=[。！？；，、：]))"
)
_PAIRS = (("<", ">"), ("[", "]"), ("(", ")"), ("{", "}"))
_TWINS = ("**", "__", "`", "~~")
_FIGURES = re.compile(r"[\d$€£¥%#&@+=]\W*\Z")
# What opens and does not close within so many characters is no markup.
MAX_SEGMENT_CHARS = 200


class TextFeed:
    """`prepare` makes text speakable, `pronunciations` are words and how to say them, `pauses`
    bounds of pause tags in seconds (one, all), or None where they are text.
    """

    def __init__(
        self,
        prepare: Callable[[str], str],
        pronunciations: Mapping[str, str],
        pauses: tuple[float, float] | None,
    ) -> None:
        self._prepare, self._pauses = prepare, pauses
        self._begins = _beginnings(pronunciations)
        self._text, self._segment = "", ""
        self._has_space = True  # in front of the segment
        self._is_first = True
        self._paused_s = 0.0

    @property
    def held(self) -> str:
        return self._segment + self._text

    def push(self, text: str) -> Iterator[Part]:
        """Segments and pauses that no later text can change."""
        self._text += text
        at = 0
        while match := _WORD.match(self._text, at):
            at = match.end()
            self._segment += match[0]
            if self._is_whole():
                yield from self._take()
        self._text = self._text[at:]

    def close(self) -> Iterator[Part]:
        """The rest; the text ends here."""
        self._segment, self._text = self._segment + self._text, ""
        yield from self._take()

    def _is_whole(self) -> bool:
        text = self._segment
        if len(text) >= MAX_SEGMENT_CHARS:
            return True
        if any(text.count(a) > text.count(b) for a, b in _PAIRS):
            return False
        if any(text.count(mark) % 2 for mark in _TWINS) or _FIGURES.search(text.rstrip()):
            return False
        words = text.lower().split()
        return not any(tuple(words[i:]) in self._begins for i in range(len(words)))

    def _take(self) -> Iterator[Part]:
        segment, self._segment = self._segment, ""
        spaced = self._has_space or segment[:1].isspace()
        self._has_space = segment[-1:].isspace()
        if "\n" in segment[len(segment.rstrip()) :]:
            segment = end_line(segment.strip())
        for part in self._parts(segment):
            if isinstance(part, float):
                self._paused_s += part
                self._is_first = True
                yield part
            elif said := self._prepare(part).strip():
                yield said if self._is_first or not spaced else f" {said}"
                self._is_first, spaced = False, True

    def _parts(self, segment: str) -> list[Part]:
        """A tag that cannot be read, or is too long, is text: no turn that is spoken ends by it."""
        if self._pauses is None:
            return [segment]
        longest_s, total_s = self._pauses
        try:
            return split_pauses(segment, longest_s, total_s - self._paused_s)
        except ApiError:
            return [segment]


def _beginnings(pronunciations: Mapping[str, str]) -> frozenset[tuple[str, ...]]:
    """The first words of everything that has several."""
    every = [tuple(word.lower().split()) for word in pronunciations]
    return frozenset(words[:n] for words in every for n in range(1, len(words)))
