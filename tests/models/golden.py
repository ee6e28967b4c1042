"""The golden files and the tiny checkpoints they were made from."""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import soxr

from engine.random_checkpoint import write_random_checkpoint

FOLDER = Path(__file__).parent.parent / "golden"
CASES: dict[str, Any] = json.loads((FOLDER / "cases.json").read_text("utf-8"))


@cache
def arrays(name: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER / f"{name}.npz") as file:
        return dict(file)


def write_all(folder: Path) -> dict[str, Path]:
    """Every checkpoint of the golden files, made anew: "custom_voice/tiny-1b7" -> directory."""
    return {name: path for name, path in _write_all(folder)}


def _write_all(folder: Path) -> Iterator[tuple[str, Path]]:
    for name, record in CASES["checkpoints"].items():
        path = folder / name.replace("/", "-")
        write_random_checkpoint(
            path,
            model_type=record["model_type"],
            shape=record["shape"],
            seed=record["seed"],
            dtype=record["dtype"],
        )
        yield name, path


def reference_wave(reference: dict[str, int]) -> np.ndarray:
    """float32 mono at 24 kHz."""
    pcm = arrays("codec")["reference_pcm"][reference["start"] :][: reference["num_samples"]]
    wave = pcm.astype(np.float32) / np.float32(32768)
    rate = reference["sample_rate"]
    if rate == 24_000:
        return wave
    resampled = soxr.resample(wave, rate, 24_000, quality="HQ")
    # The official package rounds the length up.
    return np.pad(resampled, (0, -(-len(wave) * 24_000 // rate) - len(resampled)))
