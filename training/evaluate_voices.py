"""Who speaks: named voices, described ones and cloned ones of a running server, measured by ear.

    make serve                                                      # in another window
    .venv/bin/python -m training.evaluate_voices --base-url http://127.0.0.1:8000/v1
    ... --parts described,cloned --judge none

Every request goes over HTTP, as a user's does. Pitch is Praat's (parselmouth: the median of its
autocorrelation tracker over what is voiced), pace is letters per second of sound, words are
whisper-base's. `cloned` needs the teacher's recordings (training.teacher): a reference is three
seconds of a teacher in a voice of the space that no model has heard, and what comes back is put
to the speaker encoder that ships.

Prints a table a part; the last line of stdout is one JSON document.
"""

import argparse
import base64
import io
import json
from collections.abc import Iterator
from itertools import combinations, cycle
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import parselmouth
import soundfile
import torch

from engine.config import ModelSpec
from engine.loader.checkpoint import load_ends, read_info, resolve
from training import codec_train
from training.judge import Judge, errors, normalise, sentences
from training.styles import STYLES, between
from training.voice_space import DIRECTIONS, SPEAKERS, WHISPER, Voice, embedding, random_voice
from training.wording import pick

RATE_HZ = 24_000
DESCRIPTIONS = Path(__file__).with_name("eval_descriptions.txt")
PARTS = ("named", "styles", "mixed", "space", "described", "cloned")
MALE = (1, 2)  # teachers


class Heard(NamedTuple):
    """pitch in Hz (0: nothing voiced), pace in letters per second, and words wrong of all."""

    samples: np.ndarray
    pitch: float
    pace: float
    wrong: int
    words: int


class Listener:
    def __init__(self, base_url: str, judge: str) -> None:
        self.http = httpx.Client(base_url=base_url, timeout=300)
        self.judge = Judge(judge) if judge != "none" else None
        self.said = cycle([s for s in sentences("everyday") if 25 <= len(s.text) <= 60])

    def speak(self, count: int = 2, *, in_words: bool = True, **fields: Any) -> Heard:
        """`count` sentences in one voice, taken together; `in_words`: put to the judge."""
        judge = self.judge if in_words else None
        heard = [self._speak(next(self.said), judge, fields) for _ in range(count)]
        samples = np.concatenate([one.samples for one in heard])
        return Heard(
            samples,
            pitch_hz(samples),
            float(np.mean([one.pace for one in heard])),
            sum(one.wrong for one in heard),
            sum(one.words for one in heard),
        )

    def _speak(self, sentence, judge: Judge | None, fields: dict[str, Any]) -> Heard:
        body = {"model": "tts-1", "input": sentence.text, "response_format": "pcm", "seed": 1}
        answer = self.http.post("/audio/speech", json=body | fields)
        assert answer.is_success, answer.text
        samples = np.frombuffer(answer.content, "<i2").astype(np.float32) / 32768
        wrong = errors(judge.hear(samples, RATE_HZ), sentence.spoken)[0] if judge else 0
        pace = len(sentence.spoken) / voiced_s(samples)
        return Heard(samples, 0.0, pace, wrong, len(normalise(sentence.spoken)) if judge else 0)


def as_data_url(samples: np.ndarray) -> str:
    """Three seconds of it, for `ref_audio`."""
    file = io.BytesIO()
    soundfile.write(file, samples[: 3 * RATE_HZ], RATE_HZ, format="WAV", subtype="PCM_16")
    return f"data:audio/wav;base64,{base64.b64encode(file.getvalue()).decode()}"


def pitch_track(samples: np.ndarray) -> np.ndarray:
    """Hz, of the stretches that are voiced; empty where they are next to none."""
    sound = parselmouth.Sound(samples.astype(np.float64), RATE_HZ)
    track = sound.to_pitch_ac(pitch_floor=55, pitch_ceiling=420).selected_array["frequency"]
    voiced = track[track > 0]
    return voiced if len(voiced) > 10 else voiced[:0]


def pitch_hz(samples: np.ndarray) -> float:
    track = pitch_track(samples)
    return float(np.median(track)) if len(track) else 0.0


def spread_semitones(samples: np.ndarray) -> float:
    """How much the pitch moves: its standard deviation."""
    track = pitch_track(samples)
    return float(np.std(12 * np.log2(track))) if len(track) else 0.0


def voiced_s(samples: np.ndarray) -> float:
    """Without the silence before and after, in seconds."""
    loud = np.flatnonzero(np.abs(samples) > 0.01)
    return max((loud[-1] - loud[0]) / RATE_HZ, 0.1) if len(loud) else 0.1


