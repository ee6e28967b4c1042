"""How much of the audio that was sent has been heard, if the listener plays it as it arrives."""

import time
from collections import deque
from collections.abc import Iterable

from qtts_openai.live.events import Cancelled
from qtts_openai.live.utterance import Utterance
from qtts_openai.speech.words import split_at


class Playback:
    """`current` are the utterances that are not made to their end."""

    def __init__(self) -> None:
        self.made: deque[Utterance] = deque(maxlen=8)  # and perhaps not heard to the end
        self.until = 0.0  # when all that was sent is heard (monotonic, s)

    def clear(self) -> None:
        self.made.clear()
        self.until = 0.0

    def note_sent(self, utterance: Utterance, duration_s: float) -> None:
        begins_at = max(time.monotonic(), self.until)
        if utterance.starts_at is None:
            utterance.starts_at = begins_at
        utterance.sent_s += duration_s
        self.until = begins_at + duration_s

    def within_heard(self, current: Iterable[Utterance], offset_s: float) -> float:
        """An offset in the audio of the session, in the utterance that is heard."""
        heard = next(iter(self._left(current, time.monotonic())), None)
        return max(0.0, offset_s - heard.offset_s) if heard is not None else 0.0

    def cut(self, current: Iterable[Utterance], played_s: float | None) -> Cancelled:
        """What was heard of the utterance that is heard now, and what of all of them was not.
        `played_s`: how much of it its listener says to have heard.
        """
        now = time.monotonic()
        left = [utterance for utterance in self._left(current, now) if utterance.text]
        if not left:
            return Cancelled(None, 0.0, "", "")
        first = left[0]
        played_s = first.heard_s(now) if played_s is None else min(played_s, first.sent_s)
        spoken, remaining = split_at(first.clock.words(), played_s)
        rest = [remaining, first.held]
        for utterance in left[1:]:
            rest += [utterance.text, utterance.held]
        return Cancelled(first.index, played_s, spoken, " ".join(filter(None, rest)))

    def _left(self, current: Iterable[Utterance], now: float) -> list[Utterance]:
        return [*(one for one in self.made if one.heard_s(now) < one.audio_s), *current]
