"""How much of the audio that was sent has been heard, if the listener plays it as it arrives."""

import time
from collections import deque
from collections.abc import Iterable

from qtts_openai.live.events import Cancelled
from qtts_openai.live.utterance import Utterance
from qtts_openai.speech.words import split_at


class Playback:
    """`current`, in its methods: the utterances that are still being made."""

    def __init__(self) -> None:
        self.made: deque[Utterance] = deque(maxlen=8)  # complete, but perhaps still being heard
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
        """Seconds of the session's audio -> seconds within the utterance that is being heard."""
        heard = next(iter(self._left(current, time.monotonic())), None)
        return max(0.0, offset_s - heard.offset_s) if heard is not None else 0.0

    def cut(self, current: Iterable[Utterance], played_s: float | None) -> Cancelled:
        """The text of the current utterance that was heard, and the text of all utterances that was
        not. `played_s`: seconds of the current one that the listener reports to have heard.
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
