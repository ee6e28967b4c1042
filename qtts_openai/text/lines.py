# ruff: noqa: RUF001
"""Lines: those of wrapped prose are joined, and a line that ends without a mark gets one."""

import re
from itertools import pairwise

MIN_WRAP = 45  # no prose is wrapped at fewer characters
_CLOSING = "\"'”’»」』)]}*_"
_ADDED = ".。।"
_MARKS = re.compile(r"[\W_]")
_WIDE = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uff00-\uffef]")
_DEVANAGARI = re.compile(r"[\u0900-\u097f]")


def join_wrapped(text: str) -> str:
    """Paragraphs of which every line was broken because the next word did not fit."""
    return "\n\n".join(map(_joined, text.split("\n\n")))


def _joined(paragraph: str) -> str:
    lines = paragraph.split("\n")
    if len(lines) < 2:
        return paragraph
    # Without the marks that end_lines adds: joined or not, it is so the next time, too.
    bare = [line.rstrip(_ADDED) for line in lines]
    width = max(map(len, bare))
    if width < MIN_WRAP:
        return paragraph
    pairs = pairwise(bare)
    if all(len(line) + 1 + len(after.split(" ", 1)[0]) > width for line, after in pairs):
        return " ".join(lines)
    return paragraph


def end_lines(text: str) -> str:
    """Every line but the last ends with a mark; the last one is as the user wrote it."""
    *lines, last = text.split("\n")
    return "\n".join([*map(end_line, lines), last])


def end_last_line(text: str) -> str:
    *lines, last = text.split("\n")
    return "\n".join([*lines, end_line(last)])


def end_line(line: str) -> str:
    core = line.rstrip(_CLOSING)
    if not core or (
        _MARKS.match(core[-1]) and not core[-1].isalnum() and core[-1] not in "%$€£°+#&"
    ):
        return line
    if _WIDE.match(core[-1]):
        return line + "。"
    return line + ("।" if _DEVANAGARI.match(core[-1]) else ".")
