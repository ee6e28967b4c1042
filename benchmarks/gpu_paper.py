"""What a frame should take on GPUs that nobody here has: a model fitted to one H200, on paper.

    python -m benchmarks.gpu_paper

The model. Talker and predictor are kernels that wait for each other, so each part takes its floor
(engine/benchmark/roofline.py, at the share of the data sheet's rates that the H200 reached) and a
latency for each of its kernels; the codec takes CODEC_OVER_FLOOR times its floor; parts overlap but
for OVERLAP of the shorter one. Constants were fitted to "On a GPU" in benchmarks/RESULTS.md, so the
H200's rows say how well the model fits, and only the other cards' are predictions.

A table; the last line is one JSON document.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from engine.benchmark.roofline import Machine, codec_work, predictor_work, talker_work
from engine.dummy.configs import random_checkpoint_config, random_codec_config
from engine.models.config import (
    CodecConfig,
    DecoderConfig,
    ModelConfig,
    TalkerConfig,
    read_config,
)

# Data sheets: GB/s, dense bfloat16 TFLOP/s.
CARDS = {
    "L4": (300, 121),
    "RTX 4090": (1008, 165),
    "A100 80GB": (2039, 312),
    "H100 SXM": (3350, 989),
    "H200": (4800, 989),
}
# Of the data sheet: 4,178 GB/s and 796 TFLOP/s were measured on the H200.
BANDWIDTH_SHARE, FLOP_SHARE = 0.87, 0.8
KERNELS_PER_LAYER = 6  # qkv, rotation and cache, attention, o, gate and up, down
KERNELS_PER_PASS = 5  # of the predictor: projection or embedding, norm, head, drawing
KERNELS_OF_STEP = 15  # of the talker: gathering rows, sums of embeddings, norm, head, drawing
LATENCY_US = {16: 4.2, 256: 7.4}  # by rows: of a kernel that waits for the one before
CODEC_OVER_FLOOR, OVERLAP = 4.7, 0.7
CONTEXT, CHUNK = 90, 12
BATCHES = (1, 8, 64, 128)
# ms: step, talker, predictor, codec; an H200, RESULTS.md of 2026-11-26.
MEASURED = {
    ("1.7B", 1): (4.50, 1.67, 2.76, 0.12),
    ("1.7B", 8): (4.96, 1.70, 2.85, 0.25),
    ("1.7B", 64): (8.15, 2.33, 4.46, 1.88),
    ("1.7B", 128): (10.23, 2.72, 4.94, 3.65),
}


def shapes(shape: str) -> tuple[TalkerConfig, CodecConfig]:
    tokens = dict.fromkeys(
        (
            "assistant",
            "<|im_start|>",
            "<|im_end|>",
            "<tts_pad>",
            "<tts_text_bos>",
            "<tts_text_eod>",
        ),
        0,
    )
    configs = random_checkpoint_config("custom_voice", shape, tokens), random_codec_config(shape)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(configs[0]))
        talker = read_config(path, ModelConfig).talker_config
        path.write_text(json.dumps(configs[1]))
        return talker, read_config(path, CodecConfig)


def machine(card: str) -> Machine:
    gb_s, tflop_s = CARDS[card]
    return Machine(gb_s * 1e9 * BANDWIDTH_SHARE, {"bfloat16": tflop_s * 1e12 * FLOP_SHARE})


def num_kernels(c: TalkerConfig) -> tuple[int, int]:
    """Of the talker's step and of the predictor's fifteen passes."""
    layers = [KERNELS_PER_LAYER * net.num_hidden_layers for net in _nets(c)]
    return layers[0] + KERNELS_OF_STEP, (c.num_code_groups - 1) * (layers[1] + KERNELS_PER_PASS)


def _nets(c: TalkerConfig) -> tuple[DecoderConfig, DecoderConfig]:
    return c, c.code_predictor_config


def predict(shape: str, card: str, batch: int) -> dict[str, Any]:
    """ms of the step and its parts, and the floors' share of the parts."""
    talker, codec = shapes(shape)
    here, bf16 = machine(card), torch.bfloat16
    floors = {
        "talker": talker_work(talker, batch, CONTEXT, bf16, "none").least_s(here),
        "predictor": predictor_work(talker, batch, bf16, "none").least_s(here),
        "codec": codec_work(codec.decoder_config, batch, CHUNK, bf16).least_s(here),
    }
    latency = next(us for rows, us in LATENCY_US.items() if batch <= rows) / 1e6
    parts = {
        name: floors[name] + count * latency
        for name, count in zip(("talker", "predictor"), num_kernels(talker), strict=True)
    }
    parts["codec"] = floors["codec"] * CODEC_OVER_FLOOR
    model, chunk = parts["talker"] + parts["predictor"], parts["codec"]
    step = max(model, chunk) + OVERLAP * min(model, chunk)
    return {
        "card": card,
        "shape": shape,
        "batch": batch,
        "step_ms": step * 1e3,
        "parts_ms": {name: s * 1e3 for name, s in parts.items()},
        "real_time": batch * 0.08 / step,
        "floor_share": sum(floors.values()) / sum(parts.values()),
        "measured_ms": MEASURED.get((shape, batch)) if card == "H200" else None,
    }


def line(row: dict[str, Any]) -> str:
    parts = " | ".join(f"{ms:.2f}" for ms in row["parts_ms"].values())
    real = row["measured_ms"]
    seen = " / ".join(f"{ms:.2f}" for ms in real) if real else "-"
    return (
        f"| {row['card']} | {row['shape']} | {row['batch']} | {row['step_ms']:.2f} | {parts} | "
        f"{row['real_time']:.0f} | {row['floor_share']:.0%} | {seen} |"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", action="append", choices=("0.6B", "1.7B"))
    args = parser.parse_args()
    names = ("ms/frame", "talker", "predictor", "codec", "x real time", "floor's share", "measured")
    print("| card | shape | batch | " + " | ".join(names) + " |")
    print("| --- " * 10 + "|")
    rows = [
        predict(shape, card, batch)
        for shape in args.shape or ("0.6B", "1.7B")
        for card in CARDS
        for batch in BATCHES
    ]
    for row in rows:
        print(line(row))
    print(json.dumps({"benchmark": "gpu_paper", "rows": rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
