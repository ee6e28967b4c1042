"""Ids against those of the official package, from tests/golden."""

import json
from pathlib import Path

import pytest

from qtts_openai.text.prompt_builder import PromptBuilder, find_language, load_tokenizer
from tests.api.fake_engine import SPEAKERS, model_info

CASES = json.loads((Path(__file__).parents[2] / "golden" / "cases.json").read_text("utf-8"))
# The official package lets a text spell control tokens; here they stay text.
SPEECH = [case for case in CASES["speech"] if "<|" not in case["text"]]


@pytest.mark.parametrize(("ours", "theirs"), [("qwen", "stock"), ("mistral", "mistral")])
def test_token_ids(tokenizer_dir, ours, theirs):
    tokenizer = load_tokenizer(tokenizer_dir, ours)
    for case in CASES["tokenizer"]:
        ids = tokenizer.encode(case["text"], add_special_tokens=False).ids
        assert ids == case[theirs], case["text"]


@pytest.mark.parametrize("case", SPEECH, ids=[case["id"] for case in SPEECH])
def test_prompts_are_cut_from_the_official_ids(tokenizer_dir, case):
    info = model_info("m", tokenizer_dir)
    speakers = ((SPEAKERS[case["speaker"].lower()], 1.0),) if case["speaker"] else ()
    has_instruct = case["strings"]["instruct"] is not None
    prompt = PromptBuilder(info).build(
        case["text"],
        language=find_language(case["language"] or "auto", info, lenient=True),
        instruct=case["instruct"] if has_instruct else None,
        speakers=speakers,
        reference_text=case["ref_text"],
    )
    ids = case["ids"]
    assert [*prompt.role, *prompt.text] == ids["assistant"][:-5]
    assert list(prompt.instruct) == (ids["instruct"] or [])
    assert list(prompt.reference_text) == (ids["reference"] or [])[3:-2]
