"""EngineCore's step on a virtual clock: the true schedules, fake nets that only take time.

A listener plays from the first chunk on, pauses while there is nothing to play, and goes on with
the next chunk; every pause is an underrun.
"""

import itertools
from dataclasses import dataclass, field

from engine.protocol import FRAME_S, FinishReason
from engine.scheduler.block_manager import BlockManager
from engine.scheduler.codec_schedule import CodecSchedule
from engine.scheduler.scheduler import Batch, Scheduler
from engine.scheduler.sequence import Sequence
from tests.engine.scheduler.sequences import make

RAMP = (1, 2, 4, 8, 12)


@dataclass(frozen=True)
class Costs:
    """Seconds: a fixed part per call, and parts per token, row and frame. A token of a prompt looks
    back at all before it, which is a part per pair of tokens.
    """

    prefill_s: float = 0.002
    prefill_s_per_token: float = 0.001
    decode_s: float = 0.016
    decode_s_per_row: float = 0.001
    codec_s: float = 0.002
    codec_s_per_frame: float = 0.0004
    prefill_s_per_pair: float = 0.0


@dataclass
class Listener:
    """When the stream was submitted and heard, and how long it stood still."""

    seq: Sequence
    submitted_at: float
    first_audio_at: float | None = None
    plays_until: float = 0.0
    num_underruns: int = 0
    underrun_s: float = 0.0

    def hear(self, num_frames: int, now: float) -> None:
        if self.first_audio_at is None:
            self.first_audio_at = self.plays_until = now
        elif now > self.plays_until + 1e-9:
            self.num_underruns += 1
            self.underrun_s += now - self.plays_until
            self.plays_until = now
        self.plays_until += num_frames * FRAME_S

    @property
    def ttfa_s(self) -> float:
        assert self.first_audio_at is not None, "never heard"
        return self.first_audio_at - self.submitted_at


@dataclass
class Simulation:
    costs: Costs = field(default_factory=Costs)
    scheduler_type: type[Scheduler] = Scheduler
    max_num_seqs: int = 64
    models: tuple[str, ...] = ("m",)
    now: float = 100.0
    longest_step_s: float = 0.0

    def __post_init__(self) -> None:
        pool = BlockManager(100_000, 16)
        pools = dict.fromkeys(self.models, pool)
        self.scheduler = self.scheduler_type(pools, self.max_num_seqs, 512)
        self.codec = CodecSchedule(RAMP)
        self.listeners: dict[Sequence, Listener] = {}

    def submit(self, num_prompt: int, num_frames: int, model: str = "m") -> Listener:
        seq = make(num_prompt, num_frames, model)
        self.scheduler.add(seq)
        listener = self.listeners[seq] = Listener(seq, self.now)
        return listener

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            self.step()

    def step(self) -> None:
        began = self.now
        batch = self.scheduler.schedule(self.now)
        if batch is None:
            self.now += 0.001
            return
        self._prefill(batch)
        ending = self._decode(batch)
        self._codec(ending)
        for seq in ending:
            self.scheduler.finish(seq, FinishReason.LENGTH)
        self.longest_step_s = max(self.longest_step_s, self.now - began)

    def _prefill(self, batch: Batch) -> None:
        num_tokens = sum(chunk.end - chunk.start for chunk in batch.prefill)
        num_pairs = sum((chunk.end**2 - chunk.start**2) // 2 for chunk in batch.prefill)
        for chunk in batch.prefill:
            chunk.seq.num_prefilled = chunk.end
        if num_tokens:
            elapsed = self.costs.prefill_s + num_tokens * self.costs.prefill_s_per_token
            elapsed += num_pairs * self.costs.prefill_s_per_pair
            self.now += elapsed
            self.scheduler.observe_prefill(batch.model, num_tokens, elapsed)

    def _decode(self, batch: Batch) -> list[Sequence]:
        if batch.decode:
            self.now += self.costs.decode_s + len(batch.decode) * self.costs.decode_s_per_row
        for seq in batch.decode:
            seq.codes.append([0] * 16)
            seq.num_frames += 1
        return [seq for seq in batch.decode if seq.num_frames >= seq.max_frames]

    def _codec(self, ending: list[Sequence]) -> None:
        running = [s for s in self.scheduler.running if s.codes and s not in ending]
        batches = self.codec.batches(running, ending, self.now)
        for batch in batches:
            num_frames = batch.num_frames * len(batch.seqs)
            elapsed = self.costs.codec_s + num_frames * self.costs.codec_s_per_frame
            self.now += elapsed
            self.codec.observe(num_frames, elapsed)
            for seq in batch.seqs:
                del seq.codes[: batch.num_frames]
                seq.note_emitted(batch.num_frames, self.now)
        for batch in batches:  # told at the end of the step
            for seq in batch.seqs:
                self.listeners[seq].hear(batch.num_frames, self.now)


def play(simulation: Simulation, num_streams: int, warm_up_s: float) -> list[Listener]:
    """Streams that came one by one and have played for a while."""
    listeners = []
    for _ in itertools.repeat(None, num_streams):
        listeners.append(simulation.submit(30, 10_000))
        simulation.run(0.1)
    simulation.run(warm_up_s)
    return listeners
