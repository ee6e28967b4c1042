"""Which frames the codec decodes after a step. Plain Python: no torch here, and the clock is an
argument.

A stream's chunks grow along the ramp: small at first for early audio, then larger. The stream that
runs dry first goes first. A step's codec work is bounded, so that decoding many streams' chunks at
once never holds up their next frames; what is put off is decoded in larger chunks later.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from engine.sequence import Sequence

# Per step the codec may take this many times the frames one step makes, so it always catches up.
CATCH_UP = 2


@dataclass(frozen=True, slots=True)
class CodecBatch:
    """Streams whose next `num_frames` frames are decoded together."""

    num_frames: int
    seqs: list[Sequence]


@dataclass(frozen=True)
class CodecSchedule:
    ramp: tuple[int, ...]

    def next_chunk(self, seq: Sequence, *, flush: bool) -> int:
        """Frames to decode now for this stream; 0 while its chunk is not full. `flush`: whatever
        there is.
        """
        pending = len(seq.codes)
        if flush:
            return pending
        wanted = self.ramp[min(seq.num_chunks, len(self.ramp) - 1)]
        if pending < wanted:
            return 0
        return max(size for size in self.ramp if wanted <= size <= pending)

    def batches(
        self, running: Iterable[Sequence], ending: Iterable[Sequence], now: float
    ) -> list[CodecBatch]:
        """What to decode now: every frame of ending streams, and due chunks of running ones, driest
        first.
        """
        chosen = [(self.next_chunk(seq, flush=True), seq) for seq in ending]
        alive = list(running)
        budget = max(CATCH_UP * len(alive), self.ramp[-1])
        due = [(self.next_chunk(seq, flush=seq.waits_for_text), seq) for seq in alive]
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
    return float("-inf") if seq.first_audio_at is None else seq.lead_s(now)
