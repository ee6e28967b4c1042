# ruff: noqa: RUF001
"""Money, measures, fractions, and spans of them."""

import re
import unicodedata

from qtts_openai.text.rules.rule import DASH, DASHES, Rule, Say, any_of, figure_pattern, rule
from qtts_openai.text.vocabulary import Vocabulary

_CODES = {"USD": "$", "EUR": "€", "GBP": "£", "JPY": "¥", "INR": "₹", "KRW": "₩", "RUB": "₽"}
_CODES |= {"BRL": "R$", "BTC": "₿"}


def grouped(words: Vocabulary) -> list[Rule]:
    """Figures that are written as no language here says them: `1 000 000`, `1_000`, `.5`."""
    rules = [rule(r"_(?<=\d_)(?=\d{3})", lambda match: "")]
    if words.group != " ":
        spaced = r"[1-9](?<![\d+] .)(?<![\w.,+-].)\d{0,2}(?: \d{3}){2,}(?! ?\d)"
        rules.append(rule(spaced, lambda match: match[0].replace(" ", "")))
    if words.point == ".":
        rules.append(rule(r"\.(?<![\w.)\]].)(?=\d)", lambda match: "0."))
    return rules


def money(words: Vocabulary) -> list[Rule]:
    named = words.currencies | {
        code: words.currencies[sign] for code, sign in _CODES.items() if sign in words.currencies
    }
    signs, scales = any_of(named), any_of(words.scales)
    figure, alone = figure_pattern(words), figure_pattern(words, r"[\w.,]")

    def before(match: re.Match[str]) -> str:
        said = _amount(named[match[1]], match[2], match[3], words)
        return said + (_per(match[4], words) if match[4] else "")

    def after(match: re.Match[str]) -> str:
        return _amount(named[match[3]], match[1], match[2], words)

    def span(match: re.Match[str]) -> str:
        return f"{words.say(match[2])} {words.to} {match[1]}{match[3]}"

    return [
        rule(r"\b(?:US|AU?|CA?|NZ|HK|S)(?=\$ ?\d)", lambda match: "", r"\$"),
        rule(rf"[-−](?<![\w)\].,].)(?=(?:{signs}) ?\d)", lambda match: f"{words.minus} "),
        rule(rf"({signs})[-−](?=\d)", lambda match: f"{words.minus} {match[1]}"),
        rule(r"/(?<=\d/)([a-z]{2,10})\b", lambda match: _per(match[1], words)),
        rule(rf"({signs})({figure}){DASH}(?:{signs})?({figure})", span),
        rule(rf"({signs}) ?({figure})(?: ?({scales})\b)?(?:/([a-z]{{2,10}})\b)?", before),
        rule(rf"({alone})(?: ?({scales}))? ?({signs})(?!\w)", after, signs),
    ]


def _per(unit: str, words: Vocabulary) -> str:
    return f" {words.per} {words.units.get(unit, unit).partition('|')[0]}"


def _amount(named: str, figure: str, scale: str | None, words: Vocabulary) -> str:
    one, many, *parts = named.split("|")
    value = words.value(figure)
    whole, _, cents = value.partition(".")
    if scale is not None:
        return f"{words.say(figure)} {words.scales[scale]} {many}"
    if len(cents) != 2 or not parts:
        return words.counted(figure, one, many)
    unit = words.counted(whole, one, many)
    if cents == "00":
        return unit
    small = words.counted(cents.lstrip("0"), *parts)
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
        return words.counted(match[1], one, many or one) + (
            _per(match[3], words) if match[3] else ""
        )

    def mixed(match: re.Match[str]) -> str:
        joined = words.fractions[match[2]].replace("one half", "a half").replace("one ", "a ")
        return " ".join(
            filter(
                None, (words.one if match[1] == "1" else words.say(match[1]), words.and_, joined)
            )
        )

    return [
        rule(rf"({first})(%|°)?{DASH}(?=\d)({figure})(?![\w-]*-\d|/)", span, f"[{DASHES}]"),
        *(_feet_and_hours(words) if words.code == "en" else []),
        rule(r"[-−](?<![\w)\].,].)(?=\d)", lambda match: f"{words.minus} "),
        rule(r"[1-9](?<![\w/.,-]\d)/\d(?![\w/]|[.,]\d)", _fraction(words), "/"),
        rule(rf"(\d(?<![\w/.,]\d)\d*) ?({fractions})(?![\d/])", mixed, fractions),
        rule(rf"({fractions})(?<![\w/.,].)(?![\d/])", lambda match: words.fractions[match[1]]),
        rule(rf"({alone}) ?(?=[{begin}])({units})(?:/([a-zA-Z]{{2,10}}))?(?![\w²³])", measure),
    ]


def _fraction(words: Vocabulary) -> Say:
    """`1/2` -> ½, where the language has a word for it."""
    signs = {
        unicodedata.normalize("NFKC", sign).replace("⁄", "/"): sign for sign in words.fractions
    }
    return lambda match: signs.get(match[0], match[0])


def _feet_and_hours(words: Vocabulary) -> list[Rule]:
    return [
        rule(
            r"(\d(?<![\w.,]\d)\d?)['′’] ?(\d\d?)(?:[\"″”]|''|’’)",
            lambda match: f"{match[1]} ft {words.counted(match[2], 'inch', 'inches')}",
        ),
        rule(
            r"(\d) ?h(?:rs?)? ?(\d\d?) ?m(?:in)?(?![\w²³])",
            lambda match: f"{match[1]} h {match[2]} min",
        ),
        rule(r"(\d) ?m (?=\d\d? ?s\b)", lambda match: f"{match[1]} min "),
    ]
