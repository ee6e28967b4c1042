"""Who the box can be: eleven by name, a voice from a description, a voice from a recording.

Pitch is measured in the sound; words are the phones that the codes say (training/codes.py), beside
the teacher's. Whether people would understand them is for `make listen`.
"""

import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from engine import EMBEDDED
from engine.config import EngineConfig, ModelSpec
from engine.protocol import FinishReason, ReferenceAudio, SamplingParams, Submit
from engine.startup import build
from qtts_openai.text.prompt_builder import PromptBuilder
from tests.engine.speaking import Speaker, Utterance
from training.judge import distance
from training.readers import phones_of
from training.styles import STYLES
from training.voice_space import SPEAKERS, Voice, embedding

PHONES = {
    text: phones.split()
    for text, phones in json.loads(
        (Path(__file__).parents[1] / "golden" / "teacher_phones.json").read_text()
    ).items()
}
TEXTS = (
    "The kettle is boiling, so please make the tea.",
    "She could not find her glasses anywhere.",
    "Thank you for helping me carry the boxes upstairs.",
)
OLD_MAN = "an old man with a deep, slow voice"
GIRL = "a little girl, bright and quick"
NAMES = ("ava", "max", "uncle_fu", "ono_anna")
MOST_PHONES_WRONG = 0.25
RATE_HZ = 24_000


class Box:
    """The three shipped checkpoints in one core."""

    def __init__(self) -> None:
        config = EngineConfig(
            device="cpu", threads=1, max_num_seqs=16, max_model_len=2048, kv_cache_memory="64MB"
        )
        specs = [ModelSpec(checkpoint, checkpoint) for checkpoint in EMBEDDED]
        self.core, ready = build(config, specs)
        self.prompts = {model.id: PromptBuilder(model) for model in ready.models}
        self.ids = count(1)

    def speak(self, model: str, *, seed: int = 1, texts=TEXTS, **fields) -> list[Utterance]:
        """All texts at the same time."""
        params = SamplingParams(seed=seed)
        submits = [
            Submit(next(self.ids), model, self._prompt(model, text, fields), params)
            for text in texts
        ]
        with Speaker(self.core) as speaker:
            speaker.run(submits)
        return [speaker.heard[submit.id] for submit in submits]

    def _prompt(self, model: str, text: str, fields):
        return self.prompts[model].build(text, language="english", **fields)

    def named(self, name: str, **fields) -> list[Utterance]:
        rows = self.prompts["embedded"].model.speakers
        return self.speak("embedded", speakers=((rows[name], 1.0),), **fields)

    def described(self, description: str, **fields) -> list[Utterance]:
        return self.speak("embedded-voice-design", instruct=description, **fields)

    def cloned(self, samples: np.ndarray, **fields) -> list[Utterance]:
        """From the first three seconds of int16 samples."""
        wave = (samples[: 3 * RATE_HZ] / 32768).astype("<f4").tobytes()
        return self._like(ReferenceAudio(f"ref-{next(self.ids)}", wave), fields)

    def of_the_space(self, voice: Voice, **fields) -> list[Utterance]:
        """By its embedding, without a recording."""
        vector = embedding(voice).astype("<f4").tobytes()
        return self._like(ReferenceAudio(f"ref-{next(self.ids)}", b"", vector), fields)

    def _like(self, reference: ReferenceAudio, fields) -> list[Utterance]:
        self.core.register_voice("embedded-base", reference)
        return self.speak("embedded-base", reference=reference.key, **fields)


@pytest.fixture(scope="module")
def box() -> Iterator[Box]:
    box = Box()
    yield box
    box.core.close()


def joined(said: list[Utterance]) -> np.ndarray:
    return np.concatenate([one.samples for one in said])


def num_frames(said: list[Utterance]) -> int:
    return sum(len(one.codes) for one in said)


