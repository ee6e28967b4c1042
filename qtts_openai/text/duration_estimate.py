"""How long a text takes to speak, roughly: what the engine's runaway guard is measured against.

By kind of character, in seconds at an ordinary pace. Reading speeds of languages differ by about
a third around these, which the guard's factor covers many times over.
"""

import unicodedata
from functools import lru_cache

from engine import FRAME_S

LETTER_S = 0.075  # alphabets: about 13 letters a second
SYLLABLE_S = 0.25  # one character is one or two syllables: Chinese, kana, hangul
DIGIT_S = 0.4
PAUSE_S = 0.2  # punctuation and line breaks
SYMBOL_S = 0.6  # signs and emoji that are read out as words
SYLLABIC = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO", "YI ")


def expected_frames(text: str) -> float:
    """Codec frames (80 ms) that speaking `text` would take."""
    return sum(map(seconds_of, text)) / FRAME_S


@lru_cache(maxsize=4096)
def seconds_of(character: str) -> float:
    if character == " ":
        return 0.0
    category = unicodedata.category(character)
    if category.startswith("L"):
        return SYLLABLE_S if unicodedata.name(character, "").startswith(SYLLABIC) else LETTER_S
    if category.startswith("N"):
        return DIGIT_S
    if category.startswith("P") or character == "\n":
        return PAUSE_S
    return SYMBOL_S if category.startswith("S") else 0.0
