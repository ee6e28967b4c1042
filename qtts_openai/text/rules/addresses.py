# ruff: noqa: RUF001
"""Addresses of pages and mail, and telephone numbers."""

import re

from qtts_openai.text.rules.rule import Rule
from qtts_openai.text.vocabulary import Vocabulary

_URL = r"(?:https?://|ftp://|www\.)[^\s<>\"]+[^\s<>\".,;:!?)\]}'’*_]"
_DOMAIN = (
    r"\b(?:[a-z0-9-]{1,63}\.){1,4}(?:com|org|net|io|dev|edu|gov|co\.uk|de|ai|app)\b"
    r"(?:/[^\s<>\"]*[\w/])?"
)
_EMAIL = r"\b[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,4}\b"
_PHONE = (
    r"(?<![\w.,$€£/-])(?:\+\d{1,3}[ .-]?(?:\(?\d{1,4}\)?[ .-]?){1,4}\d{2,4}"
    r"|\(?\d{3}\)?[ .-]\d{3}[ .-]\d{4}|\d{3}-\d{4})(?![\w-]|[.,]\d)"
)
_SIGNS_OF_URLS = {"-": "dash", "_": "underscore", "?": "question mark", "=": "equals", "#": "hash"}


def addresses(words: Vocabulary) -> list[Rule]:
    def web(match: re.Match[str]) -> str:
        bare = re.sub(r"^[a-z]+://|^www\.", "", match[0]).removeprefix("www.").rstrip("/")
        return _spelt(bare, words)

    def mail(match: re.Match[str]) -> str:
        return _spelt(match[0], words)

    def phone(match: re.Match[str]) -> str:
        groups = re.findall(r"\d+", match[0])
        plus = f"{words.signs['+']} " if match[0][0] == "+" else ""
        return plus + ", ".join(words.digits(group) for group in groups)

    return [
        Rule(re.compile(_URL, re.I), web, ":."),
        Rule(re.compile(_EMAIL), mail, "@"),
        Rule(re.compile(_DOMAIN, re.I), web, "."),
        Rule(re.compile(_PHONE), phone),
    ]


def _spelt(address: str, words: Vocabulary) -> str:
    names = {".": words.dot, "@": words.at, "/": words.slash, **_SIGNS_OF_URLS}
    text = re.sub(r"[^\w]|_", lambda m: f" {names.get(m[0], words.signs.get(m[0], ''))} ", address)
    return " ".join(text.split())
