"""One rival's speed, run by versus.py with the Python of that rival's environment. Imports nothing
of this project.

    python speak.py vox MODEL.tmod --threads 2 --frames 24
    python speak.py qwentts.cpp FOLDER --threads 2 --frames 24      (talker.gguf and codec.gguf)

One utterance at a time, by the rival's own streaming call and sampling defaults, after one that is
not measured. `ms_per_frame` is of what follows the first chunk, the codec included; `first_s` is
from the call to the first chunk. The last line is one JSON document.
"""

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

SAMPLES = 1920  # a frame
TEXT = (
    "The weather station on the hill has been measuring wind and rain for more than forty years, "
    "and every evening somebody still walks up there to read the dials."
)
Speak = Callable[[int], Iterator[Any]]


def vox(path: Path, threads: int) -> Speak:
    import vox  # type: ignore[import-not-found]

    engine = vox.Engine(path, threads=threads)
    voice = engine.speaker_voice(engine.speakers[0])
    return lambda frames: engine.stream(TEXT, voice, seed=1, max_frames=frames)


def qwentts(path: Path, threads: int) -> Speak:
    from qwentts_cpp_cpu import QwenTTS  # type: ignore[import-not-found]

    tts = QwenTTS(path / "talker.gguf", path / "codec.gguf", cpu_threads=threads)
    speaker = tts.speaker_names()[0]

    def speak(frames: int) -> Iterator[Any]:
        for chunk, _ in tts.stream(text=TEXT, speaker=speaker, seed=1, max_new_tokens=frames):
            yield chunk

    return speak


def time_one(speak: Speak, frames: int) -> dict[str, float]:
    started, at, sizes = time.perf_counter(), [], []
    for chunk in speak(frames):
        at.append(time.perf_counter())
        sizes.append(len(chunk) / SAMPLES)
    assert len(at) > 1, "one chunk alone: name more frames"
    return {
        "first_s": at[0] - started,
        "ms_per_frame": 1e3 * (at[-1] - at[0]) / sum(sizes[1:]),
        "frames": sum(sizes),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rival", choices=("vox", "qwentts.cpp"))
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--runs", type=int, default=1)
    args = parser.parse_args()
    started = time.perf_counter()
    speak = {"vox": vox, "qwentts.cpp": qwentts}[args.rival](args.model, args.threads)
    load_s = time.perf_counter() - started
    for _ in speak(6):
        pass
    runs = [time_one(speak, args.frames) for _ in range(args.runs)]
    medians = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    rss_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"rival": args.rival, **medians, "load_s": load_s, "rss_mb": round(rss_mb)}))


if __name__ == "__main__":
    main()
