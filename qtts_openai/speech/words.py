"""When each word is heard: an estimate, from the text and the sound alone.

Words are expected to take as long as their letters do at an ordinary pace. Where the sound pauses,
a mark in the text is looked for that is expected about there; what is between two such places is
shared out again. All of it works while the sound comes.
"""

from typing import Any

import msgspec
import numpy as np

from engine import SAMPLE_RATE_HZ
from qtts_openai.text.duration_estimate import seconds_of

HOP = SAMPLE_RATE_HZ // 100
QUIET = 0.05  # of the loudest so far
LEAST_LEVEL = 40.0  # of 16-bit samples
GAP_S = 0.09
# How far a pause may be from the mark that it is taken for.
NEAR_S = 0.6
# Speech as it is made here is a little faster than the ordinary pace.
PACE = 0.88
# A word behind a mark waits for the pause so long.
PATIENCE_S = NEAR_S
MARKS = frozenset(".,;:!?\u2026\u2014\u3002\uff0c\uff01\uff1f\u3001\uff1b\uff1a\n")
LEAST_WORD_S = 0.09


class Word(msgspec.Struct, frozen=True):
    text: str
    start_s: float
    end_s: float


class _Place(msgspec.Struct, frozen=True):
    """Before word `index` the sound pauses from `end_s` to `start_s`."""

    index: int
    end_s: float
    start_s: float


class WordClock:
    """`say` what is spoken and `hear` how it sounds, in any order; `new_words` are told once.
    `speed`: how much faster the listener hears it.
    """

    def __init__(self, speed: float = 1.0) -> None:
        self.speed = speed
        self.num_told = self._num_ended = 0
        self._words: list[str] = []
        self._lengths: list[float] = []
        self._places: list[_Place] = []
        self._heard_s = self._loudest = 0.0
        self._quiet_since = 0.0
        self._rest = b""

    def say(self, text: str) -> None:
        words = text.split()
        if self._words and words and not text[0].isspace():
            words[0] = self._words.pop() + words[0]
            self._lengths.pop()
        self._words += words
        self._lengths += map(expected_s, words)

    def hear(self, pcm: bytes) -> None:
        pcm = self._rest + pcm
        whole = len(pcm) // (2 * HOP) * 2 * HOP
        hops = np.frombuffer(pcm[:whole], "<i2").astype(np.float32).reshape(-1, HOP)
        self._rest = pcm[whole:]
        for level in np.sqrt(np.square(hops).mean(axis=1)).tolist():
            self._hear_hop(level)

    def _hear_hop(self, level: float) -> None:
        at = self._heard_s
        self._heard_s += HOP / SAMPLE_RATE_HZ
        self._loudest = max(self._loudest, level)
        if level > max(LEAST_LEVEL, QUIET * self._loudest):
            if not self._places:
                self._places.append(_Place(0, 0.0, at))
            elif at - self._quiet_since >= GAP_S:
                self._note_gap(self._quiet_since, at)
            self._quiet_since = self._heard_s

    def _note_gap(self, end_s: float, start_s: float) -> None:
        """It is at the mark that is expected nearest to it, if one is near. Before a k or a t there
        is silence, too: a longer gap takes the mark from a shorter one.
        """
        off_s, index = self._mark_near(end_s, self._places[-1])
        last = self._places[-1]
        if len(self._places) > 1 and start_s - end_s > last.start_s - last.end_s:
            again_s, again = self._mark_near(end_s, self._places[-2])
            if again == last.index and again_s < off_s:
                index = self._places.pop().index
        if index:
            self._places.append(_Place(index, end_s, start_s))

    def _mark_near(self, time_s: float, last: _Place) -> tuple[float, int]:
        """How far off it is expected, counting from `last`, and the word behind it; 0 for none."""
        best_s, index, at = NEAR_S, 0, last.start_s
        for i in range(last.index + 1, len(self._words)):
            at += self._lengths[i - 1]
            if self._words[i - 1][-1] in MARKS and abs(at - time_s) < best_s:
                best_s, index = abs(at - time_s), i
            if at > time_s + NEAR_S:
                break
        return best_s, index

    @property
    def num_words(self) -> int:
        return len(self._words)

    def end(self, num_words: int | None = None) -> None:
        """So many of the words, or all, have been heard."""
        index = self._num_ended = len(self._words) if num_words is None else num_words
        if self._places and self._places[-1].index < index:
            self._places.append(_Place(index, self._quiet_since, self._heard_s))

    def words(self) -> list[Word]:
        """All that were said; those that were not heard by how long they should take."""
        out: list[Word] = []
        places = self._places or [_Place(0, 0.0, self._heard_s)]
        for place, after in zip(places, [*places[1:], None], strict=True):
            end = after.index if after else len(self._words)
            lengths = self._lengths[place.index : end]
            share = (after.end_s - place.start_s) / (sum(lengths) or 1.0) if after else 1.0
            at = place.start_s
            for word, length in zip(self._words[place.index : end], lengths, strict=True):
                out.append(Word(word, at / self.speed, (at + share * length) / self.speed))
                at += share * length
        return out

    def new_words(self) -> list[Word]:
        """Those that begin in what was heard. Behind a mark a pause, or a longer one, may still
        come.
        """
        out: list[Word] = []
        for i, word in enumerate(self.words()[self.num_told :], self.num_told):
            waits = i > self._num_ended and self._words[i - 1][-1] in MARKS
            if word.start_s * self.speed + PATIENCE_S * waits >= self._heard_s:
                break
            out.append(word)
        self.num_told += len(out)
        return out


def expected_s(word: str) -> float:
    letters = sum(seconds_of(letter) for letter in word if letter not in MARKS)
    return max(LEAST_WORD_S, PACE * letters)


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


def words_event(words: list[Word], estimated: bool = True) -> dict[str, Any]:
    """Among server-sent events, beside the deltas."""
    told = [
        {"word": word.text, "start": round(word.start_s, 3), "end": round(word.end_s, 3)}
        for word in words
    ]
    return {"type": "speech.audio.words", "words": told, "estimated": estimated}
