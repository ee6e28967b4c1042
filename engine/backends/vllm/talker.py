"""VllmTalkerEngine: our admission in front of vLLM, and frames out of its steps.

A sequence gets a row and all the KV blocks that it may need by our own count, which is vLLM's, so
vLLM never has to preempt one. Then it is a request of vLLM. Where it has to pause, because its text
has not come or its listener is behind, the request ends; the sequence keeps its row and goes on as
a new request whose prompt is all that there is of it. What vLLM's prefix cache does not hold of
that is computed anew, with the same result.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from vllm import EngineArgs, SamplingParams
from vllm.inputs import tokens_input
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.llm_engine import LLMEngine
from vllm.v1.metrics.loggers import StatLoggerBase

from engine.backends.vllm.plugin import register
from engine.backends.vllm.prompt_ids import PromptIds
from engine.backends.vllm.worker import FeedbackPlan
from engine.errors import CheckpointError
from engine.layers.linear import WeightForm
from engine.loader.checkpoint import Checkpoint
from engine.protocol import FinishReason
from engine.runner.prompt_embeds import VoicePrompt
from engine.scheduler.admission import Admission
from engine.scheduler.block_manager import BlockManager
from engine.scheduler.sequence import Sequence
from engine.talker_engine import Capacity, Step, TalkerStats


@dataclass
class Run:
    """A sequence that has a row."""

    seq: Sequence
    number: int  # never given twice
    prompt_ids: list[int]
    salt: str
    request: str | None = None  # of vLLM; None: it pauses
    num_requests: int = 0
    code0: list[int] = field(default_factory=list)  # of the frames that were told
    drawn: dict[int, list[int]] = field(default_factory=dict)  # frames not told yet

    @property
    def num_allowed(self) -> int:
        """Frames that may be made: while text is to come, one more than there are text rows."""
        seq = self.seq
        return min(seq.max_frames, seq.num_trailing + 1) if seq.text_open else seq.max_frames

    @property
    def may_go_on(self) -> bool:
        return not self.seq.held and len(self.code0) < self.num_allowed


class _Preemptions(StatLoggerBase):
    """Counts them. There are none as long as our count of blocks is vLLM's."""

    num = 0

    def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
        type(self).num = 0

    def record(self, scheduler_stats: Any, iteration_stats: Any, *_: Any, **__: Any) -> None:
        if iteration_stats is not None:
            type(self).num += iteration_stats.num_preempted_reqs

    def log_engine_initialized(self) -> None:
        pass


def launch(
    args: dict[str, Any],
    checkpoint: Checkpoint,
    *,
    num_blocks: int,
    kernels: bool,
    cuda_graphs: bool,
    form: WeightForm | None,
    int8: bool,
) -> "VllmTalkerEngine":
    """Start vLLM with these arguments, and open a feedback of as many rows and blocks."""
    register()
    llm = LLMEngine.from_engine_args(EngineArgs(**args), stat_loggers=[_Preemptions])
    random.seed()  # vLLM has set it; sequences without a seed draw theirs from it
    plan = FeedbackPlan(
        num_rows=args["max_num_seqs"],
        num_blocks=num_blocks,
        block_size=args["block_size"],
        max_tokens=args["max_model_len"],
        kernels=kernels,
        cuda_graphs=cuda_graphs,
        form=form,
        int8=int8,
    )
    found = min(llm.collective_rpc("qtts_open", args=(plan,)))
    if found < num_blocks:
        raise CheckpointError(
            f"vLLM made {found} KV blocks of {num_blocks} that were planned: lower "
            "engine.kv_cache_memory or engine.max_num_seqs"
        )
    pool = BlockManager(num_blocks, plan.block_size)
    return VllmTalkerEngine(llm, checkpoint, pool, plan.num_rows)


