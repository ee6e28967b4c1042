"""When each word is heard: an estimate. The real duration of what was spoken is shared out by how
long each word takes at an ordinary pace, the pause at a mark to the word in front of it.
"""

from typing import Any

import msgspec

from qtts_openai.text.duration_estimate import seconds_of


class Word(msgspec.Struct, frozen=True):
    text: str
    start_s: float
    end_s: float


def expected_s(text: str) -> float:
    return sum(map(seconds_of, text))


def timed(words: list[str], start_s: float, duration_s: float | None) -> list[Word]:
    """`duration_s`: of all of them; None while it is not known, so that they last as expected."""
    weights = [max(0.05, expected_s(word)) for word in words]
    scale = 1.0 if duration_s is None else duration_s / (sum(weights) or 1.0)
    out, at = [], start_s
    for word, weight in zip(words, weights, strict=True):
        out.append(Word(word, at, at + weight * scale))
        at += weight * scale
    return out


def split_at(words: list[Word], heard_s: float) -> tuple[str, str]:
    """What was heard by then, and the rest; a word counts once half of it was."""
    heard = [w.text for w in words if (w.start_s + w.end_s) / 2 <= heard_s]
    return " ".join(heard), " ".join(w.text for w in words[len(heard) :])


def times_ms(word: Word) -> dict[str, Any]:
    times = {"start_ms": round(word.start_s * 1000), "end_ms": round(word.end_s * 1000)}
    return {"word": word.text, **times}


def alignment(words: list[Word]) -> dict[str, Any]:
    """As LiveKit's Baseten plugin reads it."""
    return {
        "words": [word.text for word in words],
        "word_start_times_seconds": [round(word.start_s, 3) for word in words],
        "word_end_times_seconds": [round(word.end_s, 3) for word in words],
    }


def words_event(words: list[Word]) -> dict[str, Any]:
    """Among server-sent events, beside the deltas."""
    told = [
        {"word": word.text, "start": round(word.start_s, 3), "end": round(word.end_s, 3)}
        for word in words
    ]
    return {"type": "speech.audio.words", "words": told, "estimated": True}