def pitch_hz(samples: np.ndarray) -> float:
    """The median over voiced stretches of 40 ms: where the autocorrelation is highest between 60
    and 400 Hz, and half of that at rest.
    """
    size, lags = int(0.04 * RATE_HZ), np.arange(RATE_HZ // 400, RATE_HZ // 60)
    found = []
    for start in range(0, len(samples) - 2 * size, size):
        here = samples[start : start + size + lags[-1]].astype(float)
        if np.sqrt(np.mean(here**2)) < 300:
            continue
        first = here[:size]
        moved = np.lib.stride_tricks.sliding_window_view(here, size)[lags[0] : lags[-1]]
        alike = moved @ first / np.sqrt((moved**2).sum(1) * (first @ first) + 1.0)
        # The shortest lag that is nearly as good as the best: not a multiple of the period.
        if alike.max() > 0.5:
            found.append(RATE_HZ / (lags[0] + np.argmax(alike > 0.92 * alike.max())))
    return float(np.median(found))


def share_wrong(said: list[Utterance], texts=TEXTS) -> float:
    """Phones wrong, of all."""
    wrong = sum(
        distance(phones_of(np.array(one.codes)), PHONES[text])
        for one, text in zip(said, texts, strict=True)
    )
    return wrong / sum(len(PHONES[text]) for text in texts)


def assert_whole(said: list[Utterance]) -> None:
    for one in said:
        assert one.finished is not None and one.finished.reason is FinishReason.STOP
    assert share_wrong(said) < MOST_PHONES_WRONG


@pytest.fixture(scope="module")
def neighbours(box: Box) -> dict[str, list[Utterance]]:
    """The named voices of voice_space.py, which Base knows as points of its space."""
    return {name: box.of_the_space(SPEAKERS[name]) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_a_point_of_the_space_is_a_voice(neighbours, name: str):
    said, voice = neighbours[name], SPEAKERS[name]
    assert_whole(said)
    teachers = np.array([frame[13] for one in said for frame in one.codes])
    assert np.mean(teachers == voice.teacher) > 0.9
    assert voice.pitch / 1.2 < pitch_hz(joined(said)) < voice.pitch * 1.2


@pytest.mark.parametrize("name", SPEAKERS)
def test_a_name_is_a_voice(box: Box, name: str):
    said, voice = box.named(name), SPEAKERS[name]
    assert_whole(said)
    frames = [tuple(frame[13:]) for one in said for frame in one.codes]
    assert np.mean([frame == voice.codes() for frame in frames]) > 0.7
    assert voice.pitch / 1.2 < pitch_hz(joined(said)) < voice.pitch * 1.2


@pytest.mark.parametrize("style", ["slow", "fast"])
def test_a_style_is_heard_beside_a_name(box: Box, style: str):
    """Pace; higher and lower are not heard yet (training/MODEL_CARD.md)."""
    asked = f"Speak {STYLES[style].split('|')[0]}."
    plain, styled = box.named("ava"), box.named("ava", instruct=asked)
    assert_whole(styled)
    longer = num_frames(styled) / num_frames(plain)
    assert longer > 1.1 if style == "slow" else longer < 0.9


def test_an_old_man_is_deep_and_slow(box: Box):
    said = box.described(OLD_MAN)
    assert_whole(said)
    assert pitch_hz(joined(said)) < 110
    assert num_frames(said) > 1.1 * num_frames(box.named("ava"))


def test_a_little_girl_is_high_and_quick(box: Box):
    said = box.described(GIRL)
    assert_whole(said)
    assert pitch_hz(joined(said)) > 230
    assert num_frames(said) < 0.95 * num_frames(box.described("a woman"))


def test_a_description_and_a_seed_are_the_same_voice_again(box: Box):
    first, again = (box.described(OLD_MAN, texts=TEXTS[:1], seed=3) for _ in range(2))
    assert first[0].codes == again[0].codes


@pytest.mark.parametrize("name", NAMES)
def test_three_seconds_are_enough_to_speak_alike(box: Box, neighbours, name: str):
    """Within four semitones of what was heard, and said with a man's or a woman's codes."""
    recording = joined(neighbours[name])
    said = box.cloned(recording)
    assert_whole(said)
    assert abs(12 * np.log2(pitch_hz(joined(said)) / pitch_hz(recording))) < 4
    teachers = np.array([frame[13] for one in said for frame in one.codes])
    assert np.mean((teachers > 0) == (SPEAKERS[name].teacher > 0)) > 0.9


def test_base_says_that_it_has_no_use_for_a_transcript(box: Box):
    assert not box.prompts["embedded-base"].model.uses_ref_text
    assert box.prompts["embedded"].model.uses_ref_text
