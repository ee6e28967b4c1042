"""Our engine for versus.py, as rivals/speak.py runs theirs: one utterance at a time, same clock.

    python -m benchmarks.ours CHECKPOINT --quantization int8 --threads 2 --frames 24

Without HTTP: EngineCore.step() in a loop, with rows for eight utterances as a server has them.
"""

import argparse
import itertools
import json
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from benchmarks.rivals.speak import TEXT, Speak, time_one
from engine.config import EngineConfig, ModelSpec
from engine.protocol import AudioChunk, SamplingParams, Submit
from engine.startup import build
from qtts_openai.text.prompt_builder import PromptBuilder

MODEL = "m"


def load(path: Path, args: argparse.Namespace) -> Speak:
    config = EngineConfig(
        device="cpu",
        threads=args.threads,
        quantization=args.quantization,
        max_num_seqs=8,
        max_model_len=1024,
    )
    core, ready = build(config, [ModelSpec(id=MODEL, checkpoint=str(path))])
    [info] = ready.models
    speaker = (next(iter(info.speakers.values())), 1.0)
    prompt = PromptBuilder(info).build(TEXT, speakers=(speaker,))
    ids: Callable[[], int] = itertools.count().__next__

    def speak(frames: int) -> Iterator[np.ndarray]:
        params = SamplingParams(max_new_tokens=frames + 1, ignore_eos=True, seed=1)
        core.add(Submit(ids(), MODEL, prompt, params))
        while core.has_work:
            for fact in core.step():
                if isinstance(fact, AudioChunk):
                    yield np.frombuffer(fact.pcm, "<i2")

    return speak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--quantization", choices=("none", "int8", "int4"), default="int8")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--frames", type=int, default=24)
    args = parser.parse_args()
    started = time.perf_counter()
    speak = load(args.checkpoint, args)
    load_s = time.perf_counter() - started
    for _ in speak(6):
        pass
    rss_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    found = time_one(speak, args.frames)
    print(json.dumps({"rival": "ours", **found, "load_s": load_s, "rss_mb": round(rss_mb)}))


if __name__ == "__main__":
    main()
