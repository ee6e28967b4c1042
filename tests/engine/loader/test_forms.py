"""Weights on their way from a checkpoint to the form they run in: packed, kept, chosen."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.config import EngineConfig, ModelSpec
from engine.dummy.checkpoint import write_random_checkpoint
from engine.errors import CheckpointError
from engine.layers.linear import Linear
from engine.loader import forms as forms_module
from engine.loader import packed_cache
from engine.loader.checkpoint import Checkpoint, load
from engine.loader.forms import Forms, choose_quantization, use_native
from engine.native import build, decoder

CPU, FP32 = torch.device("cpu"), torch.float32


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if build.compiler() is None:
        pytest.skip("there is no C++ compiler")
    assert build.build() == ""
    decoder.library.cache_clear()
    folder = tmp_path_factory.mktemp("forms") / "tiny"
    write_random_checkpoint(folder, model_type="custom_voice", shape="tiny-0b6")
    return folder


def loaded(path: Path, quantization: str) -> Checkpoint:
    forms = Forms(quantization, FP32, CPU, native=True)
    return load(ModelSpec(id="m", checkpoint=str(path)), path, FP32, CPU, forms)


def products(checkpoint: Checkpoint) -> dict[str, decoder.NativeProduct]:
    return {
        f"{net}.{name}": module.product
        for net in ("talker", "predictor")
        for name, module in getattr(checkpoint, net).named_modules()
        if isinstance(module, Linear)
    }


def test_plain_weights_are_gone_and_tables_stay_in_their_files_dtype(path: Path):
    checkpoint = loaded(path, "int4")
    for net in (checkpoint.talker, checkpoint.predictor):
        linears = [module for module in net.modules() if isinstance(module, Linear)]
        assert not any(linear.weight.numel() for linear in linears)
    tables = (checkpoint.talker.text_embedding, checkpoint.predictor.codec_embedding)
    assert {table.dtype for table in tables} == {torch.bfloat16}
    bits = {name: product.packed["weight"].dtype for name, product in products(checkpoint).items()}
    assert bits["talker.layers.0.qkv"] == bits["predictor.layers.1.down"] == torch.uint8
    assert bits["predictor.heads.0"] == torch.int8
    assert bits["talker.codec_head"] == torch.bfloat16


@pytest.mark.parametrize("quantization", ["none", "int8", "int4"])
def test_what_the_cache_gives_is_what_was_packed(
    path: Path, quantization: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("QTTS_CACHE", str(tmp_path / "kept"))
    packed = products(loaded(path, quantization))
    [file] = (tmp_path / "kept").iterdir()
    monkeypatch.setattr(forms_module.native, "pack", None)  # nothing may be packed again
    kept = products(loaded(path, quantization))
    assert packed.keys() == kept.keys()
    for name, product in packed.items():
        for part, tensor in product.packed.items():
            assert torch.equal(kept[name].packed[part], tensor)
    assert file == packed_cache.cache_file(path / "model.safetensors", quantization)


def test_a_broken_cache_file_is_packed_anew(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("QTTS_CACHE", str(tmp_path))
    file = packed_cache.cache_file(path / "model.safetensors", "int8")
    file.write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    assert products(loaded(path, "int8"))["talker.layers.0.o"].packed["weight"].dtype == torch.int8


def test_another_checkpoint_has_another_cache_file(path: Path, tmp_path: Path):
    weights, other = path / "model.safetensors", tmp_path / "model.safetensors"
    tensors = load_file(weights)
    tensors["talker.codec_head.weight"][0, 0] += 1
    save_file(tensors, other)
    assert packed_cache.fingerprint(other) != packed_cache.fingerprint(weights)
    assert packed_cache.fingerprint(weights) == packed_cache.fingerprint(weights)


def test_no_folder_no_cache(path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("QTTS_CACHE", raising=False)
    assert packed_cache.cache_file(path / "model.safetensors", "int8") is None


def test_a_folder_that_cannot_be_written_is_a_warning(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("QTTS_CACHE", str(tmp_path / "file" / "folder"))
    loaded(path, "int8")
    assert "cannot be kept" in caplog.text


@pytest.mark.parametrize(("ms", "chosen"), [(20, "none"), (60, "int8")])
def test_auto_takes_what_real_time_needs(
    path: Path, ms: float, chosen: str, monkeypatch: pytest.MonkeyPatch, caplog
):
    caplog.set_level("INFO")
    config = EngineConfig(quantization="auto")
    frame = 2 * forms_module._frame_weights(loaded(path, "none").config.talker_config)
    monkeypatch.setattr(forms_module, "_seconds_per_byte", lambda: ms / 1e3 / frame)
    assert choose_quantization(config, CPU, True, [path]) == chosen
    assert f"{ms:.0f} ms" in caplog.text and caplog.text.strip().endswith(chosen)
    assert choose_quantization(config, CPU, False, [path]) == "none"
    assert choose_quantization(config, torch.device("cuda"), False, [path]) == "none"


def test_the_compiled_decoder_where_it_is_and_may(path: Path, monkeypatch: pytest.MonkeyPatch):
    assert use_native(EngineConfig(), CPU)
    assert not use_native(EngineConfig(kernels="torch"), CPU)
    assert not use_native(EngineConfig(dtype="bfloat16"), CPU)
    assert not use_native(EngineConfig(), torch.device("cuda"))
    monkeypatch.setattr(forms_module.native, "library", lambda: None)
    assert not use_native(EngineConfig(), CPU)
    with pytest.raises(CheckpointError, match=r"engine\.native\.build"):
        use_native(EngineConfig(kernels="native"), CPU)
    with pytest.raises(CheckpointError, match="needs a CPU"):
        use_native(EngineConfig(kernels="native"), torch.device("cuda"))
