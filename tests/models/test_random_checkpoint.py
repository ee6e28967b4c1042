"""Random checkpoints: the same bits everywhere, all published tensors, whole or not there."""

import errno
import hashlib
import json
import math
import os
import resource
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from engine import CheckpointError
from engine.dummy.checkpoint import write_random_checkpoint
from engine.dummy.configs import MARKER, random_checkpoint_config, random_codec_config
from engine.dummy.tensors import TensorSpec, codec_tensors, model_tensors
from tests.models import tensor_table

GOLDEN = Path(__file__).parents[1] / "golden" / "cases.json"
CHECKPOINTS = json.loads(GOLDEN.read_text(encoding="utf-8"))["checkpoints"]
TOKENS = dict.fromkeys(
    ("assistant", "<|im_start|>", "<|im_end|>", "<tts_pad>", "<tts_text_bos>", "<tts_text_eod>"), 0
)
FILES = {
    *("config.json", "generation_config.json", "preprocessor_config.json", "tokenizer_config.json"),
    *("vocab.json", "merges.txt", "model.safetensors"),
    *("speech_tokenizer/config.json", "speech_tokenizer/configuration.json"),
    *("speech_tokenizer/preprocessor_config.json", "speech_tokenizer/model.safetensors"),
}


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def write_tiny(path: Path, *, shape: str = "tiny-0b6", seed: int = 0, **more: object) -> Path:
    write_random_checkpoint(path, model_type="base", shape=shape, seed=seed, **more)
    return path


def files_in(path: Path) -> dict[str, str]:
    return {str(file.relative_to(path)): sha256(file) for file in path.rglob("*") if file.is_file()}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_bits_are_those_of_the_golden_files(name: str, tmp_path: Path) -> None:
    recorded = dict(CHECKPOINTS[name])
    want = recorded.pop("sha256")
    out = tmp_path / "out"
    write_random_checkpoint(out, **recorded)
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    codec_config = json.loads((out / "speech_tokenizer/config.json").read_text(encoding="utf-8"))
    in_order_of(out / "model.safetensors", tensor_table.model_tensors(config))
    in_order_of(
        out / "speech_tokenizer/model.safetensors", tensor_table.codec_tensors(codec_config)
    )
    assert {file: sha256(out / file) for file in want} == want


