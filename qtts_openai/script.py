"""Text before it is tokenised: pronunciations, pause tags, and long text cut at sentences."""

import re
from collections.abc import Iterator, Mapping

import sentencex  # type: ignore[import-untyped]

from qtts_openai.errors import invalid

# A text to speak, or seconds of silence.
Part = str | float

_PAUSE = re.compile(r"\[pause:\s*(\d+(?:\.\d+)?)\s*(ms|s)\]", re.I)


def pronounce(text: str, pronunciations: Mapping[str, str]) -> str:
    """Whole words replaced, whatever their case; of several that fit the longest."""
    if not pronunciations:
        return text
    spoken = {word.lower(): said for word, said in pronunciations.items()}
    words = "|".join(re.escape(word) for word in sorted(spoken, key=len, reverse=True))
    pattern = re.compile(rf"(?<!\w)(?:{words})(?!\w)", re.I)
    return pattern.sub(lambda match: spoken.get(match[0].lower(), match[0]), text)


def split_pauses(text: str, max_pause_s: float) -> list[Part]:
    """`One.[pause:500ms]Two.` -> ["One.", 0.5, "Two."]"""
    pieces = _PAUSE.split(text)
    parts: list[Part] = [pieces[0]] if pieces[0].strip() else []
    for number, unit, after in zip(pieces[1::3], pieces[2::3], pieces[3::3], strict=True):
        seconds = float(number) / (1000 if unit.lower() == "ms" else 1)
        if seconds > max_pause_s:
            message = f"input: a pause of {seconds:g} s; at most {max_pause_s:g} s are accepted."
            raise invalid(message, "input")
        parts.append(seconds)
        if after.strip():
            parts.append(after)
    return parts


def split_sentences(parts: list[Part], max_chars: int) -> list[Part]:
    """Every longer text in pieces of whole sentences, at most `max_chars` long each."""
    pieces: list[Part] = []
    for part in parts:
        if isinstance(part, float) or len(part) <= max_chars:
            pieces.append(part)
        else:
            pieces += _pack(_sentences(part, max_chars), max_chars)
    return pieces


def _sentences(text: str, max_chars: int) -> Iterator[str]:
    """Sentences; one that is too long is cut after a comma or space, at worst anywhere."""
    for sentence in sentencex.segment("en", text):
        while len(sentence) > max_chars:
            head = sentence[:max_chars]
            cut = max(head.rfind(mark) for mark in (", ", "; ", "\uff0c", "\u3001")) + 1
            cut = cut or head.rfind(" ") + 1 or max_chars
            yield sentence[:cut]
            sentence = sentence[cut:]
        yield sentence


def _pack(sentences: Iterator[str], max_chars: int) -> list[Part]:
    packed: list[str] = []
    for sentence in sentences:
        if packed and len(packed[-1]) + len(sentence) <= max_chars:
            packed[-1] += sentence
        else:
            packed.append(sentence)
    return [text.strip() for text in packed if text.strip()]
