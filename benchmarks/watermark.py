"""What the watermark costs, what it does to speech, and what it survives.

    python -m benchmarks.watermark FOLDER [--clips 1000] [--deep 60] [--heard 30] [--url SERVER]

Speech: training/eval_sentences.txt read by flite's voices, the teacher of the embedded voice, and
with --url by the embedded voice of a running server (`qtts serve`). Every clip is scored unmarked
(false positives). The first --deep of each reader are marked in the blocks of a stream, rated by
STOI and PESQ, and attacked; of these the first --heard are heard by an offline recogniser, with and
without.

FOLDER/clips.jsonl holds what is done: a run that was ended goes on. Needs the extra "watermark",
flite, pystoi, pesq, and tests/listen/requirements.txt for --heard.
"""

import argparse
import io
import itertools
import json
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
import soundfile
import soxr
import torch

from engine.protocol import SAMPLE_RATE_HZ as RATE
from engine.watermark import load, mark_of, score
from qtts_openai.provenance.watermark import PRESENT, Marking
from qtts_openai.speech.encoders import AudioEncoder
from training.judge import Judge, errors, normalise, sentences

FLITE, STRETCHES = ("slt", "rms", "awb", "kal16"), (1.0, 0.85, 1.2)
EMBEDDED, SEEDS = ("nova", "onyx"), (1, 2)


class Direct:
    """The net in this process, so that its CPU time can be read."""

    def __init__(self, perth: Any) -> None:
        self.mark_of, self.score = partial(mark_of, perth), partial(score, perth)


def readers(url: str | None) -> Iterator[tuple[str, str, str, Any]]:
    """(reader, id, text, what makes samples at 24 kHz), readers in turn."""
    said = sentences()
    rounds = itertools.zip_longest(
        itertools.product(STRETCHES, said, FLITE),
        itertools.product(SEEDS, said, EMBEDDED) if url else (),
    )
    for flite, embedded in rounds:
        if flite:
            stretch, sentence, voice = flite
            id_ = f"flite {voice} {stretch} {sentence.text}"
            yield "flite", id_, sentence.spoken, partial(by_flite, voice, stretch, sentence.plain)
        if embedded:
            seed, sentence, voice = embedded
            id_ = f"embedded {voice} {seed} {sentence.text}"
            yield "embedded", id_, sentence.spoken, partial(by_server, url, voice, seed, sentence)


def by_flite(voice: str, stretch: float, text: str) -> np.ndarray:
    command = ["flite", "-voice", voice, "--setf", f"duration_stretch={stretch}", "-t", text]
    with_file = subprocess.run([*command, "-o", "/dev/stdout"], capture_output=True, check=True)
    wave, rate = soundfile.read(io.BytesIO(with_file.stdout), dtype="float32")
    return soxr.resample(wave, rate, RATE)


def by_server(url: str, voice: str, seed: int, sentence: Any) -> np.ndarray:
    body = {"model": "tts-1", "input": sentence.text, "voice": voice, "seed": seed}
    answer = httpx.post(
        f"{url}/audio/speech", json=body | {"response_format": "pcm"}, timeout=300
    ).raise_for_status()
    return np.frombuffer(answer.content, "<i2").astype(np.float32) / 32768


def marked(net: Direct, wave: np.ndarray) -> tuple[np.ndarray, float]:
    """As a stream marks it, in chunks of 80 ms; and the CPU seconds for a second of speech."""
    pcm = np.rint(wave * 32767).astype("<i2")
    stage, began = Marking(net), time.process_time()  # type: ignore[arg-type]
    parts = [stage.encode(pcm[at : at + 1920].tobytes()) for at in range(0, len(pcm), 1920)]
    data = b"".join([*parts, stage.flush()])
    cost = (time.process_time() - began) / (len(pcm) / RATE)
    return np.frombuffer(data, "<i2").astype(np.float32) / 32768, cost


# ---- what happens to speech ----


