"""A Prompt's ids -> the vectors a talker is prefilled with, and the text rows that follow.

In: a Prompt and, for a clone, its VoicePrompt. Out: prompt_embeds [num_tokens, H] and trailing text
rows [n, H], of which one is added to the input of each frame that is fed back.

Each row is the sum of a text side and a codec side. T(.) are embedded and projected text ids; PAD,
BOS and EOS are three special text rows; C(.) are codec embeddings; K are the control codes (think
block, speaker, pad), L rows. R are the frames of a reference recording, each the sum of its 16
embeddings. A prompt has these blocks, one after the other:

    block       text side                           codec side
    instruct    T(instruct)                         -
    role        T(role)                             -
    head        PAD x (L - 1), BOS                  K

    then, with the whole text before the first frame:
    text        T(reference text), T(text), EOS     C(pad) for each
    start       PAD for each                        C(bos), R

    or, with streaming text:
    start       T(reference text), T(text), EOS,    C(bos), R
                as many as C(bos) and R are, with
                PAD where there are fewer

With streaming text, the text rows that found no place in the prompt are the trailing rows. Only
cloning in context has a reference text and R; without it `start` is one row.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.models.code_predictor import CodePredictor
from engine.models.config import ModelConfig
from engine.models.talker import Talker
from engine.protocol import Prompt
from engine.runner.transfer import upload


@dataclass(frozen=True)
class VoicePrompt:
    """What a reference recording becomes: speaker_embedding [H], and ref_codes [R, 16] for in-
    context cloning.
    """

    speaker_embedding: Tensor
    ref_codes: Tensor | None


def prefix_length(prompt: Prompt) -> int:
    """Tokens before the text: instruction, role and head."""
    has_speaker = bool(prompt.speakers) or prompt.reference is not None
    head = (4 if prompt.language_id is not None else 3) + has_speaker + 1
    return len(prompt.instruct) + len(prompt.role) + head


def prompt_shape(prompt: Prompt, num_ref_frames: int) -> tuple[int, int]:
    """(prompt tokens, trailing text rows) without touching a tensor."""
    fixed = prefix_length(prompt)
    num_text = len(prompt.reference_text) + len(prompt.text) + (0 if prompt.text_open else 1)
    codec = 1 + num_ref_frames
    if prompt.streaming_text:
        return fixed + codec, max(0, num_text - codec)
    return fixed + num_text + codec, 0


class PromptEmbedder:
    def __init__(self, config: ModelConfig, talker: Talker, predictor: CodePredictor) -> None:
        self.config, self.codec = config, config.talker_config
        self.talker, self.predictor = talker, predictor
        self.device = talker.codec_embedding.device
        special = [config.tts_pad_token_id, config.tts_bos_token_id, config.tts_eos_token_id]
        self.pad, self.bos, self.eos = self.text(special).split(1)  # [1, H] each

    def text(self, ids: list[int] | tuple[int, ...]) -> Tensor:
        """Text ids -> [n, H]."""
        return self.talker.embed_text(upload(ids, self.device))

    def more_text(self, ids: tuple[int, ...], final: bool) -> Tensor:
        """Text rows [n, H] that follow a prompt whose text was open; `final` adds the end row."""
        rows = [self.text(ids)] if ids else [self.pad[:0]]
        return torch.cat([*rows, self.eos] if final else rows)

    def build(self, prompt: Prompt, voice: VoicePrompt | None) -> tuple[Tensor, Tensor]:
        """(prompt_embeds [num_tokens, H], trailing text rows [n, H])."""
        end = [] if prompt.text_open else [self.eos]
        text = torch.cat([self.text(prompt.reference_text + prompt.text), *end])
        spoken = self._spoken(voice.ref_codes if prompt.reference_text and voice else None)
        parts = [self.text(prompt.instruct + prompt.role), self._head(prompt, voice)]
        if prompt.streaming_text:
            now, trailing = text[: len(spoken)], text[len(spoken) :]
            padding = self.pad.expand(len(spoken) - len(now), -1)
            parts.append(torch.cat([now, padding]) + spoken)
        else:
            trailing = text[:0]
            parts += [text + self._codec([self.codec.codec_pad_id]), self.pad + spoken]
        return torch.cat(parts), trailing

    def _head(self, prompt: Prompt, voice: VoicePrompt | None) -> Tensor:
        c = self.codec
        if prompt.language_id is None:
            think = [c.codec_nothink_id, c.codec_think_bos_id, c.codec_think_eos_id]
        else:
            think = [
                c.codec_think_id,
                c.codec_think_bos_id,
                prompt.language_id,
                c.codec_think_eos_id,
            ]
        rows = torch.cat(
            [self._codec(think), *self._speaker(prompt, voice), self._codec([c.codec_pad_id])]
        )
        return rows + torch.cat([self.pad.expand(len(rows) - 1, -1), self.bos])

    def _speaker(self, prompt: Prompt, voice: VoicePrompt | None) -> list[Tensor]:
        if voice is not None:
            return [voice.speaker_embedding.to(self.pad.dtype)[None]]
        if not prompt.speakers:
            return []
        ids, weights = zip(*prompt.speakers, strict=True)
        rows = self._codec(list(ids))
        if len(ids) == 1:
            return [rows]
        return [(upload(weights, self.device, rows.dtype) @ rows)[None]]

    def _codec(self, ids: list[int]) -> Tensor:
        return self.talker.embed_codec(upload(ids, self.device))

    def _spoken(self, ref_codes: Tensor | None) -> Tensor:
        """C(bos), then one row per reference frame."""
        start = self._codec([self.codec.codec_bos_id])
        return start if ref_codes is None else torch.cat([start, self.embed_frames(ref_codes)])

    def embed_frames(self, codes: Tensor) -> Tensor:
        """codes [F, 16] -> [F, H]: the sum of a frame's 16 embeddings, accumulated in float32."""
        first = self.talker.embed_codec(codes[:, :1])
        rows = torch.cat([first, self.predictor.embed_residual(codes[:, 1:])], dim=1)
        return rows.sum(1)
