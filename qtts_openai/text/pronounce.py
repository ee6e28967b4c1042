"""Words and how to say them, as a request or the settings give them."""

import re
import unicodedata
from collections.abc import Mapping

_APOSTROPHES = "['\u2019\u02bc]"


def pronounce(text: str, pronunciations: Mapping[str, str]) -> str:
    """Whole words replaced, whatever their case, form of letters and apostrophe; of several that
    fit the longest.
    """
    if not pronunciations:
        return text
    spoken = {_key(word): said for word, said in pronunciations.items()}
    words = "|".join(_pattern(word) for word in sorted(spoken, key=len, reverse=True))
    pattern = re.compile(rf"(?<!\w)(?:{words})(?!\w)", re.I)
    text = unicodedata.normalize("NFC", text)
    return pattern.sub(lambda match: spoken.get(_key(match[0]), match[0]), text)


def _key(word: str) -> str:
    return re.sub(_APOSTROPHES, "'", unicodedata.normalize("NFC", word).lower())


def _pattern(word: str) -> str:
    return re.escape(word).replace("'", _APOSTROPHES)
