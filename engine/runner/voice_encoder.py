"""Reference recordings -> VoicePrompt, once per recording, on a thread of its own so that running
streams go on.
"""

from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from engine.errors import InvalidPromptError
from engine.loader.checkpoint import Checkpoint
from engine.models.speaker_encoder import HOP, N_FFT
from engine.protocol import MAX_VOICES, SAMPLES_PER_FRAME, ReferenceAudio
from engine.runner.prompt_embeds import VoicePrompt

# Five frames of the spectrogram; the speaker encoder mirrors four at each edge.
MIN_SAMPLES = N_FFT + HOP
SAMPLE_BYTES = 4


class VoiceEncoder:
    """Speaker embeddings and codec codes of registered recordings, each computed at most once and
    only when asked.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        assert checkpoint.speaker_encoder is not None and checkpoint.codec_encoder is not None
        self.speaker_encoder, self.codec_encoder = (
            checkpoint.speaker_encoder,
            checkpoint.codec_encoder,
        )
        self.device = self.speaker_encoder.fc.weight.device
        self.embedding_size = checkpoint.info.embedding_size
        self.samples: OrderedDict[str, bytes] = OrderedDict()  # as they came, by key
        self.done: dict[tuple[str, bool], Future[VoicePrompt]] = {}
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="voice-encoder")

    def register(self, reference: ReferenceAudio) -> None:
        """Checks nothing: a bad recording fails the utterances that need its voice."""
        self.samples[reference.key] = reference.samples
        self.samples.move_to_end(reference.key)
        if reference.embedding:
            self.done[reference.key, False] = self._given(reference.embedding)
        while len(self.samples) > MAX_VOICES:
            self.forget(next(iter(self.samples)))

    def forget(self, key: str) -> None:
        self.samples.pop(key, None)
        for with_codes in (False, True):
            self.done.pop((key, with_codes), None)

    def _given(self, embedding: bytes) -> "Future[VoicePrompt]":
        row = torch.from_numpy(np.frombuffer(embedding, dtype="<f4").copy())
        given: Future[VoicePrompt] = Future()
        if len(row) == self.embedding_size and row.isfinite().all():
            given.set_result(VoicePrompt(row.to(self.device), None))
        else:
            message = f"a speaker embedding has {self.embedding_size} finite numbers"
            given.set_exception(InvalidPromptError(message, param="speaker_embedding"))
        return given

    def request(self, key: str, with_codes: bool) -> "Future[VoicePrompt]":
        """The VoicePrompt of a registered recording, now or soon. InvalidPromptError if there is
        none of that key.
        """
        if key not in self.samples:
            raise InvalidPromptError(
                f"reference voice {key!r} is not registered", param="ref_audio"
            )
        self.samples.move_to_end(key)
        known = self.done.get((key, with_codes))
        is_given = not len(self.samples[key])
        failed = known is not None and known.done() and known.exception() is not None
        if known is None or (failed and not is_given):
            self.done[key, with_codes] = self._pool.submit(
                self.encode, self.samples[key], with_codes
            )
        return self.done[key, with_codes]

    def hear(self, samples: bytes) -> "Future[VoicePrompt]":
        """Of a recording that is not kept."""
        return self._pool.submit(self.encode, samples, False)

    def num_ref_frames(self, key: str) -> int:
        """Codec frames a registered recording becomes."""
        return -(-len(self.samples[key]) // (SAMPLE_BYTES * SAMPLES_PER_FRAME))

    @torch.inference_mode()
    def encode(self, samples: bytes, with_codes: bool) -> VoicePrompt:
        """samples: float32 little-endian at 24 kHz. InvalidPromptError if there is no voice to be
        had from them.
        """
        if len(samples) % SAMPLE_BYTES:
            raise InvalidPromptError("the reference audio is broken", param="ref_audio")
        if len(samples) < MIN_SAMPLES * SAMPLE_BYTES:
            raise InvalidPromptError("the reference audio is too short", param="ref_audio")
        wave = torch.from_numpy(np.frombuffer(samples, dtype="<f4").copy()).to(self.device)
        embedding = self.speaker_encoder(wave)
        # A row that is not finite would outlive its sequence in the KV cache, and spoil others.
        if not embedding.isfinite().all():
            raise InvalidPromptError("the reference audio is broken", param="ref_audio")
        voice = VoicePrompt(embedding, self.codec_encoder(wave) if with_codes else None)
        if self.device.type == "cuda":  # other streams than this thread's will read it
            torch.cuda.current_stream(self.device).synchronize()
        return voice

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
