"""Speaks a few held-out sentences into docs/samples, and notes there what a recogniser heard.

    .venv/bin/python -m training.render_samples [--checkpoint DIR] [--out DIR]

Seeded: the same checkpoint gives the same sound.
"""

import argparse
from pathlib import Path

import lameenc
import numpy as np

from engine.loader.checkpoint import EMBEDDED
from engine.protocol import SamplingParams
from training.judge import Judge, errors
from training.readers import Reader, Reading

OUT = Path(__file__).parents[1] / "docs" / "samples"
MOST_BYTES = 25_000
SAMPLES = {
    "ava-sentence": "Good morning. The train to Boston leaves at nine fifteen.",
    "max-sentence": "Good morning. The train to Boston leaves at nine fifteen.",
    "ava-numbers": "The hotel has 218 rooms on 9 floors.",
    "max-numbers": "He was born on March 14, 1987.",
    "ava-question": "Could you tell me the way to the post office?",
    "max-question": "Where did you put the scissors?",
}
README = """# The voice in the box

What the checkpoint that comes with the project sounds like. Sentences that it never saw in
training, first take, seed 1; `heard` is what an offline recogniser (whisper-base) wrote down.
Made by `.venv/bin/python -m training.render_samples`; about the voice:
[the model card](../../training/MODEL_CARD.md).

| sound | voice | text | heard |
|---|---|---|---|
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default=EMBEDDED, help="an exported directory")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    reader, judge, rows = Reader(options.checkpoint), Judge(), []
    for name, text in SAMPLES.items():
        speaker = name.split("-")[0]
        params = SamplingParams(seed=1)
        reading = reader.read(text, speaker, streaming=False, language="english", params=params)
        heard = judge.hear(reading.samples, reading.rate_hz)
        mp3 = encode(reading)
        assert len(mp3) <= MOST_BYTES, f"{name} has {len(mp3)} bytes"
        (options.out / f"{name}.mp3").write_bytes(mp3)
        said = "the same" if errors(heard, text)[0] == 0 else heard
        rows.append(f"| [{name}]({name}.mp3) | `{speaker}` | {text} | {said} |\n")
        print(rows[-1], end="", flush=True)
    (options.out / "README.md").write_text(README + "".join(rows))


def encode(reading: Reading) -> bytes:
    """48 kbit/s: enough for a voice that ends at 8 kHz."""
    encoder = lameenc.Encoder()
    encoder.silence()
    encoder.set_channels(1)
    encoder.set_in_sample_rate(reading.rate_hz)
    encoder.set_out_sample_rate(reading.rate_hz)
    encoder.set_bit_rate(48)
    encoder.set_quality(2)
    pcm = (reading.samples * 32768).astype(np.int16).tobytes()
    return bytes(encoder.encode(pcm) + encoder.flush())


if __name__ == "__main__":
    main()
