"""EngineCore: one worker's messages in and out, one step at a time.

In: Submit, Append, Hold, Abort and RegisterVoice as method calls. Out: `step()` returns AudioChunk,
Finished and Failed. A step asks the TalkerEngine for frames of codes (16 ints, 80 ms of speech) and
gives frames that are due to the codec, which makes PCM of them. This is the only module that sees
both. It knows no processes, sockets or signals; a test drives it directly.
"""

import logging
import math
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import asdict

import torch

from engine.config import EngineConfig
from engine.errors import InvalidPromptError
from engine.input_processor import build_sequence, check_text
from engine.loader.checkpoint import Checkpoint
from engine.protocol import (
    FRAMES_PER_TOKEN,
    Embedding,
    Failed,
    Finished,
    FinishReason,
    Outbound,
    ReferenceAudio,
    Stats,
    Submit,
    Usage,
)
from engine.runner.codec_runner import CodecRunner
from engine.runner.codec_stage import CodecStage
from engine.runner.prompt_embeds import VoicePrompt
from engine.runner.voice_encoder import VoiceEncoder
from engine.scheduler.sequence import Sequence
from engine.talker_engine import TalkerEngine

log = logging.getLogger(__name__)


class EngineCore:
    """All loaded checkpoints: their talker, their codecs, and the voices that are cloned."""

    def __init__(
        self,
        config: EngineConfig,
        checkpoints: dict[str, Checkpoint],
        talker: TalkerEngine,
        codecs: dict[str, CodecRunner],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """checkpoints and codecs by model; models that share a codec map to the same object."""
        self.config, self.checkpoints, self.clock = config, checkpoints, clock
        self.talker, self.codecs = talker, codecs
        self.voices = {
            model: VoiceEncoder(c)
            for model, c in checkpoints.items()
            if c.speaker_encoder is not None
        }
        self.codec_stage = CodecStage(codecs, config.chunk_ramp, clock)
        self.sequences: dict[int, Sequence] = {}
        # Sequences whose reference is being encoded; the talker does not have them yet.
        self.encoding: dict[int, Future[VoicePrompt]] = {}
        # Recordings that are being encoded for an Embed message.
        self.hearing: dict[int, Future[VoicePrompt]] = {}
        # Voices of sequences that the talker has not started; the codec needs them at the start.
        self.voice_prompts: dict[int, VoicePrompt] = {}
        self.finishing: dict[int, FinishReason] = {}
        self.outbox: list[Outbound] = []
        self.num_frames = self.num_runaways = 0
        self.codec_s = 0.0

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
        capacity = self.talker.capacity(submit.model)
        seq = build_sequence(submit, checkpoint, self.config, capacity.max_tokens, num_ref_frames)
        if submit.buffered_s > 0:  # its listener has audio left: full chunks from the start
            seq.playback_started_at = self.clock() + submit.buffered_s
            seq.num_chunks = len(self.config.chunk_ramp)
        self.sequences[seq.id] = seq
        seq.timing.received = self.clock()
        if prompt.reference is not None:
            self.encoding[seq.id] = future
        else:
            self.talker.add(seq, None)

    def append(self, seq_id: int, text: tuple[int, ...], final: bool) -> None:
        """More text for a sequence that was submitted open. What comes too late, or does not fit
        its frame budget, is not spoken: `Finished.num_text` tells how much was.
        """
        seq = self.sequences.get(seq_id)
        if seq is None or not seq.text_open:
            return
        seq.waiting_since = None
        try:
            check_text(text, self.checkpoints[seq.model])
        except InvalidPromptError as error:
            self.fail(seq.id, error)
            return
        room = max(0, seq.max_frames - 1 - seq.num_trailing)
        text, final = text[:room], final or len(text) > room
        self.talker.append(seq, text, final=final)
        if final and seq.guarded:
            self._guard(seq)

    def _guard(self, seq: Sequence) -> None:
        """Its text is known: from here on it may run no longer than if it had been from the start.
        Its blocks stay its own until the end.
        """
        expected = FRAMES_PER_TOKEN * (len(seq.prompt.text) + seq.num_appended)
        guard = self.config.guard_frames_base + math.ceil(self.config.guard_factor * expected)
        least = max(seq.num_scheduled, seq.num_trailing) + 1
        seq.max_frames = min(seq.max_frames, max(guard, least))

    def _close_overdue_texts(self) -> None:
        """A sequence that waits for text holds a row and its blocks: not for ever."""
        now = self.clock()
        for seq in [seq for seq in self.sequences.values() if seq.text_open]:
            if not seq.waits_for_text:
                seq.waiting_since = None
            elif seq.waiting_since is None:
                seq.waiting_since = now
            elif now - seq.waiting_since >= self.config.open_text_timeout_s:
                self.append(seq.id, (), final=True)

    @property
    def due_in_s(self) -> float | None:
        """When step() has something to do though no message comes; None: never."""
        since = [s.waiting_since for s in self.sequences.values() if s.waiting_since is not None]
        if not since:
            return None
        return max(0.0, min(since) + self.config.open_text_timeout_s - self.clock())

    def hold(self, seq_id: int, held: bool) -> None:
        """Pause a sequence, which keeps its row and blocks, or go on; too late is no error."""
        seq = self.sequences.get(seq_id)
        if seq is not None:
            seq.held = held

    def abort(self, seq_id: int) -> None:
        """The listener left: free everything now. Idempotent."""
        seq = self.sequences.get(seq_id)
        if seq is not None:
            self._end(seq, FinishReason.ABORT)

    def fail(self, seq_id: int, error: BaseException) -> None:
        """End an utterance, wherever it stands, and tell its listener why."""
        seq = self.sequences.get(seq_id)
        if seq is not None:
            self._release(seq, FinishReason.ERROR)
        self._report_failure(seq_id, error)

    def register_voice(self, model: str, reference: ReferenceAudio) -> None:
        """Keep a recording; for a model that cannot clone, its first use is refused instead."""
        if model in self.voices:
            self.voices[model].register(reference)
            self.codec_stage.forget(lambda model, key: key in self.voices[model].samples)

    def embed(self, id_: int, model: str, samples: bytes) -> None:
        if model not in self.voices:
            raise InvalidPromptError(f"model {model!r} hears no voices", param="model")
        self.hearing[id_] = self.voices[model].hear(samples)

    def forget_voice(self, key: str) -> None:
        """Keep nothing of a recording, and end the utterances that speak with it."""
        for seq in list(self.sequences.values()):
            if seq.prompt.reference == key:
                self.fail(seq.id, InvalidPromptError("the voice was deleted", param="voice"))
        for voices in self.voices.values():
            voices.forget(key)
        self.codec_stage.forget(lambda _model, known: known != key)
        self.talker.forget_reference(key)

    @property
    def has_work(self) -> bool:
        """Whether step() has something to do: also audio of a sequence that waits for text."""
        unheard = any(seq.codes for seq in self.sequences.values())
        under_way = self.codec_stage.queue or self.outbox
        encoding = self.encoding or self.hearing
        return bool(self.talker.has_work or encoding or under_way or unheard)

    # ---- the step ----

    @torch.inference_mode()
    def step(self) -> list[Outbound]:
        """One iteration; returns what the client is to be told, in order."""
        self._collect_voices()
        self._close_overdue_texts()
        step = self.talker.step()
        for seq in step.started:
            self._start_codec(seq)
        for seq, error in step.failed:
            self.fail(seq.id, error)
        for seq, codes in step.frames:
            if not seq.is_finished:
                self._postprocess(seq, codes)
        self._decode_audio()
        outbox, self.outbox = self.outbox + self.codec_stage.take(wait=not step.in_flight), []
        return outbox

    def _collect_voices(self) -> None:
        """Sequences whose voice has been encoded enter the queue; with nothing else to do, wait for
        one.
        """
        waiting = [*self.encoding.values(), *self.hearing.values()]
        if waiting and not self.talker.has_work:
            wait(waiting, timeout=0.02, return_when=FIRST_COMPLETED)
        for id_ in [id_ for id_, future in self.hearing.items() if future.done()]:
            self._tell_heard(id_, self.hearing.pop(id_))
        for seq_id in [seq_id for seq_id, future in self.encoding.items() if future.done()]:
            seq, future = self.sequences[seq_id], self.encoding[seq_id]
            error = future.exception()
            if error is not None:
                self.fail(seq.id, error)
                continue
            del self.encoding[seq_id]
            voice = self.voice_prompts[seq_id] = future.result()
            self.talker.add(seq, voice)

    def _tell_heard(self, id_: int, future: "Future[VoicePrompt]") -> None:
        if (error := future.exception()) is not None:
            self._report_failure(id_, error)
            return
        numbers = future.result().speaker_embedding.float().cpu().numpy()
        self.outbox.append(Embedding(id_, numbers.astype("<f4").tobytes()))

    def _start_codec(self, seq: Sequence) -> None:
        voice = self.voice_prompts.pop(seq.id, None)
        try:
            self.codec_stage.start(seq, voice.ref_codes if voice is not None else None)
        except Exception as error:
            self.fail(seq.id, error)

    def _postprocess(self, seq: Sequence, codes: list[int] | None) -> None:
        """Take a frame, or learn that the sequence has ended."""
        if codes is None:
            self.finishing[seq.id] = FinishReason.STOP
            return
        seq.codes.append(codes)
        seq.timing.framed = seq.timing.framed or self.clock()
        seq.num_frames += 1
        self.num_frames += 1
        if seq.num_frames >= seq.max_frames:
            self.finishing[seq.id] = FinishReason.LENGTH
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
        ending = [self.sequences[seq_id] for seq_id in self.finishing]
        running = [
            seq for seq in self.sequences.values() if seq.codes and seq.id not in self.finishing
        ]
        self.codec_stage.decode(running, ending)
        for seq in ending:
            self._end(seq, self.finishing[seq.id])
        self.codec_s += self.clock() - started

    def _end(self, seq: Sequence, reason: FinishReason) -> None:
        self._release(seq, reason)
        usage = Usage(seq.num_prompt_tokens, seq.num_frames)
        self.codec_stage.end(Finished(seq.id, reason, usage, seq.num_text_read))

    def _report_failure(self, seq_id: int, error: BaseException) -> None:
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
            self.talker.finish(seq, reason)
        self.voice_prompts.pop(seq.id, None)
        self.finishing.pop(seq.id, None)
        del self.sequences[seq.id]

    # ---- what others may ask ----

    def stats(self) -> Stats:
        talker = asdict(self.talker.stats())
        talker["num_waiting"] += len(self.encoding)
        return Stats(
            **talker,
            num_frames=self.num_frames,
            num_runaways=self.num_runaways,
            codec_s=self.codec_s,
        )

    def reset_stats(self) -> None:
        """A warm-up's costs and counts say nothing of later."""
        self.num_frames, self.num_runaways, self.codec_s = 0, 0, 0.0
        self.talker.reset_stats()

    def close(self) -> None:
        self.talker.close()
        for voices in self.voices.values():
            voices.close()
