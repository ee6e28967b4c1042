"""The space of voices: what a voice is, and the codes that say it. descriptions.py has the words.

A voice is one of three teachers, heard through a longer or shorter vocal tract, darker or brighter,
with breath, at some pitch, more or less lively, slower or faster. Codes 13 to 15 say teacher,
tract, tilt and breath; pitch and pace are in the codes that say them anyway.

    c13   teacher: 0 slt, 1 rms, 2 awb
    c14   vocal tract: formants times 1.02^k, k from -12 to 14, as k modulo 64 (0: the teacher's)
    c15   (tilt modulo 8) + 8 * breath; tilt -2 (dark) to 2 (bright), breath 0 to 2, 3: a whisper
"""

from typing import NamedTuple

import numpy as np

TEACHERS = ("slt", "rms", "awb")
TEACHER_PITCH = (168.0, 100.0, 128.0)  # Hz, geometric mean over a sentence
TRACT_STEP, TRACT_LOW, TRACT_HIGH = 1.02, -12, 14
WHISPER = 3
PITCH_FLOOR, PITCH_CEILING = 62.0, 335.0


class Voice(NamedTuple):
    """pitch: geometric mean in Hz; spread of the pitch around it, and rate, times the teacher's."""

    teacher: int
    tract: int = 0
    tilt: int = 0
    breath: int = 0
    pitch: float = 168.0
    spread: float = 1.0
    rate: float = 1.0

    def codes(self) -> tuple[int, int, int]:
        return self.teacher, self.tract % 64, self.tilt % 8 + 8 * self.breath

    def clipped(self) -> "Voice":
        return self._replace(
            tract=int(np.clip(self.tract, TRACT_LOW, TRACT_HIGH)),
            tilt=int(np.clip(self.tilt, -2, 2)),
            breath=int(np.clip(self.breath, 0, WHISPER)),
            pitch=float(np.clip(self.pitch, 70, 290)),
            spread=float(np.clip(self.spread, 0.15, 2.0)),
            rate=float(np.clip(self.rate, 0.65, 1.5)),
        )


# ava and max are the teachers themselves; the others carry the names of the published models.
SPEAKERS = {
    "ava": Voice(0),
    "max": Voice(1, pitch=100),
    "vivian": Voice(0, tract=4, tilt=1, pitch=205, spread=1.3, rate=1.05),
    "serena": Voice(0, tract=-3, tilt=-1, breath=1, pitch=172, rate=0.93),
    "uncle_fu": Voice(2, tract=-7, tilt=-1, breath=1, pitch=88, rate=0.86),
    "dylan": Voice(1, tract=5, tilt=1, pitch=128, rate=1.08),
    "eric": Voice(2, tract=2, breath=1, pitch=122, spread=1.5, rate=1.1),
    "ryan": Voice(1, tract=-4, pitch=92, spread=1.6, rate=1.04),
    "aiden": Voice(2, tract=5, tilt=2, pitch=138, spread=1.2),
    "ono_anna": Voice(0, tract=9, tilt=1, pitch=245, spread=1.4, rate=1.08),
    "sohee": Voice(0, tract=1, breath=1, pitch=190, spread=1.5, rate=0.98),
}

WIDTH = 256  # of a speaker embedding
NUM_FEATURES = 10


def features(voice: Voice) -> np.ndarray:
    """A voice as numbers of about the same size, [10]."""
    one = np.eye(3)[voice.teacher]
    return np.array(
        [
            *(2 * one - 2 / 3),
            voice.tract / 6,
            voice.tilt / 1.2,
            min(voice.breath, 2) - 0.7,
            2.0 * (voice.breath == WHISPER),
            np.log(voice.pitch / 150) / 0.35,
            np.log(voice.spread) / 0.4,
            np.log(voice.rate) / 0.2,
        ],
        np.float32,
    )


def _directions() -> np.ndarray:
    """[10, WIDTH], rows orthogonal: where each feature lies in a speaker embedding."""
    rng = np.random.default_rng(12)
    return np.linalg.qr(rng.standard_normal((WIDTH, 10)))[0].T.astype(np.float32) * 4.0


DIRECTIONS = _directions()


def embedding(voice: Voice) -> np.ndarray:
    """The speaker embedding that means this voice, [WIDTH]: what the speaker encoder learns."""
    return features(voice) @ DIRECTIONS


def random_voice(rng, teacher: int) -> Voice:
    """Any voice of the space that a person might have."""
    tract = round(rng.normal(0, 5))
    # Longer tracts go with lower pitch, loosely.
    pitch = TEACHER_PITCH[teacher] * np.exp(0.012 * tract + rng.normal(0, 0.2))
    return Voice(
        teacher,
        tract,
        int(rng.integers(-2, 3)),
        int(rng.choice(4, p=(0.6, 0.22, 0.13, 0.05))),
        float(pitch),
        float(np.exp(rng.normal(0, 0.35))),
        float(np.exp(rng.normal(0, 0.14))),
    ).clipped()
