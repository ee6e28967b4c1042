# ruff: noqa: RUF001
"""Marks of writing as the pauses that they mean, and lines as one."""

import pytest

from qtts_openai.text.marks import plain_marks
from qtts_openai.text.pipeline import TextOptions, normalize

CASES = {
    "Hmm... it (the cake) is gone — all of it!!": "Hmm, it, the cake, is gone, all of it!",
    "Wait… is it? Oh... I see... Well...": "Wait, is it? Oh, I see. Well.",
    "Blue House – small. Well-known - and far.": "Blue House, small. Well-known, and far.",
    "word—word, she said — why? — no": "word, word, she said, why? no",
    "A (cheap) or B (fast).": "A, cheap, or B, fast.",
    "(See below.) Go on. (No!) He left (why?).": "See below. Go on. No! He left, why?",
    "(one) (two) three: (four), five": "one, two, three: four, five",
    "f(x), item(s), x...y, ... and so": "f(x), item(s), x...y, ... and so",
    "minus -five - six, twenty-one": "minus -five, six, twenty-one",
    "你好（世界）…好": "你好（世界）…好",
    "破折号……省略号": "破折号……省略号",
}


@pytest.mark.parametrize(("text", "plain"), CASES.items(), ids=range(len(CASES)))
def test_plain_marks(text, plain):
    assert plain_marks(text) == plain
    assert plain_marks(plain) == plain


def test_full_is_one_line_of_plain_marks():
    text = "## Colors\n\n- Red (2)\n- Blue – 3–5\n\nThat is all"
    said = "Colors. Red, two. Blue, three to five. That is all."
    assert normalize(text, TextOptions("full"), "english") == said
    assert "\n" in normalize(text, TextOptions("full", ("one_line",)), "english")
    assert "(two)" in normalize(text, TextOptions("full", ("plain_marks",)), "english")
    assert "(2)" in normalize(text, TextOptions("clean"), "english")
