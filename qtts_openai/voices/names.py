"""Names of voices: what may be one, and when two are the same.

Names are kept in NFC and compared by `key`: compatibility forms, case, kinds of apostrophe and runs
of spaces make no difference.
"""

import unicodedata
from collections.abc import Iterable
from itertools import product

import regex
from confusable_homoglyphs import confusables

from qtts_openai.errors import ApiError, invalid

# Control, format (bidi marks, zero-width), private use and surrogate characters, ends of lines.
_UNSEEN = {"Cc", "Cf", "Co", "Cs", "Zl", "Zp"}
# Fillers, selectors and the blank of Braille look like nothing as well; a heart may be a red one.
_SELECTOR = regex.compile(r"(?<=\p{So})[\uFE0E\uFE0F]")
_BLANK = regex.compile(r"[\p{Default_Ignorable_Code_Point}\u2800]")
_APOSTROPHES = str.maketrans(dict.fromkeys("‘’‛ʹʻʼʽˈ′`´＇", "'"))  # noqa: RUF001
# What `voice` may say in place of a name.
_RESERVED = ("default",)
# Behind a name in a mix of voices.
_WEIGHT = regex.compile(r"\s*\([\d.\s]*\)\s*$")
# Letters of a name that may look like several others: more readings than this are not tried.
_MOST_READINGS = 64


def clean(name: str, param: str = "name") -> str:
    """The name in NFC with single spaces; a 400 where it is not text on one line."""
    unseen = any(unicodedata.category(char) in _UNSEEN for char in name)
    if unseen or _BLANK.search(_SELECTOR.sub("", name)):
        message = f"{param}: some text on one line, without control or invisible characters."
        raise invalid(message, param)
    text = " ".join(unicodedata.normalize("NFC", name).split())
    if not text:
        raise invalid(f"{param}: some text on one line, not only spaces.", param)
    return text


def key(name: str) -> str:
    """Equal for names that people take for the same."""
    name = _SELECTOR.sub("", name).translate(_APOSTROPHES)
    text = unicodedata.normalize("NFKC", name).casefold()
    return " ".join(unicodedata.normalize("NFKC", text).split())


def check_free(name: str, taken: Iterable[str]) -> None:
    """A 400 where `name` is, or looks like, one of the keys in `taken`, or reads as their mix."""
    readings = _readings(key(name)) | _readings(key(name.replace("I", "l")))
    known = next((known for known in (*_RESERVED, *taken) if known in readings), None)
    found = None if known is None else f"the server's voice {known!r}"
    if found is None and {key(_WEIGHT.sub("", part)) for part in name.split("+")} <= set(taken):
        found = "a mix of the server's voices"
    if found is not None:
        message = f"name: {name!r} is, or looks like, {found}; choose another."
        raise ApiError(400, message, param="name", code="name_taken")


def _readings(text: str) -> set[str]:
    """`text`, and what it looks like in ASCII letters: other alphabets' alike, "1" for "l"."""
    choices = [_lookalikes(char) for char in text]
    count = 1
    for choice in choices:
        count *= len(choice)
    if count > _MOST_READINGS:
        choices = [choice[:1] for choice in choices]
    return {text, *("".join(letters) for letters in product(*choices))}


def _lookalikes(char: str) -> list[str]:
    """ASCII letters that `char` may be taken for, the likeliest first; else itself."""
    if char.isascii() and not char.isdigit():
        return [char]
    found = confusables.is_confusable(char, greedy=True) or []
    alike = [shape["c"].lower() for one in found for shape in one["homoglyphs"]]
    letters = [letter for letter in dict.fromkeys(alike) if letter.isascii() and letter.isalpha()]
    return letters or [char]
