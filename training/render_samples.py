"""Renders docs/samples and its README.md: what the box sounds like, and what is understood.

    make serve                                                      # in another window
    .venv/bin/python -m training.render_samples [--base-url http://127.0.0.1:8000/v1]

Needs the judge of evaluate.py and a server with the embedded models.
"""

import argparse
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from training.evaluate_voices import as_data_url
from training.judge import Judge, errors

OUT = Path(__file__).parent.parent / "docs" / "samples"
MOST_BYTES = 100_000
RATE_HZ = 24_000
TRAIN = "Good morning. The train to Boston leaves at nine fifteen."
# What is sent besides `input`. Of a cloned voice: three seconds of which named one.
SAMPLES: dict[str, tuple[str, dict[str, Any]]] = {
    "ava-sentence": (TRAIN, {"voice": "ava"}),
    "max-sentence": (TRAIN, {"voice": "max"}),
    "ava-numbers": ("The hotel has 218 rooms on 9 floors.", {"voice": "ava"}),
    "max-numbers": ("He was born on March 14, 1987.", {"voice": "max"}),
    "old-man": (TRAIN, {"instructions": "an old man with a deep, slow voice"}),
    "little-girl": (TRAIN, {"instructions": "a little girl, bright and quick"}),
    "news-anchor": (TRAIN, {"instructions": "A news anchor: a woman with a crisp, calm voice"}),
    "clone-of-ava": (TRAIN, {"like": "ava"}),
    "clone-of-max": (TRAIN, {"like": "max"}),
}
README = """# The voices in the box

What the checkpoints that come with the project sound like. Sentences that they never saw in
training, first take, seed 1; `heard` is what an offline recogniser (whisper-base) wrote down.
Made by `.venv/bin/python -m training.render_samples`; about the voices:
[the model card](../../training/MODEL_CARD.md).

| sound | asked for | text | heard |
|---|---|---|---|
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base-url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    judge, rows = Judge(), []
    with httpx.Client(base_url=options.base_url, timeout=300) as http:
        for name, (text, asked) in SAMPLES.items():
            fields = _cloned(http, asked["like"]) if "like" in asked else asked
            if set(asked) == {"instructions"}:
                fields = asked | {"task_type": "VoiceDesign"}
            mp3 = _speak(http, text, "mp3", fields)
            assert len(mp3) <= MOST_BYTES, f"{name} has {len(mp3)} bytes"
            (options.out / f"{name}.mp3").write_bytes(mp3)
            heard = judge.hear(_floats(_speak(http, text, "pcm", fields)), RATE_HZ)
            said = "the same" if errors(heard, text)[0] == 0 else heard
            words = ", ".join(f"{key}: {value}" for key, value in asked.items())
            rows.append(f"| [{name}]({name}.mp3) | {words} | {text} | {said} |\n")
            print(rows[-1], end="", flush=True)
    (options.out / "README.md").write_text(README + "".join(rows))


def _speak(http: httpx.Client, text: str, response_format: str, fields: dict[str, Any]) -> bytes:
    body = {"model": "tts-1", "input": text, "response_format": response_format, "seed": 1}
    answer = http.post("/audio/speech", json=body | fields)
    assert answer.is_success, answer.text
    return answer.content


def _cloned(http: httpx.Client, like: str) -> dict[str, Any]:
    text = "She could not find her glasses anywhere, and the bus leaves at nine."
    return {"ref_audio": as_data_url(_floats(_speak(http, text, "pcm", {"voice": like})))}


def _floats(pcm: bytes) -> np.ndarray:
    return np.frombuffer(pcm, "<i2").astype(np.float32) / 32768


if __name__ == "__main__":
    main()
