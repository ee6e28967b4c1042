"""Reference recordings -> VoicePrompt, once per recording, on a thread of its own so that running
streams go on.
"""

from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from engine.checkpoint import Checkpoint
from engine.errors import InvalidPromptError
from engine.models.speaker_encoder import N_FFT
from engine.prompt import VoicePrompt
from engine.protocol import MAX_VOICES, SAMPLES_PER_FRAME, ReferenceAudio


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
        self.samples: OrderedDict[str, Tensor] = OrderedDict()
        self.done: dict[tuple[str, bool], Future[VoicePrompt]] = {}
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="voice-encoder")

    def register(self, reference: ReferenceAudio) -> None:
        wave = torch.from_numpy(np.frombuffer(reference.samples, dtype="<f4").copy())
        self.samples[reference.key] = wave
        self.samples.move_to_end(reference.key)
        while len(self.samples) > MAX_VOICES:
            forgotten, _ = self.samples.popitem(last=False)
            for with_codes in (False, True):
                self.done.pop((forgotten, with_codes), None)

    def request(self, key: str, with_codes: bool) -> "Future[VoicePrompt]":
        """The VoicePrompt of a registered recording, now or soon. InvalidPromptError if there is
        none of that key.
        """
        if key not in self.samples:
            raise InvalidPromptError(
                f"reference voice {key!r} is not registered", param="ref_audio"
            )
        self.samples.move_to_end(key)
        if (key, with_codes) not in self.done:
            self.done[key, with_codes] = self._pool.submit(
                self.encode, self.samples[key], with_codes
            )
        return self.done[key, with_codes]

    def num_ref_frames(self, key: str) -> int:
        """Codec frames a registered recording becomes."""
        return -(-len(self.samples[key]) // SAMPLES_PER_FRAME)

    @torch.inference_mode()
    def encode(self, wave: Tensor, with_codes: bool) -> VoicePrompt:
        """wave [S] float32 at 24 kHz."""
        wave = wave.to(self.device)
        padded = torch.nn.functional.pad(wave, (0, max(0, N_FFT - len(wave))))
        codes = self.codec_encoder(wave) if with_codes else None
        return VoicePrompt(self.speaker_encoder(padded), codes)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
