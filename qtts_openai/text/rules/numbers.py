# ruff: noqa: RUF001
"""Figures that stand alone."""

import re
from itertools import product

from qtts_openai.text.rules.rule import Rule, figure_pattern
from qtts_openai.text.vocabulary import Vocabulary, ordinal, year

_ENDINGS = ("st", "nd", "rd", "th")
_NTH = tuple(map("".join, product("0123456789", _ENDINGS)))


def figures(words: Vocabulary) -> list[Rule]:
    figure, number = figure_pattern(words), words.number

    def say(match: re.Match[str]) -> str:
        text, start, end = match.string, match.start(), match.end()
        before = " " if start and text[start - 1].isalpha() else ""
        return f"{before}{words.say(match[0])}{' ' if text[end : end + 1].isalpha() else ''}"

    def version(match: re.Match[str]) -> str:
        return f" {words.dot if words.code != 'en' else 'point'} ".join(
            words.say(part) for part in match[0].split(".")
        )

    rules: list[Rule] = [
        Rule(re.compile(r"(?<![\w.])\d+(?:\.\d+){2,}(?![\w.]*\d)"), version, "."),
        Rule(re.compile(r"(?<![\w)\].,])[-−](?=\d)"), lambda m: f"{words.minus} ", "-−"),
        Rule(re.compile(r"(?<=\d) ?\*\*? ?(?=\d)"), lambda m: f" {words.signs['×']} ", "*"),
        Rule(re.compile(r"~ ?(?=\d)"), lambda m: f"{words.about} ", "~"),
        Rule(re.compile(rf"(?:\b{number} )?#(?=\d)", re.I), lambda m: f"{number} ", "#"),
    ]
    if words.code == "en":
        rules += _english_figures(words)
    return [*rules, Rule(re.compile(figure), say)]


def _english_figures(words: Vocabulary) -> list[Rule]:
    def nth(match: re.Match[str]) -> str:
        return ordinal(int(words.value(match[1])), "en")

    def part(match: re.Match[str]) -> str:
        above, below = int(match[1]), int(match[2])
        if not above < below <= 20:
            return f"{words.say(match[1])} {words.slash} {words.say(match[2])}"
        name = {2: "half", 4: "quarter"}.get(below) or ordinal(below, "en")
        return f"{words.say(match[1])} {name}{'s' if above > 1 else ''}"

    def nearby_year(match: re.Match[str]) -> str:
        return year(int(match[1]), "en")

    return [
        Rule(re.compile(r"\b24/7\b"), lambda m: "twenty-four seven", "/"),
        Rule(re.compile(r"(?<![\w/.,])(\d{1,9})/(\d{1,9})(?![\w/]|[.,]\d)"), part, "/"),
        Rule(re.compile(r"(?<=\d):(?=\d)"), lambda m: f" {words.to} ", ":"),
        Rule(re.compile(rf"\b(\d[\d,]{{0,11}})(?:{'|'.join(_ENDINGS)})\b"), nth, _NTH),
        Rule(re.compile(r"(?<![\w.,])(1[1-9]\d\d|20\d\d)(?!\w|[.,]\d)"), nearby_year),
    ]
