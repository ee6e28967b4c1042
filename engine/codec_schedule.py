"""Which frames the codec decodes after a step. Plain Python: no torch here, and the clock is an
argument.

A stream's chunks grow along the ramp: small at first for early audio, then larger. A stream about
to run dry does not wait for its chunk to fill; one that has run dry waits for a few frames only, so
that it catches up and an overloaded engine still decodes several frames at once. The stream that
runs dry first goes first. A step's codec work is bounded, so that decoding many streams' chunks at
once never holds up their next frames; what is put off is decoded in larger chunks later.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from engine.sequence import Sequence

# Per step the codec may take this many times the frames one step makes, so it always catches up.
CATCH_UP = 2
# A lead below this does not last until the next chance to decode, one step later.
SHORT_LEAD_S = 0.16
DRY_CHUNK = 4


@dataclass(frozen=True, slots=True)
class CodecBatch:
    """Streams whose next `num_frames` frames are decoded together."""

    num_frames: int
    seqs: list[Sequence]


@dataclass(frozen=True)
class CodecSchedule:
    ramp: tuple[int, ...]

    def next_chunk(self, seq: Sequence, now: float) -> int:
        """Frames to decode now for this stream; 0 while its chunk is not full."""
        pending = len(seq.codes)
        if seq.waits_for_text:
            return min(pending, self.ramp[-1])
        wanted = min(self._wanted(seq, now), self.ramp[-1])
        sizes = [size for size in self.ramp if wanted <= size <= pending]
        return max(sizes, default=0)

    def _wanted(self, seq: Sequence, now: float) -> int:
        ramp, lead = self.ramp[min(seq.num_chunks, len(self.ramp) - 1)], seq.lead_s(now)
        if lead > SHORT_LEAD_S:
            return ramp
        return 1 if lead >= 0 else min(ramp, DRY_CHUNK)

    def batches(
        self, running: Iterable[Sequence], ending: Iterable[Sequence], now: float
    ) -> list[CodecBatch]:
        """What to decode now: every frame of ending streams, and due chunks of running ones, driest
        first.
        """
        chosen = [(len(seq.codes), seq) for seq in ending]
        alive = list(running)
        budget = max(CATCH_UP * len(alive), self.ramp[-1])
        due = [(self.next_chunk(seq, now), seq) for seq in alive]
        for size, seq in sorted(due, key=lambda item: _urgency(item[1], now)):
            if 0 < size <= budget:
                chosen.append((size, seq))
                budget -= size
        groups: dict[int, list[Sequence]] = {}
        for size, seq in chosen:
            if size:
                groups.setdefault(size, []).append(seq)
        return [CodecBatch(size, seqs) for size, seqs in groups.items()]


def _urgency(seq: Sequence, now: float) -> float:
    """A stream that has not been heard yet comes before all others, then the shortest lead."""
    return float("-inf") if seq.plays_since is None else seq.lead_s(now)
