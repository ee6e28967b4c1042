# ruff: noqa: E501
"""The space of voices: what a voice is, the codes that say it, and the words that describe it.

A voice is one of three teachers, heard through a longer or shorter vocal tract, darker or brighter,
with breath, at some pitch, more or less lively, slower or faster. Codes 13 to 15 say teacher,
tract, tilt and breath; pitch and pace are in the codes that say them anyway.

    c13   teacher: 0 slt, 1 rms, 2 awb
    c14   vocal tract: formants times 1.02^k, k from -12 to 14, as k modulo 64 (0: the teacher's own)
    c15   (tilt modulo 8) + 8 * breath; tilt -2 (dark) to 2 (bright), breath 0 to 2, 3: a whisper
"""

import re
from typing import NamedTuple

import numpy as np

TEACHERS = ("slt", "rms", "awb")
TEACHER_PITCH = (168.0, 100.0, 128.0)  # Hz, geometric mean over a sentence
TRACT_STEP, TRACT_LOW, TRACT_HIGH = 1.02, -12, 14
WHISPER = 3
PITCH_FLOOR, PITCH_CEILING = 62.0, 335.0


class Voice(NamedTuple):
    """pitch: geometric mean in Hz; spread: of the pitch around it, and rate: times the teacher's."""

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


# ---- styles: a closed vocabulary for `instructions` beside a named voice

STYLES = {
    "slow": (
        "slowly|slow|at a slow pace|in a slow voice|unhurried|take your time|calmly and slowly"
        "|at a relaxed pace|slower"
    ),
    "fast": (
        "fast|quickly|at a fast pace|in a hurry|rapidly|hurried|speedily|with urgency|faster|quick"
    ),
    "high": "in a high voice|high pitched|with a high pitch|higher|in a higher voice|in a high tone",
    "low": "in a low voice|low pitched|with a low pitch|lower|deep|in a deep voice|in a lower tone",
    "whisper": (
        "in a whisper|whispering|whisper|whispered|very quietly, in a whisper|under your breath"
    ),
    "monotone": (
        "in a monotone|monotone|flat|without emotion|in a flat voice|like a robot|deadpan|bored"
    ),
    "lively": (
        "lively|cheerful|with enthusiasm|excited|in a lively voice|expressive|energetic|happy"
        "|with a lot of energy|cheerfully"
    ),
}
STYLE_FRAMES = (
    "Speak {}.|Talk {}.|{}|{}.|Say it {}.|Read this {}.|Please speak {}.|Sound {}.|Be {}.|Tone: {}."
    "|Please read it {}.|Use a {} voice."
)
OPPOSITES = ({"slow", "fast"}, {"high", "low"}, {"monotone", "lively"}, {"whisper", "high"})


def styled(voice: Voice, styles) -> Voice:
    change = {"slow": ("rate", 0.78), "fast": ("rate", 1.28), "high": ("pitch", 1.22)}
    change |= {"low": ("pitch", 0.82), "monotone": ("spread", 0.2), "lively": ("spread", 1.7)}
    for style in styles:
        if style == "whisper":
            voice = voice._replace(breath=WHISPER)
        else:
            field, factor = change[style]
            voice = voice._replace(**{field: getattr(voice, field) * factor})
    return voice.clipped()


def some_styles(rng) -> tuple[list[str], str]:
    """One or two styles, and an instruction that asks for them."""
    while True:
        styles = list(rng.choice(list(STYLES), 1 + (rng.random() < 0.3), replace=False))
        if not any(pair <= set(styles) for pair in OPPOSITES):
            break
    words = [pick(rng, STYLES[style]) for style in styles]
    joined = pick(rng, " and |, |; ").join(words)
    return styles, dressed(rng, pick(rng, STYLE_FRAMES).format(joined))


# ---- descriptions, for VoiceDesign

