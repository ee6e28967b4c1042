"""Names that nobody can see, or take for another."""

import pytest

from qtts_openai.errors import ApiError
from qtts_openai.voices import names

UNSEEN = ("\ufe0f", "\u3164", "\u2800", "\u115f", "vivian\ufe0f", "viv\u034fian", "a\U000e0100")


@pytest.mark.parametrize("name", UNSEEN)
def test_invisible_characters_make_no_name(name):
    with pytest.raises(ApiError) as caught:
        names.clean(name)
    assert (caught.value.status, caught.value.param) == (400, "name")


@pytest.mark.parametrize("name", ["ava+max", "Ava (2) + max", "max(0.5)", "AVA"])
def test_what_a_request_reads_as_a_mix_is_no_free_name(name):
    with pytest.raises(ApiError) as caught:
        names.check_free(name, {"ava", "max"})
    assert caught.value.code == "name_taken"


@pytest.mark.parametrize("name", ["ava+me", "Anna (2)", "max power", "+", "(1)"])
def test_other_names_with_a_plus_or_brackets_are_free(name):
    names.check_free(name, {"ava", "max"})


def test_an_emoji_may_be_red_and_is_the_same_as_in_black():
    assert names.clean("I \u2764\ufe0f you") == "I \u2764\ufe0f you"
    assert names.key("\u2764\ufe0f") == names.key("\u2764")


@pytest.mark.parametrize("name", ["default", "DEFAULT", "dеfault"])  # noqa: RUF001
def test_a_word_with_a_meaning_of_its_own_is_taken(name):
    with pytest.raises(ApiError, match="choose another"):
        names.check_free(name, ())
