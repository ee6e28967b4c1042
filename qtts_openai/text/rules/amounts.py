# ruff: noqa: RUF001
"""Money, measures, fractions, and spans of them."""

import re

from qtts_openai.text.rules.rule import DASH, DASHES, Rule, any_of, figure_pattern, rule
from qtts_openai.text.vocabulary import Vocabulary


def money(words: Vocabulary) -> list[Rule]:
    signs, scales = any_of(words.currencies), any_of(words.scales)
    figure, alone = figure_pattern(words), figure_pattern(words, r"[\w.,]")

    def before(match: re.Match[str]) -> str:
        return _amount(match[1], match[2], match[3], words)

    def after(match: re.Match[str]) -> str:
        return _amount(match[3], match[1], match[2], words)

    def span(match: re.Match[str]) -> str:
        return f"{words.say(match[2])} {words.to} {match[1]}{match[3]}"

    return [
        rule(rf"(?:US|A|C)(?=(?:{signs}) ?\d)", lambda match: ""),
        rule(rf"({signs})({figure}){DASH}(?:{signs})?({figure})", span),
        rule(rf"({signs}) ?({figure})(?: ?({scales})\b)?", before),
        rule(rf"({alone})(?: ?({scales}))? ?({signs})(?!\w)", after, signs),
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
    units, fractions = any_of(words.units), any_of(words.fractions)
    first, begin = figure_pattern(words, r"[\w/.,-]"), "".join({unit[0] for unit in words.units})
    figure, alone = figure_pattern(words), figure_pattern(words, r"[\w.,]")

    def span(match: re.Match[str]) -> str:
        unit = match[2] or ""
        return f"{match[1]}{unit if unit not in '%°' else ''} {words.to} {match[3]}"

    def measure(match: re.Match[str]) -> str:
        one, _, many = words.units[match[2]].partition("|")
        return f"{words.say(match[1])} {one if match[1] == '1' or not many else many}"

    def mixed(match: re.Match[str]) -> str:
        joined = words.fractions[match[2]].replace("one half", "a half").replace("one ", "a ")
        return " ".join(filter(None, (words.say(match[1]), words.and_, joined)))

    return [
        rule(rf"({first})(%|°)?{DASH}(?=\d)({figure})(?![\w-]*-\d|/)", span, f"[{DASHES}]"),
        rule(r"[-−](?<![\w)\].,].)(?=\d)", lambda match: f"{words.minus} "),
        rule(rf"(\d(?<![\w/.,]\d)\d*) ?({fractions})(?![\d/])", mixed, fractions),
        rule(rf"({fractions})(?<![\w/.,].)(?![\d/])", lambda match: words.fractions[match[1]]),
        rule(rf"({alone}) ?(?=[{begin}])({units})(?![\w²³])", measure),
    ]
