"""Descriptions that VoiceDesign learns from: whole, with every trait, and in no test's words."""

from pathlib import Path

import numpy as np
import pytest

from training.descriptions import PEOPLE, TRAITS, describe, designed, some_description
from training.styles import STYLES, between, some_mix, some_styles, styled
from training.voice_space import DIRECTIONS, SPEAKERS, WHISPER, embedding, features

RNG = np.random.default_rng(5)


@pytest.fixture(scope="module")
def made() -> set[str]:
    """Enough that each pattern comes up many times."""
    return {some_description(RNG)[1] for _ in range(1500)}


def test_every_blank_is_filled(made: set[str]):
    for words in made:
        assert words and not set("{}|") & set(words), words


@pytest.mark.parametrize("trait", TRAITS)
def test_a_trait_is_said_in_one_of_its_words(trait: str):
    words = [word.lower() for column in TRAITS[trait][1:] for word in column.split("|")]
    for person in PEOPLE:
        said = describe(RNG, person, [trait]).lower()
        assert any(word in said for word in words), said


def test_descriptions_to_judge_by_are_held_back(made: set[str]):
    judged = (Path(__file__).parents[2] / "training/eval_descriptions.txt").read_text()
    held = {line.split("|")[0].strip().lower().rstrip(".") for line in judged.splitlines()}
    assert not held & {words.lower().rstrip(".") for words in made}


def test_traits_move_the_voice_their_way():
    man = PEOPLE["man"]
    assert designed("man", ["deep"]).pitch < man.pitch < designed("man", ["high"]).pitch
    assert designed("man", ["slow"]).rate < man.rate < designed("man", ["fast"]).rate
    assert designed("man", ["whispering"]).breath == WHISPER


def test_styles():
    for _ in range(200):
        styles, words = some_styles(RNG)
        assert words and set(styles) <= set(STYLES)
    assert styled(SPEAKERS["ava"], ["low", "slow"]).pitch < SPEAKERS["ava"].pitch


def test_a_mix_lies_between_and_keeps_its_teacher():
    low, high = SPEAKERS["uncle_fu"], SPEAKERS["ono_anna"]
    mixed = between(low, high, 0.5)
    assert low.pitch < mixed.pitch < high.pitch and mixed.teacher == low.teacher
    voice, weights = some_mix(RNG, 1)
    assert voice.teacher == 1 and sum(weights.values()) == pytest.approx(1)
    assert SPEAKERS[max(weights, key=weights.__getitem__)].teacher == 1


def test_an_embedding_says_its_features():
    for voice in SPEAKERS.values():
        np.testing.assert_allclose(
            embedding(voice) @ DIRECTIONS.T / 16, features(voice), atol=1e-4, rtol=0
        )
