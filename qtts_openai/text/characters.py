# ruff: noqa: RUF001
"""Characters: emoji, what is invisible, forms of one letter, white space."""

import re
import unicodedata
from functools import lru_cache

import emoji
import regex

# Signs that are read out, and arrows, are no emoji unless a selector says so.
_PICTURE = (
    r"(?:\p{Emoji_Presentation}|[\p{Extended_Pictographic}--[©®™‼⁉ℹ↔-↪〰〽㊗㊙Ⓜ]]|[↔-↪]\uFE0F)"
    r"[\uFE0E\uFE0F\p{Emoji_Modifier}\U000E0020-\U000E007F]*+"
)
_SEQUENCE = rf"(?:\p{{RI}}\p{{RI}}?|{_PICTURE}(?:\u200D{_PICTURE})*+|\p{{Emoji_Modifier}})"
_EMOJI = regex.compile(rf"(?V1){_SEQUENCE}")
_EMOJI_AND_SPACE = regex.compile(rf"(?V1)(?:{_SEQUENCE})(?:[ \t]*+{_SEQUENCE})*+[ \t]*+")
# Where one may begin: the slow pattern is tried nowhere else.
_PERHAPS_EMOJI = re.compile("[\u203c-\u2bff\u3030-\u3299\U0001f000-\U0001fbff]")
_KEYCAP = regex.compile(r"([0-9#*])\uFE0F?\u20E3")
_LINE_END = regex.compile(r"\r\n?|[\x0b\x0c\x85\u2028\u2029]")
_INVISIBLE = regex.compile(r"(?V1)[[\p{Cf}\p{Cc}\p{Co}\p{Cs}\p{DI}\uFFFC\uFFFD\u2800]--[\n\t]]")
# Ligatures, full-width letters and figures, half-width kana, letters of mathematics, in circles
# and raised, Roman figures, units in one square.
_COMPATIBLE = regex.compile(
    r"[\uFB00-\uFB06\uFB13-\uFB17\uFF10-\uFF19\uFF21-\uFF3A\uFF41-\uFF5A\uFF66-\uFF9F"
    r"\U0001D400-\U0001D7FF\u24B6-\u24E9\u02B0-\u02B8\u02E1-\u02E3\u1D2C-\u1D6A\u2071"
    r"\u207F\u2090-\u209C\u2C7C\u2160-\u217F\u3371-\u33DF\u2102\u210A-\u2113\u2115"
    r"\u2119-\u211D\u2121\u2124\u2126\u2128\u212A-\u212D\u212F-\u2131\u2133-\u2134\u00B5"
    r"\U0001F130-\U0001F149]+"
)
_HYPHENS = str.maketrans("\u2010\u2011\u2012\u2015", "--–—")
# Strokes through letters, and more accents than any language sets on one.
_STROKES = regex.compile(r"[\u0334-\u0338\u20D0-\u20F0]+|(?<=\p{M}{3})\p{M}+")
# Not the one that is already as it should be.
_SPACES = regex.compile(r"(?: (?=[^\S\n])|[^\S\n ])[^\S\n]*+")
_SOME_SPACES = re.compile(r"[^\S\n ]")
# What is neither ASCII, nor composed Latin, nor a mark of writing, nor a common ideograph; or DEL.
_UNUSUAL = re.compile("[^\n\t -~¡-¬®-´¶-ÿ–—‘-”•…€、。\u4e00-\u9fff]")
_BLANK_LINES = re.compile(r"\n{3,}")


def line_ends(text: str) -> str:
    return _LINE_END.sub("\n", text)


def drop_emoji(text: str) -> str:
    """Left out, with the space beside them; a key cap is its figure."""
    text = _KEYCAP.sub(r"\1", text) if "\u20e3" in text else text
    kept, at = [], 0
    for begin in _PERHAPS_EMOJI.finditer(text):
        if begin.start() < at or not (found := _EMOJI_AND_SPACE.match(text, begin.start())):
            continue
        before = text[at : begin.start()].rstrip(" \t")
        start, end = at + len(before), found.end()
        kept += [before, _gap(text[start - 1 : start], text[start:end], text[end : end + 1])]
        at = end
    return "".join(kept) + text[at:]


def name_emoji(text: str, language: str) -> str:
    """In words, as far as the text does not grow to more than four times its length."""
    room = 3 * len(text) + 100

    def say(match: "regex.Match[str]") -> str:
        nonlocal room
        said = f" {_name(match[0], language)} "
        room -= len(said)
        return said if room >= 0 else " "

    return _EMOJI.sub(say, _KEYCAP.sub(r"\1", text))


@lru_cache(maxsize=4096)
def _name(picture: str, language: str) -> str:
    emoji.config.load_language(language)
    named = emoji.demojize(picture, language=language, delimiters=("\0", "\0"))
    return named.strip("\0").replace("_", " ") if "\0" in named else ""


def _gap(before: str, dropped: str, after: str) -> str:
    """A space where there was one and two words or sentences would touch without it."""
    if not before.strip() or not after.strip() or after in ".,;:!?)…":
        return ""
    had_space = dropped[0] in " \t" or dropped[-1] in " \t"
    return " " if had_space or (before.isalnum() and after.isalnum()) else ""


def drop_invisible(text: str) -> str:
    return _INVISIBLE.sub("", text) if _UNUSUAL.search(text) else text


def compose(text: str) -> str:
    """One form of each letter: composed, and letters of other widths and styles as plain ones."""
    if _UNUSUAL.search(text) is None:
        return text
    text = _COMPATIBLE.sub(lambda match: unicodedata.normalize("NFKC", match[0]), text)
    return _STROKES.sub("", unicodedata.normalize("NFC", text).translate(_HYPHENS))


def spaces(text: str) -> str:
    """One space between words, at most one blank line, nothing at the edges of a line."""
    if "  " in text or _SOME_SPACES.search(text):
        text = _SPACES.sub(" ", text)
    text = text.replace(" \n", "\n").replace("\n ", "\n")
    return _BLANK_LINES.sub("\n\n", text).strip()


def has_text(text: str) -> bool:
    return bool(drop_invisible(text).strip())


def has_words(text: str) -> bool:
    return any(map(str.isalnum, text))
