# ruff: noqa: RUF001
"""However a text is cut, the same is spoken."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.dummy.tokenizer import write_random_tokenizer
from qtts_openai.live.feed import TextFeed
from qtts_openai.text.pauses import Part
from qtts_openai.text.prompt_builder import PromptBuilder
from qtts_openai.text.pronounce import pronounce
from tests.api.fake_engine import model_info

SAID = {"New York City": "the Big Apple", "SQL": "sequel"}
TEXTS = st.lists(
    st.sampled_from(
        [
            *("Hello", " there", ",", " 3", " kg", " **bold", " text**"),
            *("New York", " City", " SQL"),
            "\n",
            "  ",
            "[pause:",
            "500ms]",
            " [x",
            "(a b)",
            "你好",
            "，世界",
            "。",
            "🙂",
            "<|im_",
            "end|>",
        ]
    ),
    max_size=20,
).map("".join)


def feed() -> TextFeed:
    return TextFeed(lambda text: pronounce(text, SAID), SAID, (10.0, 60.0))


def spoken(pieces: list[str]) -> list[Part]:
    one, out = feed(), []
    for piece in pieces:
        out += one.push(piece)
    return [*out, *one.close()]


def cut(text: str, at: list[int]) -> list[str]:
    bounds = [0, *sorted(min(i, len(text)) for i in at), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(bounds)]


@settings(max_examples=150, deadline=None)
@given(text=TEXTS, at=st.lists(st.integers(0, 120), max_size=12))
def test_any_cut_gives_the_same_segments(text: str, at: list[int]) -> None:
    assert spoken(cut(text, at)) == spoken([text]) == spoken(list(text))


@settings(max_examples=100, deadline=None)
@given(text=st.text(st.sampled_from("ab ,.!?5é你\n'-"), max_size=60))
def test_no_letter_is_lost(text: str) -> None:
    said = "".join(spoken(list(text)))
    assert [c for c in said if c.isalnum()] == [c for c in text if c.isalnum()]


def test_words_wait_for_what_could_change_them() -> None:
    one = feed()
    assert list(one.push("Take")) == []
    assert list(one.push(" 3")) == ["Take"]
    assert list(one.push(" kg")) == []
    assert list(one.push(" to New")) == [" 3 kg", " to"]
    assert list(one.push(" York C")) == []
    assert list(one.push("ity soon")) == [" the Big Apple"]
    assert list(one.close()) == [" soon"]


def test_pauses_end_what_is_before_them() -> None:
    assert spoken(["One.[pau", "se: 500", " ms] Two."]) == ["One.", 0.5, "Two."]
    assert spoken(["One. [pause: soon] Two."]) == ["One.", " [pause: soon]", " Two."]


@pytest.mark.parametrize("text", ["What a day, my friend: we won!", "It's 7 o'clock, isn't it?"])
def test_ids_are_those_of_the_whole_text(text: str, tmp_path) -> None:
    write_random_tokenizer(tmp_path)
    builder = PromptBuilder(model_info("m", tmp_path))
    parts = TextFeed(str, {}, None)
    segments = [*parts.push(text), *parts.close()]
    assert len(segments) > 2
    ids = [i for part in segments for i in builder.text_ids(str(part))]
    assert tuple(ids) == builder.build(text).text
