# ruff: noqa: RUF001
"""Dates, times of day, decades."""

import re
from functools import lru_cache

from qtts_openai.text.rules.rule import Rule, rule
from qtts_openai.text.vocabulary import Vocabulary, ordinal, vocabularies, year


def dates(words: Vocabulary) -> list[Rule]:
    @lru_cache(maxsize=2048)
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

    def time(match: re.Match[str]) -> str:
        return _time(match, words)

    rules = [
        rule(r"(\d(?<![\w-]\d)\d{3})-(\d\d)-(\d\d)(?![\w-])", iso, "-"),
        rule(r"(\d(?<![\w/.]\d)\d?)([/.])(\d\d?)\2(\d{4})(?![\w/])", local, "[/.]"),
        rule(
            r"(\d(?<![\w:.,]\d)\d?):([0-5]\d)(?::[0-5]\d)?(?: ?([apAP])\.?[mM]\b)?(?![\w:])",
            time,
            ":",
        ),
    ]
    if words.code == "en":
        # Before the others, which say months themselves.
        rules.insert(0, _named(words))
        rules.append(
            rule(r"(\d(?<!\w\d)\d?) ?([apAP])\.?[mM]\b(?:\.(?! *(?m:$)))?", _half_day, "[mM]")
        )
    return rules


def _named(words: Vocabulary) -> Rule:
    months = {"Sept": "September"} | {n: m for m in words.months for n in (m, m[:3])}

    def say(match: re.Match[str]) -> str:
        month = months.get(match[1])
        return f"{month} {ordinal(int(match[2]), words.code)}" if month else match[0]

    return rule(r"([A-Z](?<!\w.)[a-z]{2,8})\.? ([0-3]?\d)(?![\w:%/]|[.,]\d)", say)


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
        first, tens = match[1][:-2], int(match[1][-2])
        said = words.say(str(tens * 10)) if tens else "hundred"
        many = said[:-1] + "ies" if said.endswith("y") else said + "s"
        return f"{words.say(first)} {many}" if first else many

    return [
        rule(r"['’](?<![\w.,].)(?=[1-9]0['’]?s\b)", lambda match: ""),
        rule(r"(\d(?<![\w.,]\d)(?:(?<=[1-9])0|\d\d0))['’]?s\b", decade),
    ]
