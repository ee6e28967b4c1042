"""How fast the official qwen-tts package speaks here: the baseline to beat. And, with
--implementation faster, faster-qwen3-tts, which wraps it and records talker and predictor as CUDA
graphs.

Regime: one utterance at a time (the package has no scheduler), transformers' sdpa attention, the
package's sampling defaults unless --greedy, weights and codec in --dtype (as the package does it).
The end token's logit is held at -inf, so that every run makes exactly --frames frames of 80 ms
whatever the weights; random weights from engine.dummy.checkpoint cost what trained ones do. Each
run includes the prompt's prefill; loading, voice-clone prompts and the first, unmeasured run
(--warmup frames) are left out. "talker" is everything up to the codes (talker and code predictor),
"all" adds decoding them to samples. Medians over --runs.

It runs in the official package's own environment, see tests/golden/make_golden.py:

    .venv-oracle/bin/python benchmarks/official_baseline.py CHECKPOINT --threads 2

With transformers 5, unpacked wheels of qwen-tts-hf (a build of the package for it) and of
faster-qwen3-tts on PYTHONPATH are enough.

Prints a table; the last line is one JSON document.
"""

import argparse
import importlib.machinery
import importlib.util
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
PACKAGES = (
    "torch", "transformers", "qwen-tts", "qwen-tts-hf", "qwen-tts-compat", "faster-qwen3-tts",
)  # fmt: skip
TEXT = (
    "The weather station on the hill has been measuring wind and rain for more than forty years, "
    "and every evening somebody still walks up there to read the dials."
)


def main() -> None:
    options = parse_arguments()
    torch.set_num_threads(options.threads)
    use_stubs()
    find_moved_field()
    if options.implementation == "faster":
        tts, speak = load_faster(options)
    else:
        tts = load(options)
        greedy = {"do_sample": False, "subtalker_dosample": False} if options.greedy else {}
        speak = prepare(tts, greedy)
    ban_end_token(tts)
    stopwatch = Stopwatch(tts)
    speak(options.warmup)
    runs = []
    for number in range(options.runs):
        torch.manual_seed(number)
        stopwatch.decode_s = 0.0
        start = time.perf_counter()
        [wave], sample_rate = speak(options.frames)
        total_s = time.perf_counter() - start
        assert round(len(wave) / sample_rate / FRAME_S) == options.frames
        runs.append((total_s - stopwatch.decode_s, stopwatch.decode_s, total_s))
    report(options, tts, runs)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Speed of the official package.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--implementation", choices=["official", "faster"], default="official")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--frames", type=int, default=50)
    parser.add_argument("--warmup", type=int, default=5, help="frames of the unmeasured run")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--greedy", action="store_true")
    return parser.parse_args()


def load(options: argparse.Namespace) -> Any:
    from qwen_tts import Qwen3TTSModel

    return Qwen3TTSModel.from_pretrained(
        str(options.checkpoint), dtype=getattr(torch, options.dtype), device_map=options.device
    )


def load_faster(options: argparse.Namespace) -> tuple[Any, Any]:
    """The official model inside, and what speaks."""
    from faster_qwen3_tts import FasterQwen3TTS

    dtype = getattr(torch, options.dtype)
    faster = FasterQwen3TTS.from_pretrained(str(options.checkpoint), options.device, dtype)

    def speak(frames: int) -> Any:
        return faster.generate_custom_voice(
            text=TEXT,
            language="English",
            speaker="Vivian",
            max_new_tokens=frames,
            do_sample=not options.greedy,
        )

    return faster.model, speak


def use_stubs() -> None:
    """Of what the packages import and this never calls: always what only the other tokenizer
    needs (torchaudio may not load beside torch), audio libraries where they are missing.
    """
    for name in ("sox", "onnxruntime", "torchaudio", "torchaudio.compliance"):
        stub_module(name)
    stub_module("torchaudio.compliance.kaldi")
    for name in ("librosa", "soundfile"):
        if importlib.util.find_spec(name) is None:
            stub_module(name)
    if "librosa" in sys.modules:
        stub_module("librosa.filters").mel = None


def find_moved_field() -> None:
    """qwen-tts-hf sets up rotations from a field that transformers 5.17 keeps elsewhere."""
    import qwen_tts  # noqa: F401 (registers the function)
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    inner = ROPE_INIT_FUNCTIONS["default"]

    def default(config: Any, *args: Any, **kwargs: Any) -> Any:
        if not hasattr(config, "rope_theta"):
            config.rope_theta = config.rope_parameters["rope_theta"]
        return inner(config, *args, **kwargs)

    ROPE_INIT_FUNCTIONS["default"] = default


def stub_module(name: str) -> Any:
    module = types.ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)
    return module


def ban_end_token(tts: Any) -> None:
    def hook(module: Any, inputs: Any, logits: torch.Tensor) -> None:
        logits[..., CODEC_EOS] = -torch.inf

    tts.model.talker.codec_head.register_forward_hook(hook)


class Stopwatch:
    """Seconds inside the codec's `decode`; what a GPU still has to do before is not its time."""

    def __init__(self, tts: Any) -> None:
        self.decode_s = 0.0
        decode = tts.model.speech_tokenizer.decode

        def timed_decode(codes: Any) -> Any:
            synchronize()
            start = time.perf_counter()
            answer = decode(codes)
            synchronize()
            self.decode_s += time.perf_counter() - start
            return answer

        tts.model.speech_tokenizer.decode = timed_decode


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


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
        "implementation": options.implementation,
        "device": options.device,
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
        "versions": {name: found for name in PACKAGES if (found := version(name))},
        "cpu": cpu_name(),
    }
    print(json.dumps(document))


def version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    main()