PEOPLE = {
    "girl": (
        Voice(0, tract=11, tilt=1, pitch=262, spread=1.3, rate=1.02),
        "little girl|girl|young girl|small girl|female child|schoolgirl|six year old girl"
        "|ten year old girl|daughter|kid, a girl|toddler girl",
    ),
    "boy": (
        Voice(0, tract=7, tilt=0, pitch=238, spread=1.2, rate=1.02),
        "little boy|boy|young boy|small boy|male child|schoolboy|eight year old boy|child|kid"
        "|small child|son",
    ),
    "young woman": (
        Voice(0, tract=3, tilt=1, pitch=208, spread=1.15, rate=1.04),
        "young woman|young lady|teenage girl|woman in her twenties|girl of twenty|female student"
        "|young female|young female speaker|twenty year old woman|college girl",
    ),
    "woman": (
        Voice(0, tract=0, pitch=182),
        "woman|lady|female|female speaker|adult woman|middle aged woman|woman in her thirties"
        "|mother|female narrator|woman in her forties|female voice|businesswoman|forty year old woman",
    ),
    "old woman": (
        Voice(0, tract=-4, tilt=-1, breath=1, pitch=165, rate=0.87),
        "old woman|elderly woman|old lady|grandmother|elderly lady|aged woman|woman in her seventies"
        "|elderly female|granny|seventy year old woman",
    ),
    "young man": (
        Voice(1, tract=3, tilt=1, pitch=124, spread=1.1, rate=1.05),
        "young man|young guy|teenage boy|man in his twenties|male student|young male|guy"
        "|young male speaker|twenty year old man|young fellow",
    ),
    "man": (
        Voice(1, tract=-1, pitch=106),
        "man|male|gentleman|male speaker|adult man|middle aged man|man in his thirties|father"
        "|male narrator|man in his forties|male voice|businessman|forty year old man",
    ),
    "old man": (
        Voice(2, tract=-6, tilt=-1, breath=1, pitch=98, rate=0.85),
        "old man|elderly man|grandfather|elderly gentleman|aged man|man in his seventies|wizard"
        "|elderly male|grandpa|seventy year old man|old sailor",
    ),
    "scot": (
        Voice(2, tract=0, pitch=118),
        "Scottish man|Scotsman|man from Scotland|man with a Scottish accent|Scottish male",
    ),
}
TRAITS = {
    "deep": (
        {"pitch": 0.8, "tract": -3},
        "deep|low|low pitched|bass|very low|deep and low|rumbling|baritone",
    ),
    "high": (
        {"pitch": 1.2, "tract": 2},
        "high|high pitched|squeaky|shrill|very high|treble|soprano|piping",
    ),
    "slow": (
        {"rate": 0.8},
        "slow|unhurried|measured|leisurely|calm and slow|drawling|ponderous|relaxed",
    ),
    "fast": (
        {"rate": 1.26},
        "fast|quick|rapid|hurried|brisk|fast paced|hasty|speedy",
    ),
    "bright": (
        {"tilt": 2},
        "bright|clear|crisp|sharp|brilliant|ringing|shiny|metallic",
    ),
    "dark": (
        {"tilt": -2},
        "dark|warm|mellow|soft|muffled|velvety|rich|smooth",
    ),
    "breathy": (
        {"breath": 2},
        "breathy|husky|hoarse|raspy|airy|smoky|gravelly",
    ),
    "whispering": (
        {"breath": WHISPER},
        "whispering|whispered|whispery|hushed, whispering",
    ),
    "lively": (
        {"spread": 1.6},
        "lively|cheerful|expressive|animated|excited|energetic|playful|happy|enthusiastic",
    ),
    "monotone": (
        {"spread": 0.25},
        "monotone|flat|monotonous|robotic|emotionless|bored|deadpan|cold",
    ),
}
CONTRARY = ({"deep", "high"}, {"slow", "fast"}, {"bright", "dark"}, {"lively", "monotone"})
CONTRARY += ({"breathy", "whispering"}, {"bright", "whispering"})
# {p} a person, {t} traits, {v} further traits; the article is put right afterwards.
WITH_TRAITS = (
    "a {p} with a {t} voice|{t} voice of a {p}|a {t} {p}|the {t} voice of a {p}|a {p}, {t}"
    "|{p} with {t} voice|a {p} who speaks in a {t} voice|a {p} speaking in a {t} tone|{t} {p}"
    "|the voice of a {p}, {t}|I want a {t} {p}|a {p} whose voice is {t}|make it sound like a {t} {p}"
    "|a voice like a {p}, {t}|{p}, {t}|a {t} {p} voice|a narrator: a {t} {p}|voice: {p}; style: {t}"
    "|a {p}. The voice is {t}.|Speak like a {p} with a {t} voice"
)
WITHOUT = (
    "a {p}|the voice of a {p}|{p}|a {p} speaking|a {p}'s voice|a voice of a {p}|sound like a {p}"
    "|speak as a {p}|an ordinary {p}|{p} voice"
)
# Held back from training; evaluate.py speaks these.
HELD_FRAMES = "a {t}-sounding {p}|imagine a {p} whose tone is {t}|{t}, the way a {p} talks"


def designed(person: str, traits) -> Voice:
    """The voice that a description means."""
    voice = PEOPLE[person][0]
    for trait in traits:
        for field, change in TRAITS[trait][0].items():
            value = getattr(voice, field)
            if field in ("tilt", "breath"):
                value = change
            elif field == "tract":
                value += change
            else:
                value *= change
            voice = voice._replace(**{field: value})
    return voice.clipped()


def some_description(rng, teacher: int | None = None) -> tuple[Voice, str]:
    """A voice, and words for it; only of one teacher where that is given."""
    people = [p for p, (voice, _) in PEOPLE.items() if teacher in (None, voice.teacher)]
    person = people[rng.integers(len(people))]
    while True:
        count = int(rng.choice(4, p=(0.12, 0.33, 0.37, 0.18)))
        traits = list(rng.choice(list(TRAITS), count, replace=False))
        if not any(pair <= set(traits) for pair in CONTRARY):
            break
    return designed(person, traits), describe(rng, person, traits)


def describe(rng, person: str, traits, frames: str = "") -> str:
    words = [pick(rng, TRAITS[trait][1]) for trait in traits]
    who = pick(rng, PEOPLE[person][1])
    if not words:
        return dressed(rng, pick(rng, WITHOUT).format(p=who))
    joined = words[0]
    if len(words) > 1:
        joined = ", ".join(words[:-1]) + pick(rng, ", | and |, and ") + words[-1]
    return dressed(rng, pick(rng, frames or WITH_TRAITS).format(p=who, t=joined))


def dressed(rng, text: str) -> str:
    """Articles before vowels; sometimes a capital, a full stop, no article, another case."""
    text = re.sub(r"\b([aA]) (?=[aeiouAEIOU])", r"\1n ", text)
    kind = rng.random()
    if kind < 0.45:
        text = text[0].upper() + text[1:]
    elif kind < 0.5:
        text = text.lower()
    if text[-1] not in ".!" and rng.random() < 0.4:
        text += "."
    return text


def pick(rng, options: str) -> str:
    choices = options.split("|")
    return choices[rng.integers(len(choices))]
