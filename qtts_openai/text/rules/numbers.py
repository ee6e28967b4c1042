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
        if words.group == "." and re.fullmatch(r"\d{1,3}(?:\.\d{3})+", match[0]):
            return match[0]  # a number
        before = " " if match.string[: match.start()][-1:].isalpha() else ""
        point = words.dot if words.code != "en" else "point"
        return before + f" {point} ".join(map(words.say, match[0].split(".")))

    def power(match: re.Match[str]) -> str:
        return _power(match[1] or match[2], words)

    def raised(match: re.Match[str]) -> str:
        exponent = match[0].translate(_RAISED)
        if exponent in ("2", "3") or (
            exponent[-1] not in "+-" and _BASE.search(match.string[: match.start()][-2:])
        ):
            return _power(exponent, words)
        said = exponent.replace("-", f" {words.minus} ").replace("+", f" {words.signs['+']} ")
        return f" {said} "

    def hash_sign(match: re.Match[str]) -> str:
        before = match.string[: match.start()]
        return "" if re.search(rf"(?i)\b{number} \Z", before[-len(number) - 2 :]) else f"{number} "

    rules = [
        rule(r"\d(?<![\d.]\d)\d*(?:\.\d+){2,}(?![\w.]*\d)", version, r"\.\d+\."),
        rule(
            r"(?:\^(?<=[\w)]\^)|\*\*(?<=[\w)]\*\*)) ?"
            rf"(?:\(([^()\n]{{1,40}})\)|((?:{words.minus} |[-−])?\w+))",
            power,
            r"\^|\*\*",
        ),
        rule(r"[⁺⁻⁰¹²³⁴-⁹ⁿ]+", raised),
        rule(
            r"(\d(?<![^\W\d]\d))[eE]([+-]?\d+)(?!\w)",
            lambda m: f"{m[1]} {words.signs['×']} 10" + _power(m[2].lstrip("+"), words),
            r"\d[eE]",
        ),
        rule(r"(?<=\d) ?\* ?(?=\w)| \* (?=[\w(])", lambda m: f" {words.signs['×']} ", r"\*"),
        rule(r"~ ?(?=\d)", lambda m: f"{words.about} "),
        rule(r"#(?=\d)", hash_sign),
    ]
    if words.code == "en":
        rules += _english_figures(words)
    if words.code == "de":
        rules += _german_figures(words)
    return [*rules, rule(figure, say)]


_KNOWN = {
    "24/7": "twenty-four seven",
    "50/50": "fifty fifty",
    "9/11": "nine eleven",
    "7/11": "seven eleven",
}
_BASE = re.compile(r"(?<![^\W\d])\w\Z|\d\Z|\)\Z")
_RAISED = str.maketrans("⁺⁻⁰¹²³⁴⁵⁶⁷⁸⁹ⁿ", "+-0123456789n")


def _power(exponent: str, words: Vocabulary) -> str:
    short = {"2": words.signs.get("²"), "3": words.signs.get("³")}.get(exponent)
    return f" {short}" if short else f" {words.power} {exponent}".replace("-", f"{words.minus} ")


def _german_figures(words: Vocabulary) -> list[Rule]:
    """Years in hundreds, `1990er`, and `1` before a noun."""

    def say(match: re.Match[str]) -> str:
        value = int(match[1])
        said = year(value, "de") if 1100 <= value < 2000 else words.say(match[1])
        return said + (match[2] or "")

    return [
        rule(r"(\d(?<![\w.,]\d)\d{1,3})(er)\b", say),
        rule(r"(1(?<![\w.,].)[1-9]\d\d)()(?!\w|[.,]\d)", say),
        rule(r"1(?<![\w.,/-].)(?= [A-ZÄÖÜ][a-zäöüß])", lambda match: words.one),
    ]


def _english_figures(words: Vocabulary) -> list[Rule]:
    def nth(match: re.Match[str]) -> str:
        return ordinal(int(words.value(match[1])), "en")

    def part(match: re.Match[str]) -> str:
        above, below = int(match[1]), int(match[2])
        if not above < below <= 20:
            return f"{words.say(match[1])} {words.slash} {words.say(match[2])}"
        name = {2: "half", 4: "quarter"}.get(below) or ordinal(below, "en")
        return f"{words.say(match[1])} {name}{'s' if above > 1 else ''}"

    def known(match: re.Match[str]) -> str:
        return _KNOWN[match[0]]

    def out_of(match: re.Match[str]) -> str:
        """`4.5/5`, `10/10`."""
        text, at = match.string, match.start()
        before, after = re.search(r"[\d.]+\Z", text[max(0, at - 9) : at]), text[match.end() :]
        below = re.match(r"\d{1,9}(?![\w/.])", after)
        if before and below and ("." in before[0].strip(".") or before[0] == below[0]):
            return " out of "
        return match[0]

    def nearby_year(match: re.Match[str]) -> str:
        return year(int(match[1]), "en")

    return [
        rule(rf"\b(?<![/.])(?:{'|'.join(_KNOWN)})(?![\w/])", known, "/"),
        rule(r"/(?<=\d/)(?<=\.\d/|\d\d/)(?=\d)", out_of, "/"),
        rule(r"No\.(?<=[^\W\d_] No\.) ?(?=\d)|No\.(?<=, No\.) ?(?=\d)", lambda m: "number "),
        rule(r"(\d(?<![\w/.,]\d)\d{0,8})/(\d{1,9})(?![\w/]|[.,]\d)", part, "/"),
        rule(r":(?<=\d:)(?=\d)", lambda m: f" {words.to} "),
        rule(r"(\d(?<!\w\d)[\d,]{0,11})(?:st|nd|rd|th)\b", nth),
        rule(r"([12](?<![\w.,].)(?:(?<=1)[1-9]|(?<=2)0)\d\d)(?!\w|[.,]\d)", nearby_year),
    ]
