"""Who can read a sentence aloud: a checkpoint in the engine, and the teacher it learnt from."""

import subprocess
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import torch

from engine.config import EngineConfig, ModelSpec, Quantization
from engine.protocol import (
    SAMPLE_RATE_HZ,
    AudioChunk,
    Finished,
    FinishReason,
    SamplingParams,
    Submit,
)
from engine.startup import build
from qtts_openai.text.pipeline import TextOptions, normalize
from qtts_openai.text.prompt_builder import PromptBuilder
from qtts_openai.text.segments import Size, split_sentences
from training.codes import PHONES, encode, parse
from training.voice_space import SPEAKERS as VOICES
from training.voice_space import TEACHERS

TEACHER = Path(__file__).parent / "work" / "teacher_dump"
SPEAKERS = ("ava", "max")  # the teachers' own voices among voice_space.SPEAKERS
MODEL = "voice"
TEXT = TextOptions(level="full")  # as the settings of the embedded models have it


class Reading(NamedTuple):
    """codes are [T, 16]; samples are floats, mono; `cpu_s` is what the engine took of one core."""

    codes: np.ndarray
    samples: np.ndarray
    rate_hz: int
    by_itself: bool = True  # not stopped by the runaway guard
    cpu_s: float = 0.0

    def phones(self) -> list[str]:
        return phones_of(self.codes)


def phones_of(codes: np.ndarray) -> list[str]:
    """Those that begin in the frames of codes [T, 16], without pauses."""
    begin = codes[:, 1:4].ravel()
    return [PHONES[code - 1] for code in begin if 1 < code <= len(PHONES)]


class Reader:
    """A checkpoint directory in the engine as the server runs it, on one thread, one sentence at
    a time, with the checkpoint's own sampling.
    """

    def __init__(self, checkpoint: str, quantization: Quantization = "none") -> None:
        config = EngineConfig(device="cpu", threads=1, max_num_seqs=1, quantization=quantization)
        self.core, ready = build(config, [ModelSpec(MODEL, checkpoint)])
        self.prompts = PromptBuilder(ready.models[0])
        self._codes: list[list[int]] = []
        self._postprocess = self.core._postprocess
        self.core._postprocess = self._tap  # type: ignore[method-assign]

    def _tap(self, seq, codes) -> None:
        if codes is not None:
            self._codes.append(list(codes))
        self._postprocess(seq, codes)

    def read(
        self,
        text: str,
        speaker: str,
        *,
        streaming: bool,
        language: str,
        params: SamplingParams,
        segment_chars: int | None = None,
    ) -> Reading:
        """Through the server's text stage. With `segment_chars`, longer texts are cut at sentences
        as the server does.
        """
        text = normalize(text, TEXT, language)
        pieces = split_sentences([text], Size(chars=segment_chars)) if segment_chars else [text]
        readings = [
            self._read(piece, speaker, streaming, language, params)
            for piece in pieces
            if isinstance(piece, str)
        ]
        return Reading(
            np.concatenate([reading.codes for reading in readings]),
            np.concatenate([reading.samples for reading in readings]),
            SAMPLE_RATE_HZ,
            all(reading.by_itself for reading in readings),
            sum(reading.cpu_s for reading in readings),
        )

    def _read(
        self, text: str, speaker: str, streaming: bool, language: str, params: SamplingParams
    ) -> Reading:
        row = self.prompts.model.speakers[speaker]
        prompt = self.prompts.build(
            text, language=language, speakers=((row, 1.0),), streaming_text=streaming
        )
        self._codes, pcm, reason = [], b"", None
        started = time.process_time()
        self.core.add(Submit(1, MODEL, prompt, params))
        while self.core.has_work:
            for fact in self.core.step():
                assert isinstance(fact, AudioChunk | Finished), fact
                if isinstance(fact, AudioChunk):
                    pcm += fact.pcm
                else:
                    reason = fact.reason
        cpu_s = time.process_time() - started
        codes = np.array(self._codes, np.int64).reshape(-1, 16)
        return Reading(codes, _floats(pcm), SAMPLE_RATE_HZ, reason is FinishReason.STOP, cpu_s)

    @torch.inference_mode()
    def render(self, codes: np.ndarray) -> Reading:
        """Codes of another reader, through this checkpoint's decoder."""
        codec = self.core.codecs[MODEL]
        codec.start(0)
        pcm = b"".join(codec.decode([0], [[frame]]).result()[0] for frame in codes.tolist())
        return Reading(codes, _floats(pcm), SAMPLE_RATE_HZ)


def has_teacher() -> bool:
    """Whether flite's dump tool has been built; teacher.py does it."""
    return TEACHER.exists()


def teach(texts: list[str], speaker: str) -> list[Reading | None]:
    """How the teacher reads; None where it has nothing to say."""
    voice = VOICES[speaker]
    with TemporaryDirectory() as folder:
        file = Path(folder) / "pcm"
        lines = "".join(f"{text}\n" for text in texts)
        dump = subprocess.run(
            [TEACHER, TEACHERS[voice.teacher], file],
            input=lines,
            text=True,
            capture_output=True,
            check=True,
        ).stdout.splitlines()
        pcm, at = file.read_bytes(), 0
    readings: list[Reading | None] = []
    for line in dump:
        num_bytes = 2 * int(line.rsplit("\t", 1)[1])
        parsed = parse(line)
        coded = encode(parsed[0], voice) if parsed is not None else None
        samples = _floats(pcm[at : at + num_bytes])
        readings.append(Reading(coded[0].astype(np.int64), samples, 16_000) if coded else None)
        at += num_bytes
    assert len(readings) == len(texts)
    return readings


def _floats(pcm: bytes) -> np.ndarray:
    return np.frombuffer(pcm, "<i2").astype(np.float32) / 32768