def in_order_of(file: Path, table: Iterable[TensorSpec]) -> None:
    """Write the tensors of `file`, which must be those of the table, again in the table's order."""
    data = file.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    moved, parts, end = {"__metadata__": header.pop("__metadata__")}, [], 0
    for name, shape in table:
        entry = header.pop(name)
        assert tuple(entry["shape"]) == shape, name
        first, last = entry["data_offsets"]
        parts.append(data[start + first : start + last])
        moved[name] = entry | {"data_offsets": [end, end + last - first]}
        end += last - first
    assert not header
    text = json.dumps(moved, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write_bytes(b"".join([len(text).to_bytes(8, "little"), text, *parts]))


def test_two_writes_are_equal(tmp_path: Path) -> None:
    first, second = files_in(write_tiny(tmp_path / "a")), files_in(write_tiny(tmp_path / "b"))
    assert first == second
    assert set(first) == FILES


def test_seed_changes_every_drawn_tensor(tmp_path: Path) -> None:
    one, two = write_tiny(tmp_path / "one"), write_tiny(tmp_path / "two", seed=1)
    for file in ("model.safetensors", "speech_tokenizer/model.safetensors"):
        with safe_open(one / file, "pt") as a, safe_open(two / file, "pt") as b:
            names = list(a.keys())
            same = [name for name in names if a.get_tensor(name).equal(b.get_tensor(name))]
        assert all(name.endswith("codebook.initialized") for name in same)


def test_config_says_that_it_makes_noise(tmp_path: Path) -> None:
    config = json.loads((write_tiny(tmp_path / "a") / "config.json").read_text(encoding="utf-8"))
    assert config[MARKER] is True


@pytest.mark.parametrize(
    ("model_type", "shape", "num_tensors", "num_parameters"),
    [
        ("base", "0.6B", 478, 914_643_008),
        ("custom_voice", "0.6B", 402, 905_788_672),
        ("base", "1.7B", 480, 1_928_677_440),
        ("custom_voice", "1.7B", 404, 1_916_676_352),
        ("voice_design", "1.7B", 404, 1_916_676_352),
    ],
)
def test_published_models_are_listed_in_full(
    model_type: str, shape: str, num_tensors: int, num_parameters: int
) -> None:
    specs = list(model_tensors(random_checkpoint_config(model_type, shape, TOKENS)))
    assert len({spec.name for spec in specs}) == len(specs) == num_tensors
    assert sum(math.prod(spec.shape) for spec in specs) == num_parameters


def test_published_codec_is_listed_in_full() -> None:
    specs = list(codec_tensors(random_codec_config("0.6B")))
    assert len({spec.name for spec in specs}) == len(specs) == 496
    assert sum(math.prod(spec.shape) for spec in specs) == 170_557_441
    decoder = [math.prod(spec.shape) for spec in specs if spec.name.startswith("decoder.")]
    assert (len(decoder), sum(decoder)) == (271, 114_323_137)


@pytest.mark.parametrize(
    ("shape", "name", "size"),
    [
        ("0.6B", "talker.model.layers.27.self_attn.o_proj.weight", (1024, 2048)),
        ("1.7B", "talker.model.layers.0.mlp.down_proj.weight", (2048, 6144)),
        ("1.7B", "talker.model.text_embedding.weight", (151936, 2048)),
        ("1.7B", "talker.code_predictor.model.codec_embedding.14.weight", (2048, 2048)),
        ("1.7B", "talker.code_predictor.lm_head.0.weight", (2048, 1024)),
        ("1.7B", "talker.code_predictor.small_to_mtp_projection.weight", (1024, 2048)),
        ("1.7B", "speaker_encoder.asp.tdnn.conv.weight", (128, 4608, 1)),
        ("0.6B", "speaker_encoder.blocks.3.res2net_block.blocks.6.conv.weight", (64, 64, 3)),
        ("0.6B", "speaker_encoder.fc.weight", (1024, 3072, 1)),
    ],
)
def test_published_shapes(shape: str, name: str, size: tuple[int, ...]) -> None:
    specs = dict(model_tensors(random_checkpoint_config("base", shape, TOKENS)))
    assert specs[name] == size


def test_bfloat16_rounds_the_float32_values_to_nearest(tmp_path: Path) -> None:
    exact, rounded = (
        write_tiny(tmp_path / dtype, dtype=dtype) / "model.safetensors"
        for dtype in ("float32", "bfloat16")
    )
    name = "talker.text_projection.linear_fc1.weight"
    with safe_open(exact, "pt") as a, safe_open(rounded, "pt") as b:
        assert a.get_tensor(name).bfloat16().equal(b.get_tensor(name))


def test_end_token_stays_behind(tmp_path: Path) -> None:
    with safe_open(write_tiny(tmp_path / "a") / "model.safetensors", "pt") as file:
        norms = file.get_tensor("talker.codec_head.weight").float().norm(dim=1)
    assert norms[2150] < 0.1 * norms.median()


def test_full_disk_is_a_checkpoint_error_without_leftovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> bytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("engine.dummy.checkpoint._encode", full)  # in the midst of the weights
    with pytest.raises(CheckpointError, match="No space left"):
        write_tiny(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_file_size_limit_is_a_checkpoint_error_without_leftovers(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        with pytest.raises(CheckpointError, match="cannot write a random checkpoint to"):
            write_tiny(tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("engine.dummy.checkpoint._write_safetensors", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_tiny(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "keep.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(CheckpointError, match="exists already"):
        write_tiny(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["keep.txt"]


def test_values_are_a_fixed_function_of_seed_and_name(tmp_path: Path) -> None:
    """Written out once more: a change here shifts every golden file."""
    name = "talker.model.codec_embedding.weight"
    key = np.frombuffer(hashlib.sha256(f"0:{name}".encode()).digest()[:16], "<u8")
    raw = np.random.Philox(key=key.astype(np.uint64)).random_raw(2)
    halves = [int(word) >> shift & 0xFFFFFFFF for word in raw for shift in (0, 32)]
    want = [((half >> 8) * 2.0**-23 - 1.0) * 0.75 for half in halves]
    with safe_open(write_tiny(tmp_path / "a", dtype="float32") / "model.safetensors", "pt") as file:
        got = file.get_tensor(name).flatten()[:4].tolist()
    assert got == np.float32(want).tolist()
