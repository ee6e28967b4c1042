# ruff: noqa: RUF001
"""Where long text is cut."""

import time

import pytest
import regex

from engine import FRAME_S
from qtts_openai.text.duration_estimate import expected_frames
from qtts_openai.text.segments import Size, split_sentences


def test_a_line_break_beats_a_space():
    text = "One cup of milk and a little lemon juice\nSome powdered sugar on top of it all"
    assert split_sentences([text], Size(60)) == text.split("\n")


def test_arabic_marks_are_places_to_cut():
    text = "وكان هناك الكثير من الناس في السوق، وكان الجو جميلا في ذلك اليوم البعيد"
    first, second = split_sentences([text], Size(50), "arabic")
    assert first.endswith("،") and second.startswith("وكان الجو")


@pytest.mark.parametrize("unit", ["e\u0301", "👨‍👩‍👧", "👍🏽", "각"])
def test_no_cut_within_what_is_seen_as_one_character(unit):
    pieces = split_sentences([unit * 100], Size(51))
    assert "".join(pieces) == unit * 100 and len(pieces) > 1
    whole = set(regex.findall(r"\X", unit * 3))
    assert all(set(regex.findall(r"\X", piece)) <= whole for piece in pieces)


def test_sentences_of_the_language_of_the_request():
    text = "Das ist z. B. ein Satz mit einer Abkürzung darin. Und hier kommt noch ein zweiter."
    pieces = split_sentences([text], Size(60), "german")
    assert pieces[0].endswith("darin.")


@pytest.mark.parametrize(
    "text", ["你好，今天天气很好。" * 400, "One more sentence is here. " * 200]
)
def test_pieces_are_bounded_by_the_seconds_they_take(text):
    pieces = split_sentences([text], Size(seconds=60.0), "chinese")
    seconds = [expected_frames(piece) * FRAME_S for piece in pieces]
    assert max(seconds) < 60.001 and min(seconds[:-1]) > 45
    assert "".join("".join(pieces).split()) == "".join(text.split())


def test_what_fits_is_left_alone():
    assert split_sentences([" As it is. ", 0.5], Size(100, 60)) == [" As it is. ", 0.5]


@pytest.mark.parametrize("unit", ["🇩", "\"'(", "a. ", "\n", "a", "你", "[", "a\u0301"])
def test_time_grows_with_the_length_only(unit):
    def took(num: int) -> float:
        text = (unit * num)[:num]
        started = time.thread_time()
        split_sentences([text], Size(400, 60.0))
        return time.thread_time() - started

    took(4000)
    assert took(64_000) < 16 * 4 * max(took(4000), 0.002)
