"""Measures how loud the speakers of a checkpoint are and notes in its config.json the gains that
make them equally loud.

    python -m training.loudness [CHECKPOINT]      default engine/data/custom_voice

Run it after export.py. Loudness is EBU R 128's, over the evaluation's sentences with three seeds.
"""

import asyncio
import json
import sys
from pathlib import Path

import av
import numpy as np

from engine import SAMPLE_RATE_HZ, EngineClient, EngineConfig, ModelSpec, SamplingParams
from qtts_openai.text.prompt_builder import PromptBuilder

ROOT = Path(__file__).parent.parent
TARGET_LUFS = -18.0
LEAST_HEADROOM_DB = 0.5
SEEDS = (1, 2, 3)


def integrated_lufs(samples: np.ndarray) -> float:
    """Of int16 mono at 24 kHz."""
    graph = av.filter.Graph()
    source = graph.add_abuffer(
        format="s16", sample_rate=SAMPLE_RATE_HZ, layout="mono", time_base="1/24000"
    )
    meter, sink = graph.add("ebur128", "metadata=1:framelog=quiet"), graph.add("abuffersink")
    source.link_to(meter)
    meter.link_to(sink)
    graph.configure()
    frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
    frame.sample_rate, frame.pts = SAMPLE_RATE_HZ, 0
    source.push(frame)
    source.push(None)
    lufs = float("nan")
    while True:
        try:
            lufs = float(sink.pull().metadata.get("lavfi.r128.I", lufs))
        except (av.EOFError, BlockingIOError):
            return lufs


async def speak(engine: EngineClient, builder: PromptBuilder, row: int, text: str, seed: int):
    prompt = builder.build(text, speakers=((row, 1.0),), language="english")
    stream = engine.submit(builder.model.id, prompt, SamplingParams(seed=seed))
    return b"".join([pcm async for pcm in stream])


async def measure(path: Path) -> dict[str, float]:
    texts = json.loads((ROOT / "tests/golden/teacher_frames.json").read_text())["sentences"]
    engine = EngineClient(EngineConfig(device="cpu"), [ModelSpec("voice", str(path))])
    await engine.start()
    try:
        builder, gains = PromptBuilder(engine.models["voice"]), {}
        for name, row in builder.model.speakers.items():
            said = [
                speak(engine, builder, row, text, seed)
                for text, seed in ((text, seed) for seed in SEEDS for text in texts)
            ]
            samples = np.frombuffer(b"".join(await asyncio.gather(*said)), "<i2")
            lufs = integrated_lufs(samples)
            peak = 20 * np.log10(np.abs(samples.astype(float)).max() / 32768)
            gains[name] = round(min(TARGET_LUFS - lufs, -peak - LEAST_HEADROOM_DB), 1)
            print(f"{name}: {lufs:.1f} LUFS, peak {peak:.1f} dBFS, gain {gains[name]} dB")
        return gains
    finally:
        await engine.close()


if __name__ == "__main__":
    checkpoint = (
        Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "engine" / "data" / "custom_voice"
    )
    file = checkpoint / "config.json"
    config = json.loads(file.read_text())
    config["qtts_speaker_gains_db"] = asyncio.run(measure(checkpoint))
    file.write_text(json.dumps(config, indent=2) + "\n")