class Ear:
    """The speaker encoder of the Base checkpoint: sound -> features of voice_space."""

    def __init__(self) -> None:
        spec = ModelSpec("base", "embedded-base")
        ends = load_ends(spec, resolve(spec), torch.float32, torch.device("cpu"))
        assert ends.speaker_encoder is not None
        self.net = ends.speaker_encoder

    @torch.inference_mode()
    def embedding(self, samples: np.ndarray) -> np.ndarray:
        return self.net(torch.from_numpy(samples)).numpy().ravel()

    def features(self, samples: np.ndarray) -> np.ndarray:
        return self.embedding(samples) @ DIRECTIONS.T / 16  # rows have length 4


def named(listener: Listener, ear: Ear) -> dict[str, Any]:
    """Every named voice, and how well the speaker encoder tells them apart."""
    rows, embeddings = {}, {}
    for name in speakers():
        voice = SPEAKERS[name]
        heard = [listener.speak(3, voice=name) for _ in range(2)]
        embeddings[name] = [ear.features(one.samples) for one in heard]
        rows[name] = {
            "wanted_hz": round(voice.pitch),
            "pitch_hz": round(heard[0].pitch),
            "pace": round(heard[0].pace, 1),
            "wer": share(heard),
        }
        print(f"{name:10} {rows[name]}", flush=True)
    return {"voices": rows, "equal_error_rate": equal_error_rate(embeddings)}


def speakers() -> list[str]:
    """Those of the embedded CustomVoice; the server lets them stand in for other names."""
    spec = ModelSpec("voice", "embedded")
    return list(read_info(spec, resolve(spec))[1].speakers)


def space(listener: Listener, ear: Ear) -> dict[str, Any]:
    """48 voices drawn from the space and asked for by their embeddings, two utterances each."""
    rng, embeddings, off = np.random.default_rng(48), {}, []
    for at in range(48):
        voice = random_voice(rng, at % 3)
        asked = {"speaker_embedding": embedding(voice).tolist()}
        heard = [listener.speak(2, in_words=False, **asked) for _ in range(2)]
        embeddings[str(at)] = [ear.features(one.samples) for one in heard]
        if voice.breath < WHISPER and heard[0].pitch:
            off.append(abs(12 * np.log2(heard[0].pitch / voice.pitch)))
    rate = equal_error_rate(embeddings)
    print(f"equal error rate {rate} %, median {np.median(off):.1f} semitones off", flush=True)
    return {"equal_error_rate": rate, "semitones_off": round(float(np.median(off)), 2)}


def equal_error_rate(features: dict[str, list[np.ndarray]]) -> float:
    """In percent: where as many pairs of one voice are taken for two as of two for one. Features
    are of about the same size, so their distance says how alike two utterances are.
    """
    pairs = [(a, b, True) for pair in features.values() for a, b in combinations(pair, 2)]
    for one, two in combinations(features.values(), 2):
        pairs += [(a, b, False) for a in one for b in two]
    near = [(-float(np.linalg.norm(a - b)), alike) for a, b, alike in pairs]
    same = [x for x, alike in near if alike]
    other = [x for x, alike in near if not alike]
    limits = sorted(same + other)
    rates = [(np.mean(np.array(same) < x), np.mean(np.array(other) >= x)) for x in limits]
    return round(100 * float(min(max(pair) for pair in rates)), 1)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def styles(listener: Listener, _ear: Ear) -> dict[str, Any]:
    """What each word of the closed vocabulary changes, beside the plain voice."""
    rng, rows = np.random.default_rng(3), {}
    for voice in ("ava", "max"):
        for style in (None, *STYLES):
            asked = {} if style is None else {"instructions": f"Speak {pick(rng, STYLES[style])}."}
            heard = listener.speak(3, voice=voice, **asked)
            label = f"{voice} {style or 'plain'}"
            rows[label] = {
                "asked": asked.get("instructions", ""),
                "pitch_hz": round(heard.pitch),
                "spread": round(spread_semitones(heard.samples), 1),
                "pace": round(heard.pace, 1),
                "wer": share([heard]),
            }
            print(f"{label:14} {rows[label]}", flush=True)
    return rows


def mixed(listener: Listener, _ear: Ear) -> dict[str, Any]:
    rows = {}
    for first, second in (("ava", "max"), ("vivian", "ryan"), ("uncle_fu", "ono_anna")):
        for weight in (0.7, 0.5, 0.3):
            name = f"{first}({weight})+{second}({round(1 - weight, 1)})"
            heard = listener.speak(2, voice=name)
            near = between(SPEAKERS[first], SPEAKERS[second], 1 - weight)
            rows[name] = {
                "wanted_hz": round(near.pitch),
                "pitch_hz": round(heard.pitch),
                "wer": share([heard]),
            }
            print(f"{name:30} {rows[name]}", flush=True)
    return rows


