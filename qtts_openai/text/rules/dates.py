# ruff: noqa: RUF001
"""Dates, times of day, decades."""

import re

from qtts_openai.text.rules.rule import Rule
from qtts_openai.text.vocabulary import Vocabulary, ordinal, vocabularies, year


def dates(words: Vocabulary) -> list[Rule]:
    def say(day: int, month: int, year_: int) -> str:
        return words.date.format(
            day=words.say(str(day)),
            ordinal=ordinal(day, words.code),
            month=words.months[month - 1],
            year=_year(year_, words),
        )

    def iso(match: re.Match[str]) -> str:
        year_, month, day = map(int, match.groups())
        return say(day, month, year_) if _is_date(day, month) else match[0]

    def local(match: re.Match[str]) -> str:
        first, second, year_ = int(match[1]), int(match[3]), int(match[4])
        day_first = words.day_first or first > 12 or match[2] == "."
        day, month = (first, second) if day_first else (second, first)
        return say(day, month, year_) if _is_date(day, month) else match[0]

    def named(match: re.Match[str]) -> str:
        month = next(name for name in words.months if name.startswith(match[1][:3]))
        return f"{month} {ordinal(int(match[2]), words.code)}"

    def time(match: re.Match[str]) -> str:
        return _time(match, words)

    rules: list[Rule] = [
        Rule(re.compile(r"(?<![\w-])(\d{4})-(\d\d)-(\d\d)(?![\w-])"), iso, "-"),
        Rule(re.compile(r"(?<![\w/.])(\d\d?)([/.])(\d\d?)\2(\d{4})(?![\w/])"), local, "/."),
        Rule(
            re.compile(
                r"(?<![\w:.,])(\d\d?):([0-5]\d)(?::[0-5]\d)?(?: ?([ap])\.?m\b)?(?![\w:])", re.I
            ),
            time,
            ":",
        ),
    ]
    if words.code == "en":
        months = "|".join([*words.months, "Jan", "Feb", "Mar", "Apr", "Jun", "Jul", "Aug", "Sept?"])
        pattern = rf"\b({months}|Oct|Nov|Dec)\.? ([0-3]?\d)(?![\w:%]|[.,]\d)"
        rules += [
            Rule(re.compile(pattern), named, [month[:3] for month in words.months]),
            Rule(re.compile(r"\b(\d\d?) ?([ap])\.?m\b(?:\.(?!\s*\Z))?", re.I), _half_day, "mM"),
        ]
    return rules


def _is_date(day: int, month: int) -> bool:
    return 1 <= day <= 31 and 1 <= month <= 12


def _time(match: re.Match[str], words: Vocabulary) -> str:
    hour, minute = match[1], match[2]
    if int(hour) > 24:
        return match[0]
    half = f" {match[3].upper()}M" if match[3] else ""
    spoken_hour = words.say(hour.lstrip("0") or "0")
    if minute == "00":
        return spoken_hour + half if half else _hour(int(hour), words)
    oh = "oh " if words.code == "en" and minute[0] == "0" else ""
    return words.clock.format(h=spoken_hour, m=oh + words.say(minute.lstrip("0"))) + half


def _hour(hour: int, words: Vocabulary) -> str:
    if words.code == "en" and hour > 12:
        return f"{words.say(str(hour))} hundred"
    return words.hour.format(h=words.say(str(hour)))


def _half_day(match: re.Match[str]) -> str:
    return f"{vocabularies()['english'].say(match[1])} {match[2].upper()}M"


def _year(value: int, words: Vocabulary) -> str:
    return year(value, words.code) if words.code in ("en", "de") else words.say(str(value))


def decades(words: Vocabulary) -> list[Rule]:
    if words.code != "en":
        return []

    def decade(match: re.Match[str]) -> str:
        first, tens = match[1] or "", int(match[2])
        said = words.say(str(tens * 10)) if tens else "hundred"
        many = said[:-1] + "ies" if said.endswith("y") else said + "s"
        return f"{words.say(first)} {many}" if first else many

    pattern = r"(?<![\w.,])['’]?(\d\d)?([1-9]|(?<=\d)0)0['’]?s\b"
    return [Rule(re.compile(pattern), decade, ("0s", "0's", "0’s"))]
