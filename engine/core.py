"""EngineCore: messages in, messages out, one step at a time. The one place that sees scheduler and
runners.

`step()` is the whole system: schedule, run, postprocess. It knows no processes, sockets or signals;
a test drives it directly.
"""

import logging
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait

import msgspec
import torch

from engine.admission import build_sequence, check_text
from engine.block_manager import BlockManager
from engine.checkpoint import Checkpoint
from engine.codec_runner import CodecRunner
from engine.codec_stage import CodecStage
from engine.config import EngineConfig
from engine.errors import InvalidPromptError
from engine.prompt import VoicePrompt
from engine.protocol import (
    Failed,
    Finished,
    FinishReason,
    Outbound,
    ReferenceAudio,
    Stats,
    Submit,
    Usage,
)
from engine.scheduler import Batch, PrefillChunk, Scheduler
from engine.sequence import Sequence
from engine.talker_runner import Frames, TalkerRunner
from engine.voice_encoder import VoiceEncoder

log = logging.getLogger(__name__)


class EngineCore:
    """All loaded checkpoints, their shared KV pools, the codec and the scheduler.

    kv_caches and codecs are by model; models that share a cache (same geometry) or a codec map to
    the same object.
    """

    def __init__(
        self,
        config: EngineConfig,
        checkpoints: dict[str, Checkpoint],
        kv_caches: dict[str, torch.Tensor],
        codecs: dict[str, CodecRunner],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config, self.checkpoints, self.codecs, self.clock = config, checkpoints, codecs, clock
        assert isinstance(config.max_num_seqs, int), "startup decides it"
        on_gpu = next(iter(kv_caches.values())).is_cuda
        self.overlap = on_gpu
        self.use_kernels = config.kernels == "triton" or (config.kernels == "auto" and on_gpu)
        pools = {  # a cache's last block is for padding
            id(cache): BlockManager(cache.shape[2] - 1, cache.shape[3])
            for cache in kv_caches.values()
        }
        self.pools = {model: pools[id(cache)] for model, cache in kv_caches.items()}
        self.runners = {
            model: TalkerRunner(
                c,
                kv_caches[model],
                config.max_num_seqs,
                config.max_tokens,
                kernels=self.use_kernels,
            )
            for model, c in checkpoints.items()
        }
        self.voices = {
            model: VoiceEncoder(c)
            for model, c in checkpoints.items()
            if c.speaker_encoder is not None
        }
        self.scheduler = Scheduler(self.pools, config.max_num_seqs, config.prefill_tokens)
        self.sound = CodecStage(codecs, config.chunk_ramp, clock)
        self.sequences: dict[int, Sequence] = {}
        self.encoding: dict[
            int, Future[VoicePrompt]
        ] = {}  # not yet in the scheduler: their voice is being encoded
        self.voice_prompts: dict[int, VoicePrompt] = {}
        self.ending: dict[int, FinishReason] = {}
        self.speaking: deque[Frames] = deque()  # frames whose codes have not been taken
        self.outbox: list[Outbound] = []
        self.num_steps = self.num_frames = self.num_runaways = 0
        self.prefill_s = self.decode_s = self.codec_s = 0.0

    # ---- messages ----

    def add(self, submit: Submit) -> None:
        """Queue one utterance. A bad prompt is answered by Failed; nothing is raised."""
        try:
            self._add(submit)
        except InvalidPromptError as error:
            self.outbox.append(Failed(submit.id, "invalid_prompt", str(error), error.param))

    def _add(self, submit: Submit) -> None:
        prompt, checkpoint = submit.prompt, self.checkpoints.get(submit.model)
        if checkpoint is None:
            raise InvalidPromptError(f"there is no model {submit.model!r}", param="model")
        num_ref_frames = 0
        if prompt.reference is not None:
            if submit.model not in self.voices:
                raise InvalidPromptError(
                    f"model {submit.model!r} cannot clone a voice", param="ref_audio"
                )
            voices, with_codes = self.voices[submit.model], bool(prompt.reference_text)
            future = voices.request(prompt.reference, with_codes)
            num_ref_frames = voices.num_ref_frames(prompt.reference) if with_codes else 0
        seq = build_sequence(
            submit, checkpoint, self.config, self.pools[submit.model], num_ref_frames
        )
        if submit.lead_s > 0:  # nobody waits for it: full chunks from the start
            seq.plays_since = self.clock() + submit.lead_s
            seq.num_chunks = len(self.config.chunk_ramp)
        self.sequences[seq.id] = seq
        if prompt.reference is not None:
            self.encoding[seq.id] = future
        else:
            self.scheduler.add(seq)

    def append(self, seq_id: int, text: tuple[int, ...], final: bool) -> None:
        """More text for a sequence that was submitted open. Text beyond its frame budget is cut
        and was the last; too late is no error.
        """
        seq = self.sequences.get(seq_id)
        if seq is None or not seq.text_open:
            return
        try:
            check_text(text, self.checkpoints[seq.model])
        except InvalidPromptError as error:
            self._fail(seq, error)
            return
        room = max(0, seq.max_frames - 1 - seq.num_trailing)
        text, final = text[:room], final or len(text) > room
        if seq.num_prefilled:
            self.runners[seq.model].append_text(seq, text, final)
        else:
            seq.prompt = msgspec.structs.replace(
                seq.prompt, text=seq.prompt.text + text, text_open=not final
            )
        seq.num_trailing += len(text) + final
        seq.text_open = not final

    def abort(self, seq_id: int) -> None:
        """The listener left: free everything now. Idempotent."""
        seq = self.sequences.get(seq_id)
        if seq is not None:
            self._end(seq, FinishReason.ABORT)

    def fail(self, seq_id: int, error: Exception) -> None:
        """End an utterance, queued or not, by what a message about it did."""
        seq = self.sequences.get(seq_id)
        if seq is not None:
            self._release(seq, FinishReason.ERROR)
        self._tell_failure(seq_id, error)

    def register_voice(self, model: str, reference: ReferenceAudio) -> None:
        """Keep a recording; for a model that cannot clone, its first use is refused instead."""
        if model in self.voices:
            self.voices[model].register(reference)
            self.sound.forget(lambda model, key: key in self.voices[model].samples)

    @property
    def has_work(self) -> bool:
        """Whether step() has something to do: also audio of a sequence that waits for text."""
        unheard = any(seq.codes for seq in self.scheduler.running)
        under_way = self.speaking or self.sound.queue or self.outbox
        return bool(self.scheduler.has_work or self.encoding or under_way or unheard)

    # ---- the step ----

    @torch.inference_mode()
    def step(self) -> list[Outbound]:
        """One iteration; what it has to tell.

        With `overlap`, the next frame is begun before the last one's codes are taken, so that a
        device never waits for the host. A sequence that turns out to have ended has then one frame
        too many under way, which is dropped.
        """
        self._collect_voices()
        batch = self.scheduler.schedule(self.clock())
        if batch is not None:
            self._run(batch)
        under_way = int(self.overlap and batch is not None and bool(batch.decode))
        self._take_frames(leave=under_way)
        self._decode_audio()
        outbox, self.outbox = self.outbox + self.sound.take(wait=not under_way), []
        return outbox

    def _collect_voices(self) -> None:
        """Sequences whose voice has been encoded enter the queue; with nothing else to do, wait for
        one.
        """
        if self.encoding and not self.scheduler.has_work:
            wait(self.encoding.values(), timeout=0.02, return_when=FIRST_COMPLETED)
        for seq_id in [seq_id for seq_id, future in self.encoding.items() if future.done()]:
            seq, future = self.sequences[seq_id], self.encoding[seq_id]
            error = future.exception()
            if error is not None:
                self._fail(seq, error)
                continue
            del self.encoding[seq_id]
            self.voice_prompts[seq_id] = future.result()
            self.scheduler.add(seq)

    def _run(self, batch: Batch) -> None:
        self.num_steps += 1
        if batch.prefill:
            self._prefill(batch)
        decode = [seq for seq in batch.decode if not seq.is_finished]
        if decode:
            started = self.clock()
            self.speaking.append(self.runners[batch.model].decode(decode))
            self.decode_s += self.clock() - started

    def _take_frames(self, leave: int) -> None:
        """The codes of frames begun, oldest first, until `leave` are left under way."""
        started = self.clock()
        while len(self.speaking) > leave:
            frames = self.speaking.popleft()
            for seq, codes in zip(frames.seqs, frames.result(), strict=True):
                if not seq.is_finished:
                    self._postprocess(seq, codes)
        self.decode_s += self.clock() - started

    def _prefill(self, batch: Batch) -> None:
        begun = [self._started(chunk) for chunk in batch.prefill]
        chunks = [chunk for chunk in begun if chunk is not None and chunk.start < chunk.end]
        started = self.clock()
        if chunks:
            self.runners[batch.model].prefill(chunks)
        for chunk in batch.prefill:
            chunk.seq.num_prefilled = max(chunk.seq.num_prefilled, chunk.end)
        elapsed = self.clock() - started
        num_tokens = sum(chunk.end - chunk.start for chunk in chunks)
        if num_tokens:
            self.scheduler.observe_prefill(batch.model, num_tokens, elapsed)
        self.prefill_s += elapsed

    def _started(self, chunk: PrefillChunk) -> PrefillChunk | None:
        """What is left to do of a slice; the first one of a sequence starts it. None if it cannot
        be started: that ends this sequence and no other.
        """
        seq = chunk.seq
        if chunk.start == 0:
            try:
                voice = self.voice_prompts.get(seq.id)
                seq.num_prefilled = self.runners[seq.model].start(seq, voice)
                self.sound.start(seq, voice.ref_codes if voice is not None else None)
            except Exception as error:
                self._fail(seq, error)
                return None
        return PrefillChunk(seq, max(chunk.start, seq.num_prefilled), chunk.end)

    def _postprocess(self, seq: Sequence, codes: list[int] | None) -> None:
        """Take a frame, or learn that the sequence has ended."""
        if codes is None:
            self.ending[seq.id] = FinishReason.STOP
            return
        seq.codes.append(codes)
        seq.num_frames += 1
        self.num_frames += 1
        if seq.num_frames >= seq.max_frames:
            self.ending[seq.id] = FinishReason.LENGTH
            if seq.guarded:
                self.num_runaways += 1
                log.warning(
                    "sequence %d stopped by the runaway guard after %d frames",
                    seq.id,
                    seq.num_frames,
                )

    def _decode_audio(self) -> None:
        """Due chunks to the codec, then the end of what has ended."""
        started = self.clock()
        ending = [self.sequences[seq_id] for seq_id in self.ending]
        running = [seq for seq in self.scheduler.running if seq.id not in self.ending and seq.codes]
        self.sound.decode(running, ending)
        for seq in ending:
            self._end(seq, self.ending[seq.id])
        self.codec_s += self.clock() - started

    def _end(self, seq: Sequence, reason: FinishReason) -> None:
        self._release(seq, reason)
        usage = Usage(seq.num_prompt_tokens, seq.num_frames)
        self.sound.end(Finished(seq.id, reason, usage))

    def _fail(self, seq: Sequence, error: BaseException) -> None:
        self._release(seq, FinishReason.ERROR)
        self._tell_failure(seq.id, error)

    def _tell_failure(self, seq_id: int, error: BaseException) -> None:
        """What an unforeseen error says is for the log: a listener gets a sentence of ours."""
        if isinstance(error, InvalidPromptError):
            self.outbox.append(Failed(seq_id, "invalid_prompt", str(error), error.param))
        else:
            log.error("sequence %d failed", seq_id, exc_info=error)
            message = f"the engine could not speak this (sequence {seq_id} in the server's log)"
            self.outbox.append(Failed(seq_id, "generation", message))

    def _release(self, seq: Sequence, reason: FinishReason) -> None:
        """The one place where a sequence gives everything back."""
        if self.encoding.pop(seq.id, None) is None:
            self.scheduler.finish(seq, reason)
        self.runners[seq.model].stop(seq)
        self.voice_prompts.pop(seq.id, None)
        self.ending.pop(seq.id, None)
        del self.sequences[seq.id]

    # ---- what others may ask ----

    def stats(self) -> Stats:
        pools = {id(pool): pool for pool in self.pools.values()}.values()
        return Stats(
            num_waiting=len(self.scheduler.waiting) + len(self.encoding),
            num_running=len(self.scheduler.running),
            num_free_blocks=sum(len(pool.free_blocks) for pool in pools),
            num_blocks=sum(pool.num_blocks for pool in pools),
            num_free_rows=len(self.scheduler.free_rows),
            num_rows=self.scheduler.max_num_seqs,
            num_steps=self.num_steps,
            num_frames=self.num_frames,
            num_runaways=self.num_runaways,
            prefill_s=self.prefill_s,
            decode_s=self.decode_s,
            codec_s=self.codec_s,
        )

    def close(self) -> None:
        for voices in self.voices.values():
            voices.close()
