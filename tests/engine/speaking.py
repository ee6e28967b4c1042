"""Utterances for a core with tiny checkpoints, and what comes out of it."""

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engine.client import EngineClient
from engine.core import EngineCore
from engine.protocol import (
    AudioChunk,
    Failed,
    Finished,
    Outbound,
    Prompt,
    ReferenceAudio,
    SamplingParams,
    Submit,
)
from engine.speech_stream import SpeechStream

ROLE = (1, 2, 3)
MODELS = tuple(
    f"{family}-{size}"
    for family in ("custom_voice", "voice_design", "base")
    for size in ("0b6", "1b7")
)
SPEAKERS = (3066, 3065, 3010, 3061, 2861)
LANGUAGES = (None, 2050, 2055, 2074)


def recording(seed: int, num_samples: int) -> ReferenceAudio:
    """Noise in a few tones' company."""
    rng = np.random.default_rng(seed)
    t = np.arange(num_samples) / 24_000
    tones = sum(np.sin(2 * np.pi * f * t) for f in rng.uniform(80, 900, 3))
    wave = 0.1 * tones + 0.05 * rng.standard_normal(num_samples)
    return ReferenceAudio(f"ref-{seed}-{num_samples}", wave.astype("<f4").tobytes())


REFERENCES = (recording(1, 9_600), recording(2, 20_000), recording(3, 1_500))


def prompt(num_text: int = 8, **fields: Any) -> Prompt:
    return Prompt(role=ROLE, text=tuple(range(10, 10 + num_text)), **fields)


def submit(id_: int, model: str = MODELS[0], num_frames: int = 10, **fields: Any) -> Submit:
    """Greedy, and exactly `num_frames` long."""
    params = SamplingParams(temperature=0.0, max_new_tokens=num_frames + 1, ignore_eos=True)
    return Submit(id_, model, fields.pop("prompt", prompt()), fields.pop("params", params))


def random_text(rng: random.Random, most: int) -> tuple[int, ...]:
    return tuple(rng.randrange(600) for _ in range(rng.randint(1, most)))


def random_prompt(rng: random.Random, model: str) -> Prompt:
    fields: dict[str, Any] = {
        "text": random_text(rng, 60),
        "language_id": rng.choice(LANGUAGES),
        "streaming_text": rng.random() < 0.5,
    }
    if model.startswith("custom_voice"):
        first, second = rng.sample(SPEAKERS, 2)
        mixed = ((first, 0.25), (second, 0.75))
        fields["speakers"] = mixed if rng.random() < 0.3 else ((first, 1.0),)
    if not model.startswith("base"):
        fields["instruct"] = random_text(rng, 20) if rng.random() < 0.7 else ()
    elif rng.random() < 0.9:
        fields["reference"] = rng.choice(REFERENCES).key
        fields["reference_text"] = random_text(rng, 12) if rng.random() < 0.5 else ()
    return Prompt(role=ROLE, **fields)


def random_params(rng: random.Random, most_frames: int) -> SamplingParams:
    return SamplingParams(
        temperature=rng.choice([0.0, 0.3, 0.9, 1.5, None]),
        top_k=rng.choice([0, 1, 5, 50, None]),
        top_p=rng.choice([0.5, 0.9, 1.0, None]),
        repetition_penalty=rng.choice([1.0, 1.05, 1.5, None]),
        subtalker_temperature=rng.choice([0.0, 0.9, None]),
        subtalker_top_k=rng.choice([3, None]),
        subtalker_top_p=rng.choice([0.7, None]),
        seed=rng.getrandbits(63),
        max_new_tokens=rng.randint(2, most_frames + 1),
        ignore_eos=rng.random() < 0.5,
    )


def random_submit(rng: random.Random, id_: int, most_frames: int = 40) -> Submit:
    model = rng.choice(MODELS)
    return Submit(id_, model, random_prompt(rng, model), random_params(rng, most_frames))


@dataclass
class Utterance:
    """All that a core told of one id."""

    codes: list[list[int]] = field(default_factory=list)
    pcm: bytes = b""
    num_chunks: int = 0
    finished: Finished | None = None
    failed: Failed | None = None

    @property
    def samples(self) -> np.ndarray:
        return np.frombuffer(self.pcm, "<i2").astype(np.int32)


class Speaker:
    """Drives a core and sorts what it says by id. Codes are taken where the core takes them."""

    def __init__(self, core: EngineCore) -> None:
        self.core = core
        self.heard: dict[int, Utterance] = {}
        self._postprocess = core._postprocess

    def __enter__(self) -> "Speaker":
        self.core._postprocess = self._tap  # type: ignore[method-assign]
        return self

    def __exit__(self, *exc: object) -> None:
        self.core._postprocess = self._postprocess  # type: ignore[method-assign]
        for id_ in list(self.core.sequences):
            self.core.abort(id_)
        self.core.step()

    def _tap(self, seq, codes) -> None:
        if codes is not None:
            self.heard[seq.id].codes.append(list(codes))
        self._postprocess(seq, codes)

    def add(self, submit: Submit) -> None:
        assert submit.id not in self.heard
        self.heard[submit.id] = Utterance()
        for reference in REFERENCES:
            if submit.prompt.reference == reference.key and submit.model.startswith("base"):
                self.core.register_voice(submit.model, reference)
        self.core.add(submit)

    def step(self) -> None:
        for fact in self.core.step():
            self._take(fact)

    def _take(self, fact: Outbound) -> None:
        assert isinstance(fact, AudioChunk | Finished | Failed)
        heard = self.heard[fact.id]
        assert heard.finished is None and heard.failed is None, "nothing comes after the end"
        if isinstance(fact, AudioChunk):
            heard.pcm += fact.pcm
            heard.num_chunks += 1
        elif isinstance(fact, Finished):
            heard.finished = fact
        else:
            heard.failed = fact

    def run(self, submits: Iterable[Submit] = ()) -> dict[int, Utterance]:
        """Until nothing is left to do."""
        for one in submits:
            self.add(one)
        while self.core.has_work:
            self.step()
        return self.heard


def speak(core: EngineCore, submits: Iterable[Submit]) -> dict[int, Utterance]:
    with Speaker(core) as speaker:
        return speaker.run(submits)


def say(core: EngineCore, one: Submit) -> Utterance:
    return speak(core, [one])[one.id]


def start(engine: EngineClient, one: Submit) -> SpeechStream:
    """A core's submission, by way of a client."""
    reference = next((r for r in REFERENCES if r.key == one.prompt.reference), None)
    return engine.submit(one.model, one.prompt, one.params, reference)


async def collect(stream: SpeechStream) -> bytes:
    return b"".join([pcm async for pcm in stream])


def assert_idle(core: EngineCore) -> None:
    """Every row and block is back, and nothing of any utterance is kept."""
    core.talker.check_integrity()
    stats = core.stats()
    assert (stats.num_waiting, stats.num_running) == (0, 0)
    assert stats.num_free_rows == stats.num_rows
    assert stats.num_free_blocks == stats.num_blocks
    for kept in (
        core.sequences,
        core.encoding,
        core.voice_prompts,
        core.finishing,
        core.outbox,
        core.codec_stage.queue,
    ):
        assert not kept
    assert not core.has_work
