"""Our TalkerEngine: one scheduler over all models, and a TalkerRunner for each.

In: Sequences. Out: Steps with frames of codes (16 ints a sequence and frame). `step()` schedules,
runs and takes results. On a GPU, which works by itself, the next frame is begun before the codes of
the last one are taken, so the device never waits for the host. A sequence that turns out to have
ended then has one frame too many in flight; that frame is dropped.
"""

import time
from collections.abc import Callable

from engine.protocol import FinishReason
from engine.runner.prompt_embeds import VoicePrompt
from engine.runner.talker_runner import Frames, TalkerRunner
from engine.scheduler.block_manager import BlockManager
from engine.scheduler.scheduler import Batch, PrefillChunk, Scheduler
from engine.scheduler.sequence import Sequence
from engine.talker_engine import Capacity, Step, TalkerStats


class OwnTalkerEngine:
    def __init__(
        self,
        runners: dict[str, TalkerRunner],
        max_num_seqs: int,
        max_num_batched_tokens: int,
        *,
        overlap: bool,
        rows_cost: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """runners by model; those that share a KV cache share its blocks, and all share the rows.

        `overlap`: begin a frame before the last one's codes are taken. `rows_cost`: see Scheduler.
        """
        self.runners, self.overlap, self.clock = runners, overlap, clock
        caches = {id(runner.kv_cache): runner.kv_cache for runner in runners.values()}
        pools = {  # a cache's last block is for padding
            key: BlockManager(cache.shape[2] - 1, cache.shape[3]) for key, cache in caches.items()
        }
        self.pools = {model: pools[id(runner.kv_cache)] for model, runner in runners.items()}
        self.scheduler = Scheduler(
            self.pools, max_num_seqs, max_num_batched_tokens, rows_cost=rows_cost
        )
        self.in_flight: Frames | None = None  # begun, and not taken yet
        self._voices: dict[int, VoicePrompt] = {}  # of sequences that wait
        self._started: list[Sequence] = []
        self._failed: list[tuple[Sequence, Exception]] = []
        self.reset_stats()

    def capacity(self, model: str) -> Capacity:
        pool = self.pools[model]
        return Capacity(self.scheduler.max_num_seqs, pool.num_blocks * pool.block_size)

    def add(self, seq: Sequence, voice: VoicePrompt | None) -> None:
        if voice is not None:
            self._voices[seq.id] = voice
        self.scheduler.add(seq)

    def append(self, seq: Sequence, ids: tuple[int, ...], *, final: bool) -> None:
        started = seq.num_prefilled > 0
        if started:
            self.runners[seq.model].append_text(seq, ids, final)
        seq.append_text(ids, final=final, started=started)

    def finish(self, seq: Sequence, reason: FinishReason) -> None:
        self.scheduler.finish(seq, reason)
        self.runners[seq.model].stop(seq)
        self._voices.pop(seq.id, None)

    def forget_reference(self, key: str) -> None:
        for runner in self.runners.values():
            runner.prefixes.forget(key)

    @property
    def has_work(self) -> bool:
        return self.scheduler.has_work or self.in_flight is not None

    # ---- the step ----

    def step(self) -> Step:
        self._started, self._failed = [], []
        taken = self._step_overlapped() if self.overlap else self._step_plain()
        return Step(self._started, taken, self._failed, self.in_flight is not None)

    def _step_plain(self) -> list[tuple[Sequence, list[int] | None]]:
        batch = self.scheduler.schedule(self.clock())
        begun = self._run(batch)
        return self._take(begun)

    def _step_overlapped(self) -> list[tuple[Sequence, list[int] | None]]:
        batch = self.scheduler.schedule(self.clock())
        self.in_flight, begun_before = self._run(batch), self.in_flight
        return self._take(begun_before)

    def _run(self, batch: Batch | None) -> Frames | None:
        """Prefill, then begin a frame for every sequence of the batch that may speak."""
        if batch is None:
            return None
        self.num_steps += 1
        if batch.prefill:
            self._prefill(batch)
        started = self.clock()
        speaking = [seq for seq in batch.decode if not seq.is_finished]
        frames = self.runners[batch.model].decode(speaking) if speaking else None
        self.decode_s += self.clock() - started
        return frames

    def _take(self, frames: Frames | None) -> list[tuple[Sequence, list[int] | None]]:
        """A frame's codes; waits for them."""
        if frames is None:
            return []
        started = self.clock()
        pairs = list(zip(frames.seqs, frames.result(), strict=True))
        self.decode_s += self.clock() - started
        return [(seq, codes) for seq, codes in pairs if not seq.is_finished]

    def _prefill(self, batch: Batch) -> None:
        begun = [self._begin(chunk) for chunk in batch.prefill]
        chunks = [chunk for chunk in begun if chunk is not None and chunk.start < chunk.end]
        started = self.clock()
        if chunks:
            self.runners[batch.model].prefill(chunks)
        for chunk in batch.prefill:
            chunk.seq.num_prefilled = max(chunk.seq.num_prefilled, chunk.end)
            if chunk.seq.is_prefilled:
                chunk.seq.timing.prefilled = self.clock()
        elapsed = self.clock() - started
        num_tokens = sum(chunk.end - chunk.start for chunk in chunks)
        if num_tokens:
            self.scheduler.observe_prefill(batch.model, num_tokens, elapsed)
        self.prefill_s += elapsed

    def _begin(self, chunk: PrefillChunk) -> PrefillChunk | None:
        """What is left to do of a slice; the first one of a sequence starts it. None if it cannot
        be started: that ends this sequence and no other.
        """
        seq = chunk.seq
        if chunk.start == 0:
            try:
                seq.num_prefilled = self.runners[seq.model].start(seq, self._voices.get(seq.id))
            except Exception as error:
                self.finish(seq, FinishReason.ERROR)
                self._failed.append((seq, error))
                return None
            self.num_prompt_tokens += seq.num_prompt_tokens
            self.num_known_tokens += seq.num_prefilled
            self._voices.pop(seq.id, None)
            seq.timing.started = self.clock()
            self._started.append(seq)
        return PrefillChunk(seq, max(chunk.start, seq.num_prefilled), chunk.end)

    # ---- what others may ask ----

    @property
    def kv_cache_bytes(self) -> int:
        caches = {id(runner.kv_cache): runner.kv_cache for runner in self.runners.values()}
        return sum(cache.nbytes for cache in caches.values())

    def stats(self) -> TalkerStats:
        pools = {id(pool): pool for pool in self.pools.values()}.values()
        return TalkerStats(
            num_waiting=len(self.scheduler.waiting),
            num_running=len(self.scheduler.running),
            num_free_rows=len(self.scheduler.free_rows),
            num_rows=self.scheduler.max_num_seqs,
            num_free_blocks=sum(len(pool.free_blocks) for pool in pools),
            num_blocks=sum(pool.num_blocks for pool in pools),
            num_steps=self.num_steps,
            prefill_s=self.prefill_s,
            decode_s=self.decode_s,
            num_prefix_cache_queries=self.num_prompt_tokens,
            num_prefix_cache_hits=self.num_known_tokens,
        )

    def reset_stats(self) -> None:
        self.num_steps = self.num_prompt_tokens = self.num_known_tokens = 0
        self.prefill_s = self.decode_s = 0.0
        self.scheduler.prefill_s_per_token.clear()

    def check_integrity(self) -> None:
        self.scheduler.check_integrity()
        assert self.in_flight is None and not self._voices, "something of a sequence was kept"
        for runner in self.runners.values():
            assert not runner._prompt_embeds, "a prompt was kept"

    def close(self) -> None:
        pass
