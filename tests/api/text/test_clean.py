# ruff: noqa: RUF001
"""What `clean` does to texts as people and language models write them."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtts_openai.text.pipeline import MAX_PASSES, TextOptions, normalize
from qtts_openai.text.pronounce import pronounce
from qtts_openai.text.spoken import GROWTH, SPARE

CLEAN, FULL = TextOptions("clean"), TextOptions("full")
ANSWERS = json.loads((Path(__file__).parent / "chat_answers.json").read_text("utf-8"))

CASES = {
    # Emoji, with the space beside them.
    "Close the door. 🎉 The weather is nice.": "Close the door. The weather is nice.",
    "Hello! 👋 How are you?": "Hello! How are you?",
    "I ❤️ music.": "I music.",
    "Good job 👍!": "Good job!",
    "👨‍👩‍👧 A family 🇫🇷": "A family",
    "Press 1️⃣ now": "Press 1 now",
    "wind🍃mill": "wind mill",
    "🎉": "party popper",
    "© 2024, a ™ sign": "© 2024, a ™ sign",
    # Line ends and white space.
    "One.\r\n\r\nTwo.\rThree.\u2028Four.": "One.\n\nTwo.\nThree.\nFour.",
    "wide     spaces\u00a0and\u202ftabs\there ": "wide spaces and tabs here",
    # What nobody sees.
    "win\u00addow \ue000a\u200bb\x00c\ufe0fd\u3164e\ufffdf": "window abcdef",
    "\u200b": "",
    # One form of each letter.
    "cafe\u0301 ﬁne 𝗕𝗼𝗹𝗱 ＡＢ１ ﾃﾞ": "café fine Bold AB1 デ",
    "Ⓗⓘ ʰᵉ ℍ Ⅳ ㎏ a\u2011b 3\u20125": "Hi he H IV kg a-b 3–5",
    "Z\u0337a\u0338l\u0335go\u0301": "Zalgó",
    "你好，世界！ H₂O ½ x²": "你好，世界！ H₂O ½ x²",
    # Markup.
    "[the window](https://example.com/a)": "the window",
    "![A cat](cat.png) sleeps": "A cat sleeps",
    "~~window~~ **bold** *it* `code`": "window bold it code",
    "## Head\n\ntext": "Head.\n\ntext",
    "| a | b |\n|---|---|\n| c. | d |": "a, b.\nc. d",
    "- [ ] one\n- [x] two": "one.\ntwo",
    "> quote\n\n---\n\nrest": "quote.\n\nrest",
    "See this[^1].\n\n[^1]: A note": "See this.\n\nA note",
    "Code: ```python\nprint('hi')\n``` That is all.": "Code:\n\nprint('hi').\n\nThat is all.",
    "<speak>Hi <b>you</b></speak><br>there": "Hi you.\n\nthere",
    '<break time="500ms"/>Hi<think></think>': "Hi",
    "<p>One</p><p>Two &amp; three</p>": "One.\n\nTwo & three",
    "a&nbsp;b &lt; c": "a b < c",
    "<!-- hidden -->Seen": "Seen",
    "<script>alert(1)</script>Seen": "Seen",
    "<|im_start|>assistant\nHi <tts_pad>there": "assistant.\nHi there",
    "<|im_<|x|>start|>Hi": "Hi",
    "<think>Let me see.</think>Yes": "Let me see.\nYes",
    '<img src="a.png" alt="A cat"> and <a href="x>y">more</a>': "A cat and more",
    "<ruby>漢<rt>かん</rt></ruby>字": "漢字",
    # Words are not lost with a tag that is never closed.
    "<script>Use this. Then go.": "Use this. Then go.",
    "<!-- Seen and this": "Seen and this",
    "`x < 3` and `a -> b`, `List<int>`": "x < 3 and a -> b, List int",
    # Numbers of lists are those that are written.
    "1. a\n   1. b\n2. c": "1. a.\n\n1. b.\n\n2. c",
    "100. hundred\n1986. A great year": "100. hundred.\n1986. A great year",
    # Formulas.
    r"$$E = mc^2$$ and \(a_1+b\) and $x^{10}$": "E = mc² and a 1+b and x¹⁰",
    r"\[ x = \frac{-b \pm \sqrt{b^2}}{2a} \]": "x = −b ± √b² ÷ 2a",
    r"Mix \(about 2 minutes\) \[sic\]": "Mix (about 2 minutes) [sic]",
    "It costs $5 and $10, or x_y = $6.": "It costs $5 and $10, or x_y = $6.",
    # What only looks like markup.
    "5*3*2 and 2 * 3 * 4": "5*3*2 and 2 * 3 * 4",
    "~50 to ~60": "~50 to ~60",
    "a < b, x<y and y>z": "a < b, x<y and y>z",
    "a List<String> of <your name>": "a List String of your name",
    "[Anna]: Hello\n[Bob]: Hi": "[Anna]: Hello.\n[Bob]: Hi",
    "snake_case_name and C:\\new": "snake_case_name and C:\\new",
    "1986. A great year": "1986. A great year",
    "    four spaces in front": "four spaces in front",
    # Lines.
    "Red\nBlue\nGreen": "Red.\nBlue.\nGreen",
    'Title\n(see below)\n"quoted."\nEnd:\nlist': 'Title.\n(see below).\n"quoted."\nEnd:\nlist',
    "你好\n世界": "你好。\n世界",
    "1. Open the door.\n2. Go home.": "1. Open the door.\n2. Go home.",
    (
        "Prose that an editor has wrapped at some width is no list,\n"
        "and goes on in the next line as if nothing had happened\nthere."
    ): (
        "Prose that an editor has wrapped at some width is no list, "
        "and goes on in the next line as if nothing had happened there."
    ),
    # What a model reads well is left alone.
    "Hello there, world.": "Hello there, world.",
    "It costs $5 & more (50%): OK": "It costs $5 & more (50%): OK",
    "?!": "?!",
}


@pytest.mark.parametrize(("text", "expected"), CASES.items(), ids=range(len(CASES)))
def test_clean(text, expected):
    assert normalize(text, CLEAN) == expected


def test_none_changes_nothing():
    text = " **Hi** 🎉\r\n\u200b"
    assert normalize(text, TextOptions("none")) == text


@pytest.mark.parametrize(
    ("step", "text", "expected"),
    [
        ("line_ends", "a\rb", "ab"),  # then only a control character
        ("emoji", "a 🎉 b", "a 🎉 b"),
        ("invisible", "a\u00adb", "a\u00adb"),
        ("letters", "ﬁn", "ﬁn"),
        ("formulas", "$x^2$", "$x^2$"),
        ("markup", "**a**", "**a**"),
        ("spaces", "a  b", "a  b"),
        ("line_marks", "a\nb", "a\nb"),
    ],
)
def test_each_step_can_be_left_out(step, text, expected):
    assert normalize(text, TextOptions("clean", (step,))) == expected
    assert normalize(text, CLEAN) != expected


def test_emoji_can_be_named_in_the_language_of_the_text():
    named = TextOptions("clean", emoji="name")
    assert normalize("Hi 🎉 you", named, "english") == "Hi party popper you"
    assert normalize("Hallo 🎉", named, "german") == "Hallo konfettibombe"


def test_code_blocks_can_be_left_out():
    text = "Before.\n\n```python\nprint(1)\n```\n\nAfter `x`."
    assert "print" in normalize(text, CLEAN)
    dropped = normalize(text, TextOptions("clean", code_blocks="drop"))
    assert dropped == "Before.\n\nAfter x."
    indented = normalize("    In *front*.", TextOptions("clean", code_blocks="drop"))
    assert indented == "In front."


@pytest.mark.parametrize("length", [43, 44, 45])
def test_marks_of_lines_do_not_join_them_the_next_time(length):
    once = normalize("word " * 8 + "x" * (length - 40) + "\nnext line", CLEAN)
    assert normalize(once, CLEAN) == once


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("→ no 🎉 → picture", "→ no → picture"),
        ("🎉🎉 two", "two"),
        ("a 🎉 🎉 b", "a b"),
        ("a 🎉\n🎉 b", "a.\nb"),
        ("a\t🎉, b", "a, b"),
        ("⁉ ‼ 〰 stay, ↔️ goes", "⁉ ‼ 〰 stay, goes"),
    ],
)
def test_emoji_leave_no_gap(text, expected):
    assert normalize(text, CLEAN) == expected


def words(text: str) -> list[str]:
    """Lower case, no marks; "and" within numbers is a matter of taste."""
    return re.sub(r"[^\w']+|\band\b", " ", text.replace("’", "'").lower()).split()


@pytest.mark.parametrize("index", range(len(ANSWERS)))
def test_chat_answers_come_out_as_cleaned_by_hand(index):
    answer, by_hand = ANSWERS[index]
    assert words(normalize(answer, FULL, "english")) == words(by_hand)


MARKS = (
    "** * _ ` ```"
    " ~~ # > - + 1. 10 | --- [ ] ( ) ]( < > </b> <b> <br> <p> & &amp; &lt; \\ \\* : ; "
    ". , ! word Anna 5 $5 3.14 https://example.com a@b.com 12:30 😀 👍🏽 🇫🇷 \u00ad \u200d e\u0301 "
    "ﬁ 你 。 <|im_end|> [x]: [^1] ½ ² = % ' \""
)
PIECES = st.sampled_from([*MARKS.split(" "), "\n", "\n\n", "\r\n", " ", "  ", "    ", "\t"])
TEXTS = st.lists(PIECES, max_size=40).map("".join) | st.text(max_size=80)


@settings(max_examples=50)
@given(TEXTS)
def test_cleaning_again_changes_nothing(text):
    once = normalize(text, CLEAN, "english")
    assert normalize(once, CLEAN, "english") == once


@pytest.mark.parametrize("text", [*CASES, *(answer for answer, _ in ANSWERS)], ids=lambda _: "")
def test_saying_again_changes_nothing(text):
    said = normalize(text, FULL, "english")
    assert normalize(said, FULL, "english") == said


@settings(max_examples=50)
@given(TEXTS, st.sampled_from(["english", "german", "french", "spanish", "italian", "chinese"]))
def test_texts_do_not_explode(text, language):
    assert len(normalize(text, CLEAN, language)) <= 4 * len(text) + 100
    assert len(normalize(text, FULL, language)) <= GROWTH * (4 * len(text) + 100) + SPARE + 1


@given(st.text(alphabet="abc XYZ,.!?\n", max_size=200))
def test_no_letter_is_lost(text):
    said = normalize(text, FULL, "english")
    assert list(filter(str.isalpha, said)) == list(filter(str.isalpha, text))


@pytest.mark.parametrize(
    "unit", ["[a](", "**a ", "<b>", "> ", "- a\n", "😀 ", "&amp;", "`x", "$1 "]
)
def test_time_grows_with_the_length_only(unit):
    import time

    def took(num: int) -> float:
        text = (unit * num)[:num]
        started = time.thread_time()
        normalize(text, FULL, "english")
        return time.thread_time() - started

    took(2000)
    assert took(32_000) < 16 * 4 * max(took(2000), 0.002)


def test_deep_nesting_ends():
    text = "&amp;" + "amp;" * (3 * MAX_PASSES) + "lt;b> word"
    assert "word" in normalize(text, CLEAN)


def test_pronunciations_are_found_in_any_form():
    assert pronounce("cafe\u0301!", {"café": "coffee"}) == "coffee!"
    assert pronounce("café!", {"cafe\u0301": "coffee"}) == "coffee!"
    assert pronounce("Anna\u2019s", {"Anna's": "hers"}) == "hers"
    assert pronounce("Anna's", {"Anna\u2019s": "hers"}) == "hers"
