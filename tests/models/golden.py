"""The golden files, the tiny checkpoints they were made from, and how a core speaks their cases."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from engine.core import EngineCore
from engine.dummy.checkpoint import write_random_checkpoint
from engine.protocol import Failed, SamplingParams, Submit

FOLDER = Path(__file__).parent.parent / "golden"
CASES: dict[str, Any] = json.loads((FOLDER / "cases.json").read_text("utf-8"))


@cache
def arrays(name: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER / f"{name}.npz") as file:
        return dict(file)


def write_all(folder: Path) -> dict[str, Path]:
    """Every checkpoint of the golden files, made anew: "custom_voice/tiny-1b7" -> directory."""
    return {name: write_one(folder, name) for name in CASES["checkpoints"]}


def write_one(folder: Path, name: str) -> Path:
    record, path = CASES["checkpoints"][name], folder / name.replace("/", "-")
    write_random_checkpoint(
        path,
        model_type=record["model_type"],
        shape=record["shape"],
        seed=record["seed"],
        dtype=record["dtype"],
    )
    return path


def reference_wave(reference: dict[str, int]) -> np.ndarray:
    """float32 mono at 24 kHz."""
    pcm = arrays("codec")["reference_pcm"][reference["start"] :][: reference["num_samples"]]
    wave = pcm.astype(np.float32) / np.float32(32768)
    rate = reference["sample_rate"]
    if rate == 24_000:
        return wave
    import soxr  # only here, because a bare GPU machine lacks it

    resampled = soxr.resample(wave, rate, 24_000, quality="HQ")
    # The official package rounds the length up.
    return np.pad(resampled, (0, -(-len(wave) * 24_000 // rate) - len(resampled)))


def params(sampling: dict[str, Any]) -> SamplingParams:
    """The official keyword arguments in our terms; the rest is the checkpoint's default."""
    given = {k: v for k, v in sampling.items() if k not in ("do_sample", "subtalker_dosample")}
    if not sampling.get("do_sample", True):
        given["temperature"] = 0.0
    if not sampling.get("subtalker_dosample", True):
        given["subtalker_temperature"] = 0.0
    elif given.get("temperature") == 0:
        given.setdefault("subtalker_temperature", 0.9)
    return SamplingParams(**given)


def speak(core: EngineCore, submits: list[Submit]) -> dict[int, list[list[int]]]:
    """Codes by sequence id, and nothing may fail."""
    codes: dict[int, list[list[int]]] = {submit.id: [] for submit in submits}
    for submit in submits:
        core.add(submit)
    take = core._postprocess

    def tapped(seq, frame):
        if frame is not None:
            codes[seq.id].append(frame)
        take(seq, frame)

    core._postprocess = tapped  # type: ignore[method-assign]
    try:
        while core.has_work:
            assert not [fact for fact in core.step() if isinstance(fact, Failed)]
    finally:
        core._postprocess = take  # type: ignore[method-assign]
    core.talker.check_integrity()
    return codes
