"""Codes -> audio messages, in the order in which listeners need them.

In: running sequences with their frames of codes. Out: AudioChunk (16-bit mono PCM at 24 kHz) and
Finished, the end of a sequence always after all of its audio. codec_schedule says which frames are
due, codec_runner decodes them.
"""

from collections import deque
from collections.abc import Callable, Iterable

from torch import Tensor

from engine.protocol import AudioChunk, Finished, FinishReason, Outbound, Timing
from engine.runner.codec_runner import CodecRunner, Pcm, Snapshot
from engine.scheduler.codec_schedule import DRY_CHUNK, CodecSchedule
from engine.scheduler.sequence import Sequence


class CodecStage:
    """Chunks that the codecs are making, and the ends that come behind them."""

    def __init__(
        self, codecs: dict[str, CodecRunner], ramp: tuple[int, ...], clock: Callable[[], float]
    ) -> None:
        """codecs by model; models that share one map to the same object."""
        self.codecs, self.schedule, self.clock = codecs, CodecSchedule(ramp), clock
        self.snapshots: dict[tuple[str, str], Snapshot] = {}
        self.queue: deque[tuple[list[Sequence], list[Timing | None], Pcm] | Finished] = deque()

    def start(self, seq: Sequence, ref_codes: Tensor | None) -> None:
        """Begin a sequence's audio in its row: silent, or behind a reference recording."""
        snapshot = None
        if ref_codes is not None and seq.prompt.reference_text:
            snapshot = self._snapshot(seq, ref_codes)
        self.codecs[seq.model].start(seq.row, snapshot)

    def _snapshot(self, seq: Sequence, ref_codes: Tensor) -> Snapshot:
        key = (seq.model, seq.prompt.reference or "")
        if key not in self.snapshots:
            self.snapshots[key] = self.codecs[seq.model].snapshot(ref_codes)
        return self.snapshots[key]

    def forget(self, is_known: Callable[[str, str], bool]) -> None:
        """Drop the state after references (model, key) that are not known any more."""
        self.snapshots = {key: s for key, s in self.snapshots.items() if is_known(*key)}

    def decode(self, running: Iterable[Sequence], ending: Iterable[Sequence]) -> None:
        """Due chunks of running sequences, and all that ending ones have left."""
        for batch in self.schedule.batches(running, ending, self.clock()):
            by_codec: dict[int, list[Sequence]] = {}
            for seq in batch.seqs:
                by_codec.setdefault(id(self.codecs[seq.model]), []).append(seq)
            for seqs in by_codec.values():
                self._decode_chunk(seqs, batch.num_frames)

    def _decode_chunk(self, seqs: list[Sequence], num_frames: int) -> None:
        frames = [seq.codes[:num_frames] for seq in seqs]
        started = self.clock()
        pcm = self.codecs[seqs[0].model].decode([seq.row for seq in seqs], frames)
        self.schedule.observe(num_frames * len(seqs), self.clock() - started)
        first = [None if seq.num_emitted_frames else seq.timing for seq in seqs]
        for seq in seqs:
            del seq.codes[:num_frames]
            seq.note_emitted(num_frames, self.clock())
        self.queue.append((seqs, first, pcm))

    def time_chunks(self) -> None:
        """Let the schedule know what one frame costs, and a few at a time."""
        for codec in {id(codec): codec for codec in self.codecs.values()}.values():
            spare, silence = len(codec.rows) - 1, [0] * codec.decoder.config.num_quantizers
            for num_frames in (1, DRY_CHUNK):
                for _ in range(2):  # the first one makes warm what was not
                    codec.start(spare)
                    started = self.clock()
                    codec.decode([spare], [[silence] * num_frames]).result()
                self.schedule.observe(num_frames, self.clock() - started)

    def end(self, finished: Finished) -> None:
        """Report the end of a sequence behind its audio."""
        self.queue.append(finished)

    def take(self, wait: bool) -> list[Outbound]:
        """What is made, in order, and the ends behind it; with `wait`, everything."""
        outputs: list[Outbound] = []
        while self.queue:
            head = self.queue[0]
            if isinstance(head, Finished):
                outputs.append(head)
            else:
                seqs, first, pcm = head
                if not (wait or pcm.ready):
                    break
                outputs += [
                    AudioChunk(seq.id, chunk, timing)
                    for seq, timing, chunk in zip(seqs, first, pcm.result(), strict=True)
                    if seq.finish_reason is not FinishReason.ABORT
                ]
            self.queue.popleft()
        return outputs
