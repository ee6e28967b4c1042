# ruff: noqa: RUF001
"""Money, measures, fractions, and spans of them."""

import re

from qtts_openai.text.rules.rule import DASH, DASHES, Rule, figure_pattern
from qtts_openai.text.vocabulary import Vocabulary


def money(words: Vocabulary) -> list[Rule]:
    signs = "|".join(map(re.escape, sorted(words.currencies, key=len, reverse=True)))
    scales = "|".join(map(re.escape, sorted(words.scales, key=len, reverse=True)))
    figure = figure_pattern(words)

    def before(match: re.Match[str]) -> str:
        return _amount(match[1], match[2], match[3], words)

    def after(match: re.Match[str]) -> str:
        return _amount(match[3], match[1], match[2], words)

    def span(match: re.Match[str]) -> str:
        return f"{words.say(match[2])} {words.to} {match[1]}{match[3]}"

    return [
        Rule(re.compile(rf"({signs})({figure}){DASH}(?:{signs})?({figure})"), span, DASHES),
        Rule(
            re.compile(rf"(?:US|A|C)?({signs}) ?({figure})(?: ?({scales})\b)?"),
            before,
            words.currencies,
        ),
        Rule(
            re.compile(rf"(?<![\w.,])({figure})(?: ?({scales}))? ?({signs})(?!\w)"),
            after,
            words.currencies,
        ),
    ]


def _amount(sign: str, figure: str, scale: str | None, words: Vocabulary) -> str:
    one, many, *parts = words.currencies[sign].split("|")
    value = words.value(figure)
    whole, _, cents = value.partition(".")
    if scale is not None:
        return f"{words.say(figure)} {words.scales[scale]} {many}"
    if len(cents) != 2 or not parts:
        return f"{words.say(figure)} {one if value == '1' else many}"
    unit = f"{words.say(whole)} {one if whole == '1' else many}"
    if cents == "00":
        return unit
    small = f"{words.say(cents.lstrip('0'))} {parts[0] if cents == '01' else parts[1]}"
    return small if whole == "0" else " ".join(filter(None, (unit, words.and_, small)))


def measures(words: Vocabulary) -> list[Rule]:
    units = "|".join(map(re.escape, sorted(words.units, key=len, reverse=True)))
    figure = figure_pattern(words)

    def span(match: re.Match[str]) -> str:
        unit = match[2] or ""
        return f"{match[1]}{unit if unit not in '%°' else ''} {words.to} {match[3]}"

    def measure(match: re.Match[str]) -> str:
        one, _, many = words.units[match[3]].partition("|")
        minus = f"{words.minus} " if match[1] else ""
        return f"{minus}{words.say(match[2])} {one if match[2] == '1' or not many else many}"

    def fraction(match: re.Match[str]) -> str:
        said = words.fractions[match[2]]
        if not match[1]:
            return said
        joined = said.replace("one half", "a half").replace("one ", "a ")
        return " ".join(filter(None, (words.say(match[1]), words.and_, joined)))

    fractions = "|".join(map(re.escape, words.fractions))
    return [
        Rule(
            re.compile(rf"(?<![\w/.,-])({figure})(%|°)?{DASH}(?=\d)({figure})(?![\w-]*-\d|/)"),
            span,
            DASHES,
        ),
        Rule(
            re.compile(rf"(?<![\w/.,])(?:(\d+) ?)?({fractions})(?![\d/])"),
            fraction,
            words.fractions,
        ),
        Rule(re.compile(rf"(?<![\w.,])([-−])?({figure}) ?({units})(?![\w²³])"), measure),
    ]
