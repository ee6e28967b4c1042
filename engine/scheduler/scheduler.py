"""Which sequences run in the next step. Plain Python: no torch, and the time is an argument.

In: sequences that wait or run. Out: a Batch of one model: perhaps slices of prompts (prefill), and
then one frame for each of the model's running sequences (decode).

Who may run at all is admission.py's business.

Prefill yields to listeners: a slice is cut so that it takes no longer than the audio that the
listener with the least still has, and waits while that is nothing. It waits MAX_PREFILL_WAIT_S at
most. From then on prefill gets PREFILL_SHARE of the time even if listeners run out of audio, as
they do anyway if decode is slower than speech. So a prompt that takes c seconds alone starts to
speak about MAX_PREFILL_WAIT_S + c / PREFILL_SHARE after its turn came, whatever else runs.

Where a step costs by its rows (`rows_cost`: on a CPU), those whose listeners have PLENTY_S of audio
wait while somebody has less than ENOUGH_S: the first frames of an utterance are made among few. And
those that have ENOUGH_S wait while a caller's only utterance has less than AHEAD_S, so that a flood
by another caller hardly slows it down.

The shortest prompt's turn is first, and where nobody listens a slice takes FREE_SLICE_S at most:
one long prompt keeps nobody's next sentence waiting. One of over LONG_PREFILL_S leaves each
listener LONG_LEAD_MARGIN_S of audio.
"""

from dataclasses import dataclass

from engine.protocol import FinishReason
from engine.scheduler.admission import Admission
from engine.scheduler.sequence import Sequence

MAX_PREFILL_WAIT_S = 0.5
PREFILL_SHARE = 0.2
# The longest slice of a prompt that streams may not be able to afford.
FORCED_SLICE_S = 0.1
# The longest slice where nobody streams: a prompt that comes now has to wait for its end.
FREE_SLICE_S = 0.25
MIN_PREFILL_TOKENS = 16
# A stream's lead that prefill leaves alone: room for the decode step and the codec after it. More
# where it would go on for long, at the edge of silence for everybody.
LEAD_MARGIN_S = 0.16
LONG_PREFILL_S, LONG_LEAD_MARGIN_S = 0.5, 0.5
ENOUGH_S, PLENTY_S, AHEAD_S = 0.5, 1.0, 5.0


@dataclass(frozen=True, slots=True)
class PrefillChunk:
    """Prompt positions start..end of one sequence."""

    seq: Sequence
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Batch:
    """One step of one model: prefill first, then decode (which includes sequences whose prefill
    ends here).
    """

    model: str
    prefill: list[PrefillChunk]
    decode: list[Sequence]


@dataclass
class Scheduler(Admission):
    max_num_batched_tokens: int
    rows_cost: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._models = list(self.pools)
        self.prefill_s_per_token: dict[str, float] = {}
        self._prefill_by: dict[str, float] = {}  # when a model's next slice must run, if any waits

    def schedule(self, now: float) -> Batch | None:
        """The next step, or None when nothing can run (every sequence waits for text or for its
        listener, or there is none).
        """
        self.admit()
        for _ in self._models:
            model = self._models.pop(0)
            self._models.append(model)
            batch = self._batch(model, now)
            if batch.prefill or batch.decode:
                for seq in batch.decode:
                    seq.num_scheduled += 1
                return batch
        return None

    def finish(self, seq: Sequence, reason: FinishReason) -> None:
        super().finish(seq, reason)
        if not self._due(seq.model):
            self._prefill_by.pop(seq.model, None)

    def observe_prefill(self, model: str, num_tokens: int, elapsed_s: float) -> None:
        """Learn what a prompt token costs: the last measurement, or the moving average if that is
        more. Within a prompt each slice looks back at more, so an average alone would lag behind.
        """
        cost = elapsed_s / num_tokens
        known = self.prefill_s_per_token.get(model, cost)
        self.prefill_s_per_token[model] = max(cost, 0.7 * known + 0.3 * cost)

    def _batch(self, model: str, now: float) -> Batch:
        prefill = self._prefill(model, now)
        ends = {chunk.seq for chunk in prefill if chunk.end == chunk.seq.num_prompt_tokens}
        ready = [seq for seq in self.running if (seq.is_prefilled or seq in ends) and seq.may_speak]
        decode = [seq for seq in ready if seq.model == model]
        if self.rows_cost:
            decode = _in_need(decode, ready, now)
        return Batch(model, prefill, decode)

    def _due(self, model: str) -> list[Sequence]:
        """Running sequences whose prompt is not done."""
        return [seq for seq in self.running if seq.model == model and not seq.is_prefilled]

    def _prefill(self, model: str, now: float) -> list[PrefillChunk]:
        due = self._due(model)
        if not due:
            self._prefill_by.pop(model, None)
            return []
        deadline = self._prefill_by.setdefault(model, now + MAX_PREFILL_WAIT_S)
        # The shortest first, so that nobody waits for a very long one.
        due.sort(key=lambda seq: seq.num_prompt_tokens - seq.num_prefilled)
        shortest = due[0].num_prompt_tokens - due[0].num_prefilled
        budget = left = self._prefill_budget(model, now, shortest, forced=now >= deadline)
        chunks = []
        for seq in due:
            if left <= 0:
                break
            end = min(seq.num_prompt_tokens, seq.num_prefilled + left)
            chunks.append(PrefillChunk(seq, seq.num_prefilled, end))
            left -= end - seq.num_prefilled
        taken_s = (budget - left) * self.prefill_s_per_token.get(model, 0.0)
        self._prefill_by[model] = min(deadline + taken_s / PREFILL_SHARE, now + MAX_PREFILL_WAIT_S)
        return chunks

    def _prefill_budget(self, model: str, now: float, shortest: int, *, forced: bool) -> int:
        """Prompt tokens that may run now without letting a stream of any model run dry; if
        `forced`, some in any case. `shortest`: tokens of the shortest prompt that waits.
        """
        streaming = [seq for seq in self.running if seq.is_prefilled and not seq.is_paused]
        lead = min((seq.buffered_s(now) for seq in streaming), default=float("inf"))
        cost = self.prefill_s_per_token.get(model)
        if not cost:
            return self.max_num_batched_tokens
        if lead == float("inf"):
            return min(
                self.max_num_batched_tokens, max(MIN_PREFILL_TOKENS, int(FREE_SLICE_S / cost))
            )
        kept_s = LONG_LEAD_MARGIN_S if shortest * cost > LONG_PREFILL_S else LEAD_MARGIN_S
        affordable = int((lead - kept_s) / cost)
        if affordable >= MIN_PREFILL_TOKENS:
            return min(self.max_num_batched_tokens, affordable)
        if not forced:
            return 0
        slice_s = FORCED_SLICE_S if lead < 0 else min(lead / 2, FORCED_SLICE_S)
        return min(self.max_num_batched_tokens, max(MIN_PREFILL_TOKENS, int(slice_s / cost)))


def _in_need(decode: list[Sequence], ready: list[Sequence], now: float) -> list[Sequence]:
    """Without those who have enough to hear while another of the ready ones needs the time more."""
    one_has_little = any(seq.lead_s(now) < ENOUGH_S for seq in ready)
    one_is_behind = any(seq.is_alone and seq.lead_s(now) < AHEAD_S for seq in ready)
    of_alone_s = PLENTY_S if one_has_little else float("inf")
    of_others_s = ENOUGH_S if one_is_behind else of_alone_s
    return [
        seq for seq in decode if seq.lead_s(now) < (of_alone_s if seq.is_alone else of_others_s)
    ]
