"""Ours beside rivals: what can be seen without any."""

import json
import re
import sys
from pathlib import Path

import pytest
from safetensors import safe_open

from benchmarks import versus
from benchmarks.rivals.gguf_names import CODEC, TALKER, renamed
from engine.dummy.checkpoint import write_random_checkpoint

LAYER = r"(attn_(norm|q|k|v|output|q_norm|k_norm)|ffn_(norm|gate|up|down))\.weight"
NAMES = {
    "talker": rf"""talker\.(codec_embd|text_embd|codec_head|output_norm)\.weight
        |talker\.text_proj\.fc[12]\.(weight|bias)|talker\.blk\.\d+\.{LAYER}
        |code_pred\.(output_norm|mtp_proj)\.(weight|bias)
        |code_pred\.(codec_embd|lm_head)\.\d+\.weight|code_pred\.blk\.\d+\.{LAYER}""",
    "codec": rf"""tok_dec\.pre_conv\.(weight|bias)|tok_dec\.vq_(first|rest)\.output_proj\.weight
        |tok_dec\.pre_tfm\.((input|output)_proj\.(weight|bias)|norm\.weight)
        |tok_dec\.pre_tfm\.blk\.\d\.({LAYER}|attn_scale|ffn_scale)
        |tok_dec\.upsample\.\d\.(conv|dwconv|norm|pwconv[12])\.(weight|bias)
        |tok_dec\.upsample\.\d\.gamma|tok_dec\.dec\.[06]\.conv\.(weight|bias)
        |tok_dec\.dec\.[1-5]\.snake\.(alpha|beta)|tok_dec\.dec\.[1-4]\.conv_t\.(weight|bias)
        |tok_dec\.dec\.[1-4]\.res\.[012]\.(act[12]\.(alpha|beta)|conv[12]\.(weight|bias))""",
}


@pytest.mark.parametrize("shape", ["tiny-0b6", "tiny-1b7"])
def test_every_tensor_has_a_name_that_the_rival_knows(tmp_path: Path, shape: str) -> None:
    write_random_checkpoint(tmp_path, model_type="custom_voice", shape=shape)
    for part, file, rules in (
        ("talker", "model.safetensors", TALKER),
        ("codec", "speech_tokenizer/model.safetensors", CODEC),
    ):
        with safe_open(tmp_path / file, "pt") as weights:
            names = [n for n in weights.keys() if part == "talker" or n.startswith("decoder.")]  # noqa: SIM118
        names = [n for n in names if not re.search(r"_codebook|rvq_\w+\.input_proj", n)]
        new = [renamed(name, rules) for name in names]
        assert len(set(new)) == len(names) > 30
        unknown = [name for name in new if not re.fullmatch(NAMES[part], name, re.VERBOSE)]
        assert not unknown


def test_ratios_are_of_medians() -> None:
    runs = {
        "ours": [{"ms_per_frame": ms, "load": 0.0} for ms in (50.0, 40.0, 500.0)],
        "theirs": [{"ms_per_frame": ms, "load": 0.0} for ms in (100.0, 1.0, 150.0)],
        "broken": [],
    }
    found = versus.summarise(runs)
    assert found["theirs"]["ratio"] == 2.0 and found["ours"]["ratio"] == 1.0
    assert "broken" not in found


@pytest.mark.parametrize(
    ("said", "ms"),
    [
        ({"rows": [{"step_s": 0.2, "batch": 8}]}, 25.0),
        ({"ms_per_frame": 70.0, "first_s": 0.3, "rss_mb": 900}, 70.0),
        ({"frames_per_s": 4.0}, 250.0),
    ],
)
def test_each_kind_of_answer_is_understood(said: dict, ms: float) -> None:
    code = f"print('a table'); print('''{json.dumps(said)}''')"
    found = versus.time_one([sys.executable, "-c", code])
    assert found["ms_per_frame"] == ms and found["load"] >= 0


def test_ours_is_measured_as_rivals_are(tmp_path: Path) -> None:
    write_random_checkpoint(tmp_path, model_type="custom_voice", shape="tiny-0b6")
    args = versus.argparse.Namespace(threads=1, frames=8, quantization="int8", batch=2)
    alone = versus.time_one(versus.ours(tmp_path, args))
    assert alone["ms_per_frame"] > 0 and alone["first_s"] > 0 and alone["rss_mb"] > 100
    assert versus.time_one(versus.together(tmp_path, args))["ms_per_frame"] > 0


def test_a_rival_that_fails_says_its_last_words() -> None:
    with pytest.raises(RuntimeError, match="no such thing"):
        versus.time_one([sys.executable, "-c", "raise SystemExit('no such thing')"])


def test_an_unknown_rival_is_an_error(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["versus", "--rivals", "official,nobody"])
    with pytest.raises(SystemExit):
        versus.parse()
    assert "nobody: known are" in capsys.readouterr().err
