"""What a listener who plays everything as it leaves would hear: where speech comes too late."""

import time
from collections.abc import Callable


class Playback:
    """`sent(audio_s)` notes that so much speech has left in all; it returns the seconds for which
    the listener had nothing to play before it.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._dry_at: float | None = None
        self._audio_s = 0.0

    def sent(self, audio_s: float) -> float:
        now = self._now()
        dry_at = now if self._dry_at is None else self._dry_at
        gap_s = max(0.0, now - dry_at)
        self._dry_at = dry_at + gap_s + audio_s - self._audio_s
        self._audio_s = audio_s
        return gap_s