def through(
    audio_format: str, codec: str, bit_rate: int, rate: int, wave: np.ndarray
) -> np.ndarray:
    """Encoded and decoded by FFmpeg."""
    pcm = np.rint(soxr.resample(wave, RATE, rate) * 32767).clip(-32768, 32767).astype("<i2")
    file = io.BytesIO()
    with av.open(file, "w", format=audio_format) as container:
        stream = container.add_stream(codec, rate=rate, bit_rate=bit_rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(pcm[None], format="s16", layout="mono")
        frame.sample_rate = rate
        container.mux([*stream.encode(frame), *stream.encode(None)])
    file.seek(0)
    options = {"sample_rate": str(rate)} if audio_format == "mulaw" else {}
    with av.open(file, format=audio_format, options=options) as container:
        resampler = av.AudioResampler("flt", "mono", RATE)
        frames = [f for part in container.decode(audio=0) for f in resampler.resample(part)]
    return np.concatenate([frame.to_ndarray()[0] for frame in frames])


def at_speed(speed: float, wave: np.ndarray) -> np.ndarray:
    """The pitch stays, as `speed` of a request does it."""
    encoder = AudioEncoder("pcm", speed=speed)
    pcm = encoder.encode(np.rint(wave * 32767).clip(-32768, 32767).astype("<i2").tobytes())
    return np.frombuffer(pcm + encoder.flush(), "<i2").astype(np.float32) / 32768


def with_noise(decibels: float, wave: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(0).standard_normal(len(wave)).astype(np.float32)
    return wave + noise * np.sqrt(np.square(wave).mean()) * np.float32(10 ** (-decibels / 20))


def a_second(wave: np.ndarray) -> np.ndarray:
    start = max(0, len(wave) - RATE) // 2
    return wave[start : start + RATE]


ATTACKS = {
    "none": lambda wave: wave,
    "mp3 32k": partial(through, "mp3", "libmp3lame", 32_000, RATE),
    "opus 16k": partial(through, "ogg", "libopus", 16_000, RATE),
    "aac 64k": partial(through, "adts", "aac", 64_000, RATE),
    "mu-law 8 kHz": partial(through, "mulaw", "pcm_mulaw", 64_000, 8000),
    "speed 0.9": partial(at_speed, 0.9),
    "speed 1.1": partial(at_speed, 1.1),
    "played at 0.9": lambda wave: soxr.resample(wave, 0.9 * RATE, RATE),
    "played at 1.1": lambda wave: soxr.resample(wave, 1.1 * RATE, RATE),
    "cut of 1 s": a_second,
    "noise at 20 dB": partial(with_noise, 20.0),
}


# ---- one clip ----


def rated(net: Direct, wave: np.ndarray) -> dict[str, Any]:
    from pesq import NoUtterancesError, pesq
    from pystoi import stoi

    after, cost = marked(net, wave)
    wide = [soxr.resample(one, RATE, 16_000) for one in (wave, after)]
    try:
        quality: float | None = pesq(16_000, *wide, "wb")
    except NoUtterancesError:
        quality = None
    scores = {name: float(net.score(attack(after))[0]) for name, attack in ATTACKS.items()}
    false = {name: float(net.score(attack(wave))[0]) for name, attack in ATTACKS.items()}
    found = {"cost": cost, "stoi": float(stoi(wave, after, RATE)), "pesq": quality}
    return {**found, "seconds": len(wave) / RATE, "scores": scores, "false": false}


def heard(judge: Judge, net: Direct, wave: np.ndarray, text: str) -> dict[str, Any]:
    waves = {"plain": wave, "marked": marked(net, wave)[0]}
    wrong = {name: errors(judge.hear(one, RATE), text)[0] for name, one in waves.items()}
    return {"words": len(normalise(text)), "wrong": wrong}


def run(arguments: argparse.Namespace, path: Path) -> None:
    done = {json.loads(line)["id"] for line in path.read_text().splitlines()}
    net, judge = Direct(load()), Judge() if arguments.heard else None
    counts: dict[str, int] = {}
    chosen = itertools.islice(readers(arguments.url), arguments.clips)
    for reader, id_, text, make in chosen:
        number = counts[reader] = counts.get(reader, 0) + 1
        if id_ in done:
            continue
        wave = make()
        clip: dict[str, Any] = {"reader": reader, "id": id_, "score": float(net.score(wave)[0])}
        if number <= arguments.deep:
            clip["deep"] = rated(net, wave)
        if judge is not None and number <= arguments.heard:
            clip["heard"] = heard(judge, net, wave, text)
        with path.open("a") as file:
            file.write(json.dumps(clip) + "\n")


def report(path: Path) -> None:
    clips = [json.loads(line) for line in path.read_text().splitlines()]
    for reader in sorted({clip["reader"] for clip in clips}):
        mine = [clip for clip in clips if clip["reader"] == reader]
        false = sum(clip["score"] > PRESENT for clip in mine)
        highest = max(clip["score"] for clip in mine)
        print(
            f"{reader}: {false} of {len(mine)} unmarked clips found marked (highest {highest:.3f})"
        )
        deep = [clip["deep"] for clip in mine if "deep" in clip]
        for name in ("cost", "stoi", "pesq", "seconds") if deep else ():
            values = [one[name] for one in deep if one[name] is not None]
            print(f"  {name}: mean {np.mean(values):.3f}, least {min(values):.3f}, "
                  f"most {max(values):.3f} (n={len(values)})")  # fmt: skip
        for name in ATTACKS if deep else ():
            found = sum(one["scores"][name] > PRESENT for one in deep)
            wrong = sum(one["false"][name] > PRESENT for one in deep)
            print(f"  {name}: found in {found} of {len(deep)}, in {wrong} of the unmarked")
        spoken = [clip["heard"] for clip in mine if "heard" in clip]
        words = sum(one["words"] for one in spoken)
        for name in ("plain", "marked") if words else ():
            wrong = sum(one["wrong"][name] for one in spoken)
            print(f"  WER {name}: {wrong} of {words} words, {100 * wrong / words:.1f} %")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", type=int, default=1000)
    parser.add_argument("--deep", type=int, default=60, help="clips of each reader")
    parser.add_argument("--heard", type=int, default=30, help="clips of each reader")
    parser.add_argument("--url", help="a server's /v1 with the embedded voice, unmarked")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    path = arguments.folder / "clips.jsonl"
    path.touch()
    torch.set_num_threads(1)
    with torch.inference_mode():
        run(arguments, path)
    report(path)


if __name__ == "__main__":
    main()