class VllmTalkerEngine:
    def __init__(
        self,
        llm: LLMEngine,
        checkpoint: Checkpoint,
        pool: BlockManager,
        num_rows: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """llm: with a feedback (worker.py) of as many rows and blocks."""
        c = checkpoint.config.talker_config
        self.llm, self.pool, self.eos, self.clock = llm, pool, c.codec_eos_token_id, clock
        self.overlap = bool(llm.vllm_config.scheduler_config.async_scheduling)
        self.admission = Admission({checkpoint.info.id: pool}, num_rows)
        self.prompt_ids = PromptIds(c.vocab_size)
        self.runs: dict[int, Run] = {}  # by number
        self.by_request: dict[str, Run] = {}
        self._voices: dict[int, VoicePrompt] = {}  # of sequences that wait
        self._next_run = 0
        self.num_steps = 0
        self.prefill_s = self.decode_s = 0.0

    def _call(self, method: str, *args: Any) -> Any:
        """On every rank; the first one's answer."""
        return self.llm.collective_rpc(f"qtts_{method}", args=args)[0]

    def capacity(self, model: str) -> Capacity:
        # No more than the pool has: options.py sees to that.
        return Capacity(
            self.admission.max_num_seqs, self.llm.vllm_config.model_config.max_model_len
        )

    # ---- what EngineCore tells ----

    def add(self, seq: Sequence, voice: VoicePrompt | None) -> None:
        if voice is not None:
            self._voices[seq.id] = voice
        self.admission.add(seq)

    def append(self, seq: Sequence, ids: tuple[int, ...], *, final: bool) -> None:
        started = self._run_of(seq) is not None
        if started:
            self._call("append", seq.row, seq.num_trailing, ids, final)
        seq.append_text(ids, final=final, started=started)

    def finish(self, seq: Sequence, reason: FinishReason) -> None:
        run = self._run_of(seq)
        if run is not None:
            self._pause(run)
            del self.runs[run.number]
        self._voices.pop(seq.id, None)
        self.admission.finish(seq, reason)

    def forget_reference(self, key: str) -> None:
        self.prompt_ids.forget(key)

    def _run_of(self, seq: Sequence) -> Run | None:
        return next((run for run in self.runs.values() if run.seq is seq), None)

    @property
    def has_work(self) -> bool:
        return bool(self.admission.waiting) or any(run.may_go_on for run in self.runs.values())

    # ---- the step ----

    def step(self) -> Step:
        step = Step()
        for seq in self.admission.admit():
            self._start(seq, step)
        for run in self.runs.values():
            if run.request is None and run.may_go_on:
                self._request(run)
            elif run.seq.held:
                self._pause(run)
        if not self.by_request:
            return step
        began, has_prefill = self.clock(), any(not run.code0 for run in self.runs.values())
        outputs = self.llm.step()
        for number, frame, *codes in self._call("take"):
            if number in self.runs:
                self.runs[number].drawn[frame] = codes
        for output in outputs:
            self._tell(output, step)
        self._count(self.clock() - began, has_prefill)
        in_flight = self.overlap and bool(self.by_request)
        return Step(step.started, step.frames, step.failed, in_flight)

    def _start(self, seq: Sequence, step: Step) -> None:
        self._next_run += 1
        try:
            self._call("start", seq, self._next_run, self._voices.pop(seq.id, None))
        except Exception as error:
            self.finish(seq, FinishReason.ERROR)
            step.failed.append((seq, error))
            return
        ids = self.prompt_ids.ids(seq.prompt, seq.num_prompt_tokens)
        run = Run(seq, self._next_run, ids, self.prompt_ids.salt(seq.prompt))
        self.runs[run.number] = run
        step.started.append(seq)

    def _request(self, run: Run) -> None:
        """Have vLLM go on with a sequence until it ends or must pause."""
        known = len(run.code0)
        # A prompt's rows are told by its ids. Those of frames are not, so what goes on after a
        # pause, and what will, shares nothing with others.
        shared = not known and not run.seq.text_open
        salt = run.salt if shared else f"run {run.number}"
        prompt = tokens_input(run.prompt_ids + run.code0, cache_salt=salt)
        params = SamplingParams(
            temperature=0.0,  # takes the one token that our logits leave
            max_tokens=run.num_allowed - known,
            stop_token_ids=[self.eos],
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
            extra_args={"row": run.seq.row},
        )
        run.request = f"{run.number}.{run.num_requests}"
        run.num_requests += 1
        self.by_request[run.request] = run
        self.llm.add_request(run.request, prompt, params)

    def _pause(self, run: Run) -> None:
        if run.request is not None:
            self.llm.abort_request([run.request])
            del self.by_request[run.request]
            run.request = None

    def _tell(self, output: Any, step: Step) -> None:
        run = self.by_request.get(output.request_id)
        if run is None:
            return
        seq = run.seq
        seq.num_prefilled = seq.num_prompt_tokens
        for token in output.outputs[0].token_ids:
            if token == self.eos:
                step.frames.append((seq, None))
            else:
                step.frames.append((seq, run.drawn.pop(len(run.code0))))
                run.code0.append(token)
                seq.num_scheduled += 1
        if output.finished:
            del self.by_request[output.request_id]
            run.request = None

    def _count(self, elapsed_s: float, has_prefill: bool) -> None:
        """vLLM mixes prompts and frames in a step: one with a prompt counts as prefill."""
        self.num_steps += 1
        if has_prefill:
            self.prefill_s += elapsed_s
        else:
            self.decode_s += elapsed_s

    # ---- what others may ask ----

    @property
    def kv_cache_bytes(self) -> int:
        config = self.llm.vllm_config
        num_ranks: int = config.parallel_config.tensor_parallel_size
        return num_ranks * int(config.cache_config.kv_cache_memory_bytes)

    def stats(self) -> TalkerStats:
        return TalkerStats(
            num_waiting=len(self.admission.waiting),
            num_running=len(self.admission.running),
            num_free_rows=len(self.admission.free_rows),
            num_rows=self.admission.max_num_seqs,
            num_free_blocks=len(self.pool.free_blocks),
            num_blocks=self.pool.num_blocks,
            num_steps=self.num_steps,
            prefill_s=self.prefill_s,
            decode_s=self.decode_s,
            num_preemptions=_Preemptions.num,
        )

    def reset_stats(self) -> None:
        self.num_steps, self.prefill_s, self.decode_s = 0, 0.0, 0.0

    def check_integrity(self) -> None:
        self.admission.check_integrity()
        kept = self.runs or self.by_request or self._voices or self.llm.has_unfinished_requests()
        assert not kept, "something of a sequence was kept"

    def close(self) -> None:
        """Ends the processes of other ranks, too."""
        self.llm.engine_core.shutdown()
