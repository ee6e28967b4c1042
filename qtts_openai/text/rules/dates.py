# ruff: noqa: RUF001
"""Dates, times of day, decades."""

import re
from functools import lru_cache

from qtts_openai.text.rules.ordinals import german, word_before
from qtts_openai.text.rules.rule import DASH, Rule, Say, rule
from qtts_openai.text.vocabulary import Vocabulary, ordinal, vocabularies, year


def dates(words: Vocabulary) -> list[Rule]:
    @lru_cache(maxsize=2048)
    def say(day: int, month: int, year_: int, before: str = "") -> str:
        return words.date.format(
            day=words.say(str(day)),
            ordinal=german(day, before, "r") if words.code == "de" else ordinal(day, words.code),
            month=words.months[month - 1],
            year=_year(year_, words),
        )

    def iso(match: re.Match[str]) -> str:
        year_, month, day = int(match[1]), int(match[3]), int(match[4])
        if not _is_date(day, month):
            return match[0]
        return say(day, month, year_, word_before(match)) + (", " if match[5] else "")

    def local(match: re.Match[str]) -> str:
        first, second, year_ = int(match[1]), int(match[3]), int(match[4])
        day_first = words.day_first or first > 12 or match[2] == "."
        day, month = (first, second) if day_first else (second, first)
        return say(day, month, year_, word_before(match)) if _is_date(day, month) else match[0]

    def time(match: re.Match[str]) -> str:
        return _time(match, words)

    rules = [
        rule(r"(\d(?<![\w/-]\d)\d{3})([-/])(\d\d)\2(\d\d)(?:(T)(?=\d\d:)|(?![\w/-]))", iso, "[-/]"),
        rule(r"(\d(?<![\w/.]\d)\d?)([/.-])(\d\d?)\2(\d{4})(?![\w/-])", local, "[/.-]"),
        rule(
            rf"(\d(?: ?[apAP]\.?[mM]\b\.?|h)?){DASH}(?=\d{{1,2}}(?:h|:[0-5]\d| ?[apAP]\.?[mM]\b))",
            lambda match: f"{match[1]} {words.to} ",
            "[:mMh]",
        ),
        rule(
            r"(\d(?<![\w:.,]\d)\d?):([0-5]\d)(?::([0-5]\d)(?:\.\d{3})?)?(?: ?([apAP])\.?[mM]\b)?"
            rf"(?: ?(?:{words.after_time})\b)?(Z\b)?(?![\w:])",
            time,
            ":",
        ),
    ]
    if words.code == "de":
        rules.append(rule(r"(\d(?<![\w:.,/-]\d)\d?)\.([01]?\d)\.(?![\w.])", _day_and_month(words)))
    if words.code in ("fr", "es", "it", "pt_BR"):
        rules.append(rule(r"(\d(?<![\w:.,]\d)\d?) ?h ?([0-5]\d)()()()(?![\w:])", time, "h"))
    if words.code == "en":
        # Before the others, which say months themselves.
        rules[:0] = [_named(words), _day_first(words)]
        rules.append(
            rule(r"(\d(?<!\w\d)\d?) ?([apAP])\.?[mM]\b(?:\.(?! *(?m:$)))?", _half_day, "[mM]")
        )
    return rules


def _named(words: Vocabulary) -> Rule:
    months = {"Sept": "September"} | {n: m for m in words.months for n in (m, m[:3])}

    def say(match: re.Match[str]) -> str:
        month = months.get(match[1])
        if not month:
            return match[0]
        last = f" {words.to} {ordinal(int(match[3]), words.code)}" if match[3] else ""
        return f"{month} {ordinal(int(match[2]), words.code)}{last}"

    return rule(
        rf"([A-Z](?<!\w.)[a-z]{{2,8}})\.? ([0-3]?\d)(?:{DASH}([0-3]?\d))?(?![\w:%/]|[.,]\d)", say
    )


def _day_and_month(words: Vocabulary) -> Say:
    """`3.5.` is a day."""

    def say(match: re.Match[str]) -> str:
        day, month = int(match[1]), int(match[2])
        if not _is_date(day, month):
            return match[0]
        return f"{german(day, word_before(match), 'r')} {words.months[month - 1]}"

    return say


def _day_first(words: Vocabulary) -> Rule:
    """`5 January` -> `January fifth`."""
    months = "|".join(words.months)

    def say(match: re.Match[str]) -> str:
        day = ordinal(int(match[1]), "en")
        return f"{day} of {match[2]}" if word_before(match) == "the" else f"{match[2]} {day}"

    return rule(rf"\b(?<![.,:/-])([1-3]?\d) ({months})\b", say, months)


def _is_date(day: int, month: int) -> bool:
    return 1 <= day <= 31 and 1 <= month <= 12


def _time(match: re.Match[str], words: Vocabulary) -> str:
    hour, minute = match[1], match[2]
    if int(hour) > 24:
        return match[0]
    half = f" {match[4].upper()}M" if match[4] else ""
    spoken_hour = words.say(hour.lstrip("0") or "0")
    if minute == "00":
        said = spoken_hour if half else _hour(int(hour), words)
    else:
        oh = "oh " if words.code == "en" and minute[0] == "0" else ""
        said = words.clock.format(h=spoken_hour, m=oh + words.say(minute.lstrip("0")))
    if seconds := (match[3] or "").lstrip("0"):
        counted = words.counted(seconds, *words.second.split("|"))
        said = " ".join(filter(None, (said, words.and_, counted)))
    return said + half + (" UTC" if match[5] else "")


def _hour(hour: int, words: Vocabulary) -> str:
    if words.code == "en" and hour in (0, 24):
        return "midnight"
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
