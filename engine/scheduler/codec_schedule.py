"""Which frames the codec decodes after a step. Plain Python: no torch, and the time is an argument.

In: the running sequences with the frames they have made and decoded. Out: chunks, each a number of
frames for some sequences, in the order in which they are to be decoded.

A stream's chunks grow along `engine.chunk_ramp` (in frames): small first, for early audio, then
larger. The stream whose listener runs out of audio first is decoded first. A stream is decoded
before its chunk is full if its listener would else run out, also while the streams before it are
being decoded: streams that began together would otherwise all fill a chunk in the same step. While
one listener is about to run out, streams with plenty wait. The codec work of one step is bounded,
so that it never delays the next frames for long; what is put off is later decoded in larger chunks.

Two rules depend on how long a step takes. If a step takes longer than a third of the time that the
first chunk lasts, the first chunk has the ramp's second size. If steps are slower than speech, a
stream that has run out waits for a few frames, so that its listener hears fewer, longer pauses. If
steps are hardly faster and frames cost less a few at a time, a stream that is short waits, too.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from engine.protocol import FRAME_S
from engine.scheduler.sequence import Sequence

# Per step the codec may take this many times the frames one step makes, so it always catches up.
CATCH_UP = 2
# A lead below this does not last until the next chance to decode, one step later.
SHORT_LEAD_S = 0.16
# A lead above this can wait while others are short.
LONG_LEAD_S = 0.5
# Steps that the first chunk of a stream must last.
FIRST_STEPS = 3
# Frames that a dry stream waits for in an engine slower than speech.
DRY_CHUNK = 4
# Of a frame's time: steps that take more hardly keep up, and a saving of more is worth waiting for.
HARDLY, SAVING = 0.7, 0.1
# Weight of the newest measurement in a moving average.
NEWEST = 0.1


@dataclass(frozen=True, slots=True)
class CodecBatch:
    """Streams whose next `num_frames` frames are decoded together."""

    num_frames: int
    seqs: list[Sequence]


@dataclass
class CodecSchedule:
    ramp: tuple[int, ...]
    frame_s: float = 0.0  # what a frame costs the host, as measured: on a GPU only its launch
    few_s: float = 0.0  # the same of fewer than DRY_CHUNK at a time,
    many_s: float = 0.0  # and of more
    step_s: float = 0.0  # from one step to the next, as measured
    _stepped_at: float | None = None  # None: no sequence was running

    def observe(self, num_frames: int, elapsed_s: float) -> None:
        """Learn what frames cost."""
        each_s = elapsed_s / num_frames
        self.frame_s += NEWEST * (each_s - self.frame_s)
        if num_frames < DRY_CHUNK:
            self.few_s += NEWEST * (each_s - self.few_s) if self.few_s else each_s
        else:
            self.many_s += NEWEST * (each_s - self.many_s) if self.many_s else each_s

    def batches(
        self, running: Iterable[Sequence], ending: Iterable[Sequence], now: float
    ) -> list[CodecBatch]:
        """What to decode now: every frame of ending streams, and due chunks of running ones, driest
        first.
        """
        alive = sorted(running, key=lambda seq: _urgency(seq, now))
        self._observe_step(now if alive else None)
        groups: dict[int, list[Sequence]] = {}
        for seq in ending:
            if seq.codes:
                groups.setdefault(len(seq.codes), []).append(seq)
        for seq, size in self._due(alive, now):
            groups.setdefault(size, []).append(seq)
        return [CodecBatch(size, seqs) for size, seqs in groups.items()]

    def _observe_step(self, now: float | None) -> None:
        if now is not None and self._stepped_at is not None:
            self.step_s += NEWEST * (now - self._stepped_at - self.step_s)
        self._stepped_at = now

    def _due(self, alive: list[Sequence], now: float) -> Iterable[tuple[Sequence, int]]:
        """Streams and the frames to decode of each, within the step's budget; alive is in order of
        urgency.
        """
        budget, backlog = max(CATCH_UP * len(alive), self.ramp[-1]), 0
        one_is_short = any(seq.buffered_s(now) < SHORT_LEAD_S for seq in alive)
        for seq in alive:
            buffered_s, backlog = seq.buffered_s(now), backlog + len(seq.codes)
            can_wait = seq.playback_started_at is not None and buffered_s > LONG_LEAD_S
            if one_is_short and can_wait and not seq.is_paused:
                continue
            size = self.next_chunk(seq, buffered_s - backlog * self.frame_s)
            if 0 < size <= budget:
                yield seq, size
                budget -= size

    def next_chunk(self, seq: Sequence, buffered_s: float) -> int:
        """Frames to decode now for a stream that has this lead when its turn is over; 0 while its
        chunk is not full.
        """
        pending = len(seq.codes)
        if seq.is_paused:
            return min(pending, self.ramp[-1])
        wanted = self._wanted(seq, buffered_s)
        if pending < wanted:  # most of them, in most steps
            return 0
        return max((size for size in self.ramp if wanted <= size <= pending), default=0)

    def _wanted(self, seq: Sequence, buffered_s: float) -> int:
        keeps_up = self.step_s < FRAME_S
        place = seq.num_chunks
        if place == 0 and keeps_up and FIRST_STEPS * self.step_s > self.ramp[0] * FRAME_S:
            place = 1
        size = self.ramp[min(place, len(self.ramp) - 1)]
        if buffered_s > SHORT_LEAD_S:
            return size
        if self._is_worth_waiting() or not (keeps_up or buffered_s >= 0):
            return min(size, max((n for n in self.ramp if n <= DRY_CHUNK), default=size))
        return 1

    def _is_worth_waiting(self) -> bool:
        """Where many frames were never decoded at once, nothing is known."""
        saves = self.few_s - self.many_s > SAVING * FRAME_S and self.many_s > 0
        return saves and self.step_s > HARDLY * FRAME_S


def _urgency(seq: Sequence, now: float) -> float:
    """A stream that has not been heard yet comes before all others, then the shortest lead."""
    return float("-inf") if seq.playback_started_at is None else seq.buffered_s(now)
