"""Scripts a model has letters of: what is written in others it cannot speak."""

import unicodedata
from collections.abc import Iterable
from functools import lru_cache

import regex

_OF_LANGUAGE = {
    "chinese": ("Han", "Bopomofo"),
    "japanese": ("Han", "Hiragana", "Katakana"),
    "korean": ("Hangul", "Han"),
    "russian": ("Cyrillic",),
    **dict.fromkeys(("english", "german", "french", "spanish", "italian", "portuguese"), ()),
}


@lru_cache(maxsize=64)
def _foreign(languages: frozenset[str]) -> "regex.Pattern[str] | None":
    """A letter that no language of these is written with; None where one of them is not known."""
    if not languages or not languages <= _OF_LANGUAGE.keys():
        return None
    own = {script for language in languages for script in _OF_LANGUAGE[language]}
    classes = "".join(rf"\p{{{name}}}" for name in sorted({"Latin", "Common", "Inherited", *own}))
    return regex.compile(rf"(?V1)[\p{{L}}--[{classes}]]")


def unspoken(text: str, languages: Iterable[str]) -> tuple[str, ...]:
    """The scripts in `text` that a model of these languages cannot speak, by Unicode's names."""
    pattern = _foreign(frozenset(languages))
    letters = pattern.findall("".join(set(text))) if pattern is not None else set()
    return tuple(sorted({_script(letter) for letter in letters}))


def is_all_unspoken(text: str, languages: Iterable[str]) -> bool:
    """There are such letters, and no other letters or figures."""
    pattern = _foreign(frozenset(languages))
    if pattern is None or pattern.search(text) is None:
        return False
    return not any(map(str.isalnum, pattern.sub("", text)))


def _script(letter: str) -> str:
    return unicodedata.name(letter, "unknown").split()[0].capitalize()
