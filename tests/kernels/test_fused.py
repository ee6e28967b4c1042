"""Choosing kernels for a checkpoint's products, and what they then compute."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from engine.config import ModelSpec
from engine.dummy.checkpoint import write_random_checkpoint
from engine.kernels import fused, tuning
from engine.kernels.fused import ROWS, FusedLinear, fuse_, kinds
from engine.layers.linear import quantise
from engine.loader.checkpoint import Checkpoint, load

SHARED = 99 << 10


@pytest.fixture
def checkpoint(tmp_path: Path, device: str) -> Checkpoint:
    write_random_checkpoint(tmp_path / "tiny", model_type="custom_voice", shape="tiny-0b6")
    spec = ModelSpec(id="m", checkpoint=str(tmp_path / "tiny"))
    return load(spec, tmp_path / "tiny", torch.float32, torch.device(device))


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Choices without running each configuration, which takes the interpreter minutes."""
    monkeypatch.setattr(fused, "choose", lambda *args: tuning.choose(*args[:4]))


def rank(*, plain_wins: bool) -> Callable:
    """Instead of measuring: the first candidate is the fastest, or the plain path, which is asked
    about last, is.
    """
    seconds = itertools.count(1000, -1 if plain_wins else 1)
    return lambda work, device: float(next(seconds))


def fuse(checkpoint: Checkpoint, *, plain_wins: bool = False, int8: bool = False) -> None:
    fuse_(
        checkpoint.talker,
        checkpoint.predictor,
        max_rows=32,
        int8=int8,
        shared=SHARED,
        measure=rank(plain_wins=plain_wins),
    )


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("int8", [False, True], ids=["full", "int8"])
def test_a_fused_product_is_the_plain_one(checkpoint: Checkpoint, int8: bool) -> None:
    asked, expected = [], []
    for name, kind in kinds(checkpoint.talker, checkpoint.predictor).items():
        linear, norm, gated, adds = kind[-1]
        if int8 and not name.endswith("heads"):
            values, scale = quantise(linear.weight.data)
            linear.weight.data = values.to(linear.weight.dtype) * scale[:, None]
        for num_rows in (1, 5, ROWS[0] + 3, ROWS[-1] + 1):
            x = torch.randn(num_rows, linear.weight.shape[1], device=linear.weight.device)
            width = linear.weight.shape[0] // (1 + gated)
            residual = torch.randn(num_rows, width, device=x.device) if adds else None
            asked.append((name, linear, (x, norm, gated, residual)))
            expected.append(linear(x, norm=norm, gated=gated, residual=residual))
    fuse(checkpoint, int8=int8)
    for (name, linear, (x, norm, gated, residual)), y in zip(asked, expected, strict=True):
        assert isinstance(linear.fused, FusedLinear)
        quantised = int8 and not name.endswith("heads")
        assert (linear.weight.numel() == 0) == quantised
        is_fused = linear.fused(x, norm, gated, residual) is not None
        assert is_fused == (quantised or len(x) <= ROWS[-1])
        got = linear(x, norm=norm, gated=gated, residual=residual)
        torch.testing.assert_close(got, y, atol=2e-4, rtol=2e-4, msg=name)


@pytest.mark.parametrize("int8", [False, True], ids=["full", "int8"])
def test_choices_are_compared_with_plain_torch(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, caplog, int8: bool
) -> None:
    """One configuration of each kind; spoilt, it is left out, and int8 has nothing else."""
    monkeypatch.setattr(fused, "candidates", lambda *args: tuning.candidates(*args)[-1:])
    parts = (checkpoint.talker, checkpoint.predictor)
    one = {"talker.o": fused.kinds(*parts)["talker.o"]}
    monkeypatch.setattr(fused, "kinds", lambda *_: one)
    options = {"max_rows": 2, "shared": SHARED, "int8": int8}
    right = FusedLinear.run
    monkeypatch.setattr(FusedLinear, "run", lambda *args, **kw: right(*args, **kw) + 1)
    if int8:
        with pytest.raises(ValueError, match="no configuration"):
            fuse_(*parts, measure=lambda *_: 1.0, **options)
    else:
        (check,) = fuse_(*parts, measure=lambda *_: 1.0, **options)
        assert check.name.endswith("torch") and "differs from torch" in caplog.text
    monkeypatch.setattr(FusedLinear, "run", right)
    (check,) = fuse_(*parts, measure=lambda *_: 1.0, **options)
    assert check.name.endswith("kernel") and 0 < check.difference < 1e-5 and not check.fault


@pytest.mark.usefixtures("unchecked")
def test_what_is_slower_than_plain_stays_plain(checkpoint: Checkpoint) -> None:
    fuse(checkpoint, plain_wins=True)
    for kind in kinds(checkpoint.talker, checkpoint.predictor).values():
        for linear, norm, gated, _ in kind:
            x = torch.randn(3, linear.weight.shape[1], device=linear.weight.device)
            assert linear.fused is not None and linear.fused(x, norm, gated, None) is None
