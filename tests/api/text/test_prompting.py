"""Layouts and languages, with a tokenizer small enough to count by hand."""

import re
import shutil

import pytest

from engine import CheckpointError
from qtts_openai.errors import ApiError
from qtts_openai.text.prompt_builder import PromptBuilder, find_language, load_tokenizer
from tests.api.fake_engine import model_info


@pytest.fixture(scope="module")
def builder(tokenizer_dir):
    return PromptBuilder(model_info("m", tokenizer_dir))


def text_of(builder, ids) -> str:
    return builder.tokenizer.decode(list(ids), skip_special_tokens=False)


def test_text_is_cut_out_of_its_template(builder):
    prompt = builder.build("Hi there.")
    assert text_of(builder, prompt.role) == "<|im_start|>assistant\n"
    assert len(prompt.role) == 3
    assert text_of(builder, prompt.text) == "Hi there."
    assert (prompt.instruct, prompt.reference_text, prompt.language_id) == ((), (), None)


def test_a_text_that_ends_in_a_line_break_is_cut_by_position(builder):
    assert text_of(builder, builder.build("Hi\n").text) == "Hi\n"


def test_instruct_is_the_whole_block(builder):
    prompt = builder.build("Hi.", instruct="Whisper.")
    assert text_of(builder, prompt.instruct) == "<|im_start|>user\nWhisper.<|im_end|>\n"


def test_reference_text_is_the_body_alone(builder):
    prompt = builder.build("Hi.", reference="key", reference_text="What was said.")
    assert text_of(builder, prompt.reference_text) == "What was said."
    assert prompt.reference == "key"


def test_unicode_is_composed(builder):
    assert builder.build("e\u0301").text == builder.build("\u00e9").text


@pytest.mark.parametrize(
    ("language", "speaker", "expected"),
    [
        ("auto", "ryan", None),
        ("english", "ryan", 2050),
        ("auto", "dylan", 2074),
        ("chinese", "eric", 2062),
        ("english", "dylan", 2050),
    ],
)
def test_dialects_follow_their_speakers(builder, language, speaker, expected):
    speakers = ((builder.model.speakers[speaker], 1.0),)
    assert builder.build("Hi.", language=language, speakers=speakers).language_id == expected


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("Auto", "auto"),
        ("", "auto"),
        ("English", "english"),
        ("EN", "english"),
        ("en-US", "english"),
        ("zh_CN", "chinese"),
        ("a", "english"),
        ("z", "chinese"),
    ],
)
def test_languages_by_name_or_code(builder, name, found):
    assert find_language(name, builder.model) == found


def test_unknown_languages(builder):
    with pytest.raises(ApiError, match="Auto, Chinese, English"):
        find_language("hindi", builder.model)
    assert find_language("h", builder.model, lenient=True) == "auto"


@pytest.mark.parametrize("file", ["vocab.json", "merges.txt", "tokenizer_config.json"])
@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b"\xff\xfe", b'{"a": "b"}'])
def test_tokenizer_files_that_are_missing_or_broken(tokenizer_dir, tmp_path, file, content):
    shutil.copytree(tokenizer_dir, tmp_path, dirs_exist_ok=True)
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_bytes(content)
    if (file, content) in {("merges.txt", b""), ("tokenizer_config.json", b'{"a": "b"}')}:
        return  # no merges, no added tokens: legal
    with pytest.raises(CheckpointError, match=re.escape(str(tmp_path))):
        load_tokenizer(tmp_path)


def test_pretokenizers_differ_where_case_changes_inside_a_word(tokenizer_dir):
    def words(name):
        tokenizer = load_tokenizer(tokenizer_dir, name)
        return [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str("HelloWorld it's")]

    assert words("qwen") == ["HelloWorld", "Ġit", "'s"]
    assert words("mistral") == ["Hello", "World", "Ġit", "'s"]
