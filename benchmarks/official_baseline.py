"""How fast the official qwen-tts package speaks on this CPU: the baseline to beat.

Regime: one utterance at a time (the package has no scheduler), transformers' sdpa attention, the
package's sampling defaults unless --greedy, weights and codec in --dtype (as the package does it).
The end token's logit is held at -inf, so that every run makes exactly --frames frames of 80 ms
whatever the weights; random weights from engine.random_checkpoint cost what trained ones do. Each
run includes the prompt's prefill; loading, voice-clone prompts and the first, unmeasured run
(--warmup frames) are left out. "talker" is everything up to the codes (talker and code predictor),
"all" adds decoding them to samples. Medians over --runs.

It runs in the official package's own environment, see tests/golden/make_golden.py:

    .venv-oracle/bin/python benchmarks/official_baseline.py CHECKPOINT --threads 2

Prints a table; the last line is one JSON document.
"""

import argparse
import importlib.machinery
import json
import platform
import statistics
import sys
import time
import types
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

CODEC_EOS = 2150
FRAME_S = 0.08
TEXT = (
    "The weather station on the hill has been measuring wind and rain for more than forty years, "
    "and every evening somebody still walks up there to read the dials."
)


def main() -> None:
    options = parse_arguments()
    torch.set_num_threads(options.threads)
    tts = load(options.checkpoint, getattr(torch, options.dtype))
    ban_end_token(tts)
    stopwatch = Stopwatch(tts)
    speak = prepare(
        tts, {"do_sample": False, "subtalker_dosample": False} if options.greedy else {}
    )
    speak(options.warmup)
    runs = []
    for number in range(options.runs):
        torch.manual_seed(number)
        stopwatch.reset()
        start = time.perf_counter()
        [wave], sample_rate = speak(options.frames)
        total_s = time.perf_counter() - start
        assert round(len(wave) / sample_rate / FRAME_S) == options.frames
        runs.append((stopwatch.talker_s, stopwatch.decode_s, total_s))
    report(options, tts, runs)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Speed of the official package on a CPU.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--frames", type=int, default=50)
    parser.add_argument("--warmup", type=int, default=5, help="frames of the unmeasured run")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--greedy", action="store_true")
    return parser.parse_args()


def load(checkpoint: Path, dtype: torch.dtype) -> Any:
    # Only the package's other tokenizer needs these, and torchaudio may not load beside torch.
    for name in ("sox", "onnxruntime", "torchaudio", "torchaudio.compliance"):
        stub_module(name)
    stub_module("torchaudio.compliance.kaldi")
    from qwen_tts import Qwen3TTSModel

    return Qwen3TTSModel.from_pretrained(str(checkpoint), dtype=dtype)


def stub_module(name: str) -> None:
    module = types.ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)


def ban_end_token(tts: Any) -> None:
    def hook(module: Any, inputs: Any, logits: torch.Tensor) -> None:
        logits[..., CODEC_EOS] = -torch.inf

    tts.model.talker.codec_head.register_forward_hook(hook)


class Stopwatch:
    """Times the two halves of a call: the model's `generate` and the codec's `decode`."""

    def __init__(self, tts: Any) -> None:
        self.reset()
        generate, decode = tts.model.generate, tts.model.speech_tokenizer.decode

        def timed_generate(**inputs: Any) -> Any:
            start = time.perf_counter()
            answer = generate(**inputs)
            self.talker_s += time.perf_counter() - start
            return answer

        def timed_decode(codes: Any) -> Any:
            start = time.perf_counter()
            answer = decode(codes)
            self.decode_s += time.perf_counter() - start
            return answer

        tts.model.generate, tts.model.speech_tokenizer.decode = timed_generate, timed_decode

    def reset(self) -> None:
        self.talker_s = self.decode_s = 0.0


def prepare(tts: Any, sampling: dict[str, bool]) -> Any:
    """A function of the number of frames that speaks TEXT, whichever kind of model this is."""
    common: dict[str, Any] = {"text": TEXT, "language": "English", **sampling}
    kind = tts.model.tts_model_type
    if kind == "custom_voice":
        call, more = tts.generate_custom_voice, {"speaker": "Vivian"}
    elif kind == "voice_design":
        call, more = tts.generate_voice_design, {"instruct": "A calm voice."}
    else:
        tone = 0.1 * np.sin(np.arange(72000) * 2 * np.pi * 200 / 24000).astype(np.float32)
        prompt = tts.create_voice_clone_prompt((tone, 24000), x_vector_only_mode=True)
        call, more = tts.generate_voice_clone, {"voice_clone_prompt": prompt}
    # The last token drawn never becomes a frame.
    return lambda frames: call(**common, **more, max_new_tokens=frames + 1)


def report(options: argparse.Namespace, tts: Any, runs: list[tuple[float, float, float]]) -> None:
    talker_s, decode_s, total_s = (statistics.median(column) for column in zip(*runs, strict=True))
    talker_rate, rate = options.frames / talker_s, options.frames / total_s
    print(f"{'':8}{'frames/s':>10}{'x real time':>13}{'ms/frame':>10}")
    for name, seconds in (("talker", talker_s), ("decode", decode_s), ("all", total_s)):
        speed = options.frames / seconds
        print(f"{name:8}{speed:10.2f}{speed * FRAME_S:13.3f}{1000 / speed:10.1f}")
    document = {
        "benchmark": "official_baseline",
        "model_type": tts.model.tts_model_type,
        "model_size": tts.model.tts_model_size,
        "random_weights": bool(getattr(tts.model.config, "qtts_random_weights", False)),
        "dtype": options.dtype,
        "threads": options.threads,
        "greedy": options.greedy,
        "frames": options.frames,
        "runs": options.runs,
        "talker_frames_per_s": round(talker_rate, 3),
        "frames_per_s": round(rate, 3),
        "rtf": round(total_s / (options.frames * FRAME_S), 4),
        "runs_s": [[round(seconds, 4) for seconds in run] for run in runs],
        "versions": {n: metadata.version(n) for n in ("torch", "transformers", "qwen-tts")},
        "cpu": cpu_name(),
    }
    print(json.dumps(document))


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    main()
