"""Tiny checkpoints of every family and size, and cores with all of them. Torch is imported by the
fixtures only: the tests of the scheduling must do without.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from engine.config import EngineConfig, ModelSpec

if TYPE_CHECKING:
    from engine.core import EngineCore

# Two sizes of each family; prefill in slices that cut most prompts.
CONFIG = EngineConfig(
    device="cpu",
    dtype="float32",
    quantization="none",
    threads=1,
    max_num_seqs=64,
    max_model_len=1024,
    kv_cache_memory="32MB",
    max_num_batched_tokens=48,
    open_text_timeout_s=3600,
)
FAMILIES = ("custom_voice", "voice_design", "base")
SHAPES = ("tiny-0b6", "tiny-1b7")


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[ModelSpec]:
    return write_models(tmp_path_factory.mktemp("models"))


def write_models(folder: Path) -> list[ModelSpec]:
    """ "base-0b6" and so on, of different weights and one codec."""
    from engine.dummy.checkpoint import write_random_checkpoint

    specs = []
    for family in FAMILIES:
        for shape in SHAPES:
            name = f"{family}-{shape.removeprefix('tiny-')}"
            write_random_checkpoint(folder / name, model_type=family, shape=shape)
            specs.append(ModelSpec(id=name, checkpoint=str(folder / name)))
    return specs


@pytest.fixture(scope="session")
def ending_model(models: list[ModelSpec], tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    """A checkpoint whose speech ends by itself after a few frames."""
    from safetensors.torch import load_file, save_file

    source = Path(models[0].checkpoint)
    path = tmp_path_factory.mktemp("ending") / "checkpoint"
    copy_checkpoint(source, path)
    tensors = load_file(path / "model.safetensors")
    head = tensors["talker.codec_head.weight"]
    head[2150] = head[7] * 2
    (path / "model.safetensors").unlink()
    save_file(tensors, path / "model.safetensors")
    return ModelSpec(id="ending", checkpoint=str(path))


def copy_checkpoint(source: Path, target: Path) -> None:
    import shutil

    shutil.copytree(source, target, copy_function=link_or_copy)


def link_or_copy(source: str, target: str) -> None:
    """Weights are linked: tests replace files, they do not write into them."""
    path = Path(target)
    if source.endswith(".safetensors"):
        path.hardlink_to(source)
    else:
        path.write_bytes(Path(source).read_bytes())


def build_core(models: list[ModelSpec], **changes: Any) -> "EngineCore":
    import msgspec

    from engine.startup import build

    core, _ = build(msgspec.structs.replace(CONFIG, **changes), models)
    return core


@pytest.fixture(scope="session")
def core(models: list[ModelSpec]) -> Iterator["EngineCore"]:
    """All checkpoints in 64 rows."""
    core = build_core(models)
    yield core
    core.close()


@pytest.fixture(scope="session")
def small_core(models: list[ModelSpec]) -> Iterator["EngineCore"]:
    """All checkpoints in 4 rows and so little memory that blocks run out before rows do."""
    core = build_core(models, max_num_seqs=4, max_model_len=512, kv_cache_memory="1580KB")
    yield core
    core.close()
