# ruff: noqa: RUF001
"""Marks that a small voice has heard little of -> the commas and stops that mean the same pause."""

import re

_REPEATED = re.compile(r"([!?])\1+")
_ELLIPSIS = re.compile(r"(?<=[\w\"'”’)]) ?(?:\.{3,}+|…++)(?:(\s+(?:[^\W\d_A-Z]|I\b))|(?=\W|\Z))")
# Between words, so neither a hyphen nor a minus.
_DASH = re.compile(r"(?<=([\w,;:.!?\"'”’)%]))(?: ?—+ ?| (?:[–-]|--) )(?=[\w\"'“‘(])")
_BULLET = re.compile(r"(?:[–—-]+ )+")
_SOME_DASH = re.compile("[—–-](?:(?<=—)|(?<= .)[ -])")
_ASIDE = re.compile(r"(?:(?<=(\S) )|(?m:^))\(([^()\n]+)\)([^\w\s]?)(?=(\s|\Z))")
_SPACE_BEFORE = re.compile(r"  *(?=[,;:!?]|\.(?!\.))")
_STOPS = (".", "!", "?", ",", ";", ":")
_NO_COMMA = (*_STOPS, ")", None)


def plain_marks(text: str) -> str:
    """`Hm... it (the cake) is gone — all of it!!` -> `Hm, it, the cake, is gone, all of it!`"""
    if "..." in text or "…" in text:
        text = _ELLIPSIS.sub(lambda match: f",{match[1]}" if match[1] else ".", text)
    if _SOME_DASH.search(text):
        text = _DASH.sub(lambda match: " " if match[1] in _STOPS else ", ", text)
    text = _ASIDE.sub(_aside, text) if "(" in text else text
    text = _REPEATED.sub(r"\1", _SPACE_BEFORE.sub("", text)).strip()
    bullet = _BULLET.match(text)
    return text[bullet.end() :] if bullet else text


def _aside(match: re.Match[str]) -> str:
    before, inside, mark, after = match.groups()
    inside = inside.strip()
    begin = "" if before in _NO_COMMA else ", "
    if mark == "." and inside.endswith(("!", "?")):
        return begin + inside
    end = mark or ("," if after == " " and not inside.endswith(_STOPS) else "")
    return begin + (inside.rstrip(".!?,;:") if mark in _STOPS else inside) + end


def one_line(text: str) -> str:
    """Lines that end with a mark need no line end."""
    return " ".join(text.split())
