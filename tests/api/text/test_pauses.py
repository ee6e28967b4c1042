"""Pauses: what is read as one, and what it may cost."""

import pytest

from qtts_openai.errors import ApiError
from qtts_openai.text.pauses import split_pauses

READ = {
    "[pause:1]": 1.0,
    "[pause:.5s]": 0.5,
    "[pause: 500 ms ]": 0.5,
    "[pause 1s]": 1.0,
    "[pause:1sec]": 1.0,
    "[pause:1,5s]": 1.5,
    "[PAUSE=2 seconds]": 2.0,
    "[ pause : 250ms ]": 0.25,
    '<break time="1s"/>': 1.0,
    "<break time='500ms'>": 0.5,
    '<break strength="strong"/>': 0.7,
    "<break/>": 0.4,
}


@pytest.mark.parametrize("tag", READ)
def test_tags_that_are_clear(tag):
    assert split_pauses(f"One.{tag}Two.", 10, 60) == ["One.", READ[tag], "Two."]


@pytest.mark.parametrize(
    "tag",
    [
        "[pause:soon]",
        "[pause]",
        "[pause:1 hour]",
        "[pause:-1s]",
        "[pause:1s",
        "[pause=500",
        '<break time="long"/>',
    ],
)
def test_tags_that_are_not_clear_are_a_400(tag):
    with pytest.raises(ApiError, match="is no pause; write") as caught:
        split_pauses(f"One.{tag}", 10, 60)
    assert caught.value.status == 400 and caught.value.param == "input"


def test_other_brackets_are_text():
    text = "A [pauses] b [paused] <breakfast>"
    assert split_pauses(text, 10, 60) == [text]


def test_one_pause_and_all_together_are_bounded():
    with pytest.raises(ApiError, match="a pause of 11 s; at most 10 s"):
        split_pauses("a[pause:11s]", 10, 60)
    with pytest.raises(ApiError, match="pauses of 70 s in all; at most 60 s"):
        split_pauses("a[pause:10s]" * 7, 10, 60)
    assert len(split_pauses("a[pause:10s]" * 6, 10, 60)) == 12
