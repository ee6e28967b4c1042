"""Exact word times, optional: a CTC model of the configuration hears the speech and says when each
letter of its text is said. Needs the extra `alignment` (transformers).

It works in a thread of its own when an utterance is made, so nothing that is heard waits for it.
"""

import asyncio
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import soxr

from engine import SAMPLE_RATE_HZ
from qtts_openai.speech.words import Word

RATE_HZ = 16_000
# Longer ones keep their estimate: attention over all of it would take too long.
MAX_S = 60
MAX_PCM_BYTES = MAX_S * SAMPLE_RATE_HZ * 2


class Aligner:
    """`checkpoint`: a folder or name with a model for CTC over letters, such as wav2vec 2.0."""

    def __init__(self, checkpoint: str) -> None:
        self.checkpoint = checkpoint
        self._thread = ThreadPoolExecutor(1, "alignment")
        self._loaded: tuple[Any, Any] | None = None

    async def words(self, pcm: bytes, words: list[Word], speed: float) -> list[Word] | None:
        """None where they cannot be found: too long, or no letter that the model knows."""
        if not words or len(pcm) > MAX_PCM_BYTES:
            return None
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._words, pcm, words, speed)

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def load(self) -> tuple[Any, Any]:
        if self._loaded is None:
            from transformers import AutoModelForCTC, AutoProcessor

            model = AutoModelForCTC.from_pretrained(self.checkpoint).eval()
            self._loaded = model, AutoProcessor.from_pretrained(self.checkpoint)
        return self._loaded

    def _words(self, pcm: bytes, words: list[Word], speed: float) -> list[Word] | None:
        model, processor = self.load()
        wave = np.frombuffer(pcm, "<i2").astype(np.float32) / 32768
        wave = soxr.resample(wave, SAMPLE_RATE_HZ, RATE_HZ)
        inputs = processor(wave, sampling_rate=RATE_HZ, return_tensors="pt")
        logits = model(**inputs).logits[0].detach().float().log_softmax(-1).numpy()
        tokenizer = processor.tokenizer
        ids, owners = _letters(words, tokenizer.get_vocab(), tokenizer.word_delimiter_token)
        if not ids or len(ids) > len(logits):
            return None
        frames = align(logits, ids, tokenizer.pad_token_id)
        frame_s = len(pcm) / 2 / SAMPLE_RATE_HZ / len(logits) / speed
        return _timed(words, owners, frames, frame_s)


def _letters(words: list[Word], vocab: dict[str, int], gap: str) -> tuple[list[int], list[int]]:
    """Ids of the letters that the model knows, and whose word each is of (-1: between words)."""
    ids: list[int] = []
    owners: list[int] = []
    for number, word in enumerate(words):
        text = re.sub(r"[^\w']", "", word.text)
        spelt = next((t for t in (text, text.upper(), text.lower()) if _knows(vocab, t)), text)
        known = [vocab[letter] for letter in spelt if letter in vocab]
        if known and ids and gap in vocab:
            ids.append(vocab[gap])
            owners.append(-1)
        ids += known
        owners += [number] * len(known)
    return ids, owners


def _knows(vocab: dict[str, int], text: str) -> bool:
    return all(letter in vocab for letter in text)


def align(scores: np.ndarray, ids: list[int], blank: int) -> list[tuple[int, int]]:
    """Log probabilities (frames, letters) -> the first frame of each id and the one after its last:
    the best path through the ids with blanks between them.
    """
    states = [blank]
    for id_ in ids:
        states += [id_, blank]
    num = len(states)
    same = np.array([i >= 2 and states[i] not in (blank, states[i - 2]) for i in range(num)])
    best = np.full(num, -np.inf)
    best[:2] = scores[0, states[:2]]
    steps = np.zeros((len(scores), num), np.int8)
    for frame in range(1, len(scores)):
        one = np.concatenate(([-np.inf], best[:-1]))
        two = np.where(same, np.concatenate(([-np.inf] * 2, best[:-2])), -np.inf)
        choices = np.stack((best, one, two))
        steps[frame] = choices.argmax(0)
        best = choices.max(0) + scores[frame, states]
    state = num - 1 if best[-1] >= best[-2] else num - 2
    spans: dict[int, list[int]] = {}
    for frame in range(len(scores) - 1, -1, -1):
        if state % 2:
            spans.setdefault(state // 2, []).append(frame)
        state -= int(steps[frame, state])
    return [(min(spans[i]), max(spans[i]) + 1) for i in range(len(ids))]


def _timed(
    words: list[Word], owners: list[int], frames: list[tuple[int, int]], frame_s: float
) -> list[Word]:
    """Words without a known letter take what the ones around them leave."""
    found: dict[int, tuple[int, int]] = {}
    for owner, (first, end) in zip(owners, frames, strict=True):
        begin, _ = found.get(owner, (first, end))
        found[owner] = begin, end
    out: list[Word] = []
    at = 0.0
    for number, word in enumerate(words):
        first, end = found.get(number, (round(at / frame_s), round(at / frame_s)))
        out.append(Word(word.text, first * frame_s, end * frame_s))
        at = out[-1].end_s
    return out
