# ruff: noqa: RUF001
"""Figures that stand alone."""

import re
from functools import lru_cache

from qtts_openai.text.rules.rule import Rule, figure_pattern, rule
from qtts_openai.text.vocabulary import Vocabulary, ordinal, year


def figures(words: Vocabulary) -> list[Rule]:
    figure, number = figure_pattern(words), words.number
    cardinal = lru_cache(maxsize=8192)(words.say)

    def say(match: re.Match[str]) -> str:
        text, start, end = match.string, match.start(), match.end()
        before = " " if start and text[start - 1].isalpha() else ""
        return f"{before}{cardinal(match[0])}{' ' if text[end : end + 1].isalpha() else ''}"

    def version(match: re.Match[str]) -> str:
        return f" {words.dot if words.code != 'en' else 'point'} ".join(
            words.say(part) for part in match[0].split(".")
        )

    def hash_sign(match: re.Match[str]) -> str:
        before = match.string[: match.start()]
        return "" if re.search(rf"(?i)\b{number} \Z", before[-len(number) - 2 :]) else f"{number} "

    rules = [
        rule(r"\d(?<![\w.]\d)\d*(?:\.\d+){2,}(?![\w.]*\d)", version, r"\.\d+\."),
        rule(r"(?<=\d) ?\*\*? ?(?=\d)", lambda m: f" {words.signs['×']} ", r"\*"),
        rule(r"~ ?(?=\d)", lambda m: f"{words.about} "),
        rule(r"#(?=\d)", hash_sign),
    ]
    if words.code == "en":
        rules += _english_figures(words)
    return [*rules, rule(figure, say)]


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
        rule(r"24/7(?<!\w.{4})\b", lambda m: "twenty-four seven"),
        rule(r"(\d(?<![\w/.,]\d)\d{0,8})/(\d{1,9})(?![\w/]|[.,]\d)", part, "/"),
        rule(r":(?<=\d:)(?=\d)", lambda m: f" {words.to} "),
        rule(r"(\d(?<!\w\d)[\d,]{0,11})(?:st|nd|rd|th)\b", nth),
        rule(r"([12](?<![\w.,].)(?:(?<=1)[1-9]|(?<=2)0)\d\d)(?!\w|[.,]\d)", nearby_year),
    ]
