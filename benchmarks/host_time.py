"""The host's own time in a step of a GPU's loop, measured without a GPU.

    python -m benchmarks.host_time --rows 64

EngineCore.step() with frames and codec replaced by stand-ins that return at once, a frame ahead as
on a GPU: what is left is scheduling, bookkeeping, messages. Median CPU time, so that neighbours
disturb less. The copies to and from the device are not in it.

Prints a line; the last one is one JSON document.
"""

import argparse
import cProfile
import json
import logging
import pstats
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor

from engine.benchmark.steps import MODEL, own_talker, start_all
from engine.config import EngineConfig, ModelSpec
from engine.dummy.checkpoint import write_random_checkpoint
from engine.protocol import SAMPLES_PER_FRAME
from engine.runner.codec_runner import Pcm
from engine.runner.transfer import Download
from engine.startup import build


def stand_in_for_the_device(core) -> None:
    """Codes and samples of nothing, at once."""
    talker, codec = own_talker(core), core.codecs[MODEL]
    talker.overlap = True
    most = talker.scheduler.max_num_seqs
    codes = torch.ones(most, 16, dtype=torch.int64)
    silence = torch.zeros(most, 12 * SAMPLES_PER_FRAME, dtype=torch.int16)

    def frames(rows: list[int], feed_back: bool) -> Tensor:
        return codes[: len(rows)]

    def decode(rows: list[int], frames: list[list[list[int]]]) -> Pcm:
        codec._move(rows, len(frames[0]))
        return Pcm([[Download(silence[: len(rows), : len(frames[0]) * SAMPLES_PER_FRAME])]])

    talker.runners[MODEL].frames = frames
    talker.runners[MODEL].backend.begin = lambda seqs: None
    codec.decode = decode


@torch.inference_mode()
def measure(core, rows: int, steps: int, profile: bool) -> float:
    """Median CPU seconds of a step with all rows speaking."""
    start_all(core, rows, steps + 100)
    stand_in_for_the_device(core)
    spent, profiler = [], cProfile.Profile()
    if profile:
        profiler.enable()
    for _ in range(steps):
        started = time.thread_time()
        core.step()
        spent.append(time.thread_time() - started)
    profiler.disable()
    if profile:
        pstats.Stats(profiler).sort_stats("tottime").print_stats(14)
    return statistics.median(spent)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--profile", action="store_true")
    args = parser.parse_args()
    logging.getLogger("engine.startup").setLevel("ERROR")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiny"
        write_random_checkpoint(path, model_type="custom_voice", shape="tiny-0b6")
        config = EngineConfig(
            device="cpu",
            threads=1,
            max_num_seqs=args.rows,
            max_model_len=512,
            max_num_batched_tokens=64 * args.rows,
        )
        core, _ = build(config, [ModelSpec(id=MODEL, checkpoint=str(path))])
    seconds = measure(core, args.rows, args.steps, args.profile)
    print(f"{seconds * 1e3:.3f} ms of the host's CPU in a step of {args.rows} rows")
    print(json.dumps({"benchmark": "host_time", "rows": args.rows, "step_s": seconds}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
