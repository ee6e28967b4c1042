# ruff: noqa: RUF001
"""Addresses of pages and mail, and telephone numbers."""

import re

from qtts_openai.text.rules.rule import Rule, rule
from qtts_openai.text.vocabulary import Vocabulary

_URL = r"[hfwHFW](?i:(?<=h)ttps?://|(?<=f)tp://|(?<=w)ww\.)[^\s<>\"]+[^\s<>\".,;:!?)\]}'’*_]"
_ENDS = r"(?i:com|org|net|io|dev|edu|gov|co\.uk|de|ai|app)\b"
_DOMAIN = rf"\b(?:[a-zA-Z0-9-]{{1,63}}\.){{1,4}}{_ENDS}(?:/[^\s<>\"]*[\w/])?"
_EMAIL = r"\b[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,4}\b"
# Abroad, in brackets, with the 1 of America, of seven figures, with a zero in front.
_PHONE = (
    r"[+(\d](?<![\w.,$€£/-].)"
    r"(?:(?<=\+)\d{1,3}[ .-]?(?:\(?\d{1,4}\)?[ .-]?){1,4}\d{2,4}"
    r"|(?<=\()\d{2,5}\) ?\d{3,5}[ .-]?\d{4}"
    r"|(?:(?<=1)[ .-]\(?\d|(?<=\d))\d\d\)?[ .-]\d{3}[ .-]\d{4}|(?<=\d)\d\d-\d{4}"
    r"|(?<=0)\d{1,5}(?!\d?-\d\d-\d{4})(?:[ -]\d{2,8}|/\d{4,8}){1,5})(?![\w-]|[.,]\d)"
)
# Of numbers that name something: cards, books, people.
_CODE = (
    r"\d(?<![\w.,$€£/-]\d)(?:\d{0,5}(?:-\d{1,7}){2,}|\d{4}-\d{4}|\d{1,3}(?: \d{2,4}){3,})(?![\w-])"
)
_SIGNS_OF_URLS = {"-": "dash", "_": "underscore", "?": "question mark", "=": "equals", "#": "hash"}


def addresses(words: Vocabulary) -> list[Rule]:
    def web(match: re.Match[str]) -> str:
        bare = re.sub(r"^[a-z]+://|^www\.", "", match[0]).removeprefix("www.").rstrip("/")
        return _spelt(bare, words)

    def mail(match: re.Match[str]) -> str:
        return _spelt(match[0], words)

    def phone(match: re.Match[str]) -> str:
        groups = re.findall(r"\d+", match[0].replace("(0)", ""))
        if len("".join(groups)) < 7:
            return match[0]
        plus = f"{words.signs['+']} " if match[0][0] == "+" else ""
        return plus + ", ".join(_group(group, words) for group in groups)

    return [
        rule(_URL, web),
        rule(_EMAIL, mail, "@"),
        rule(_DOMAIN, web, rf"\.{_ENDS}"),
        rule(_PHONE, phone),
    ]


def codes(words: Vocabulary) -> list[Rule]:
    def digits(match: re.Match[str]) -> str:
        groups = re.split("[ -]", match[0])
        if " " in match[0] and words.group == " " and {*map(len, groups[1:])} == {3}:
            return match[0]
        return ", ".join(_group(group, words) for group in groups)

    return [rule(_CODE, digits)]


def _group(group: str, words: Vocabulary) -> str:
    """In French two figures are a number."""
    in_pairs = words.code == "fr" and len(group) == 2 and group[0] != "0"
    return words.say(group) if in_pairs else words.digits(group)


def _spelt(address: str, words: Vocabulary) -> str:
    names = {".": words.dot, "@": words.at, "/": words.slash, **_SIGNS_OF_URLS}
    text = re.sub(r"[^\w]|_", lambda m: f" {names.get(m[0], words.signs.get(m[0], ''))} ", address)
    return " ".join(text.split())