def described(listener: Listener, _ear: Ear) -> dict[str, Any]:
    """Hand-written descriptions: in the pitch that they mean, in the pace where they say one."""
    plain = listener.speak(4, voice="ava").pace
    rows, all_heard = {}, []
    for line in DESCRIPTIONS.read_text().splitlines():
        if not line or line[0] == "#":
            continue
        words, who, limits, pace = (part.strip() for part in line.split("|"))
        low, high = map(int, limits.split("-"))
        heard = listener.speak(2, instructions=words, task_type="VoiceDesign")
        all_heard.append(heard)
        faster = heard.pace / plain
        in_pace = {"slow": faster < 0.93, "fast": faster > 1.07}.get(pace, True)
        rows[words] = {
            "who": who,
            "pitch_hz": round(heard.pitch),
            "right": low <= heard.pitch <= high,
            "pace": round(faster, 2),
            "pace_right": bool(in_pace),
            "wer": share([heard]),
        }
        print(f"{words[:60]:60} {limits:8} {rows[words]}", flush=True)
    return {
        "descriptions": rows,
        "pitch_right": sum(row["right"] for row in rows.values()),
        "pace_right": sum(row["pace_right"] for row in rows.values()),
        "of": len(rows),
        "wer": share(all_heard),
    }


def cloned(listener: Listener, ear: Ear) -> dict[str, Any]:
    """References of voices that no model has heard."""
    rows, all_heard = [], []
    for voice, reference in references(count=20):
        heard = listener.speak(2, ref_audio=as_data_url(reference))
        all_heard.append(heard)
        wanted, got = pitch_hz(reference), ear.features(heard.samples)
        of_reference = ear.features(reference)
        semitones = 12 * np.log2(heard.pitch / wanted) if wanted and heard.pitch else float("nan")
        rows.append(
            {
                "teacher": voice.teacher,
                "pitch_hz": round(wanted),
                "spoken_hz": round(heard.pitch),
                "semitones": round(float(semitones), 1),
                "gender_right": bool((np.argmax(got[:3]) in MALE) == (voice.teacher in MALE)),
                "heard_as_reference": int(np.argmax(of_reference[:3])),
                # Steps of 2 %: what was spoken against what the reference was made with.
                "tract_percent": round(float(2 * (got[3] * 6 - voice.tract)), 1),
                "cosine": round(cosine(of_reference, got), 2),
                "wer": share([heard]),
            }
        )
        print(rows[-1], flush=True)
    return {
        "voices": rows,
        "gender_right": sum(row["gender_right"] for row in rows),
        "within_two_semitones": sum(abs(row["semitones"]) <= 2 for row in rows),
        "tract_within_5_percent": sum(abs(row["tract_percent"]) <= 5 for row in rows),
        "of": len(rows),
        "wer": share(all_heard),
    }


def references(count: int) -> Iterator[tuple[Voice, np.ndarray]]:
    """Three seconds each of a teacher's recording, through a voice that is drawn anew."""
    items = codec_train.load_corpus()
    gains = codec_train.loudness(items)
    rng = np.random.default_rng(4321)
    while count:
        labels, pcm, teacher = items[rng.integers(len(items))]
        drawn = random_voice(rng, teacher)
        factor = 1.02**drawn.tract
        if not (labels.f0 > 0).any() or drawn.breath > 2 or len(labels.f0) / factor < 700:
            continue
        sound = codec_train.heard(rng, pcm * gains[teacher], factor, drawn) * codec_train.GAIN
        count -= 1
        yield drawn, sound[6000 : 6000 + 3 * RATE_HZ].astype(np.float32)


def share(heard: list[Heard]) -> float | None:
    """Word error rate in percent; None without a judge."""
    words = sum(one.words for one in heard)
    return round(100 * sum(one.wrong for one in heard) / words, 1) if words else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base-url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--judge", choices=("base", "tiny", "none"), default="base")
    options = parser.parse_args()
    listener, ear, report = Listener(options.base_url, options.judge), Ear(), {}
    for part in options.parts.split(","):
        print(f"-- {part}", flush=True)
        report[part] = globals()[part](listener, ear)
    for part, found in report.items():
        sums = {k: v for k, v in found.items() if not isinstance(v, dict | list)}
        print(part, sums or "")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
