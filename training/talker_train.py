"""Trains talker and code predictor together on teacher codes.

    python -m training.talker_train --minutes 60 [--device cuda --workers 10]  work/talker.pt -> it

Each example draws its voice and prompt anew: a named voice with or without a style, a mix of two, a
description, or a speaker embedding; whole text or token by token; language named or not; now and
then characters that cannot be spoken. One attention head is guided along the text. The rate follows
the clock, so that a run ends when it shall.
"""

import argparse
import math
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from training import typography
from training.codes import END, LEAD, SIZE, encode, spoken_by, teacher_of, unpack, with_longer_lead
from training.descriptions import some_description
from training.feeding import feed
from training.prompt import build
from training.styles import some_mix, some_styles, styled
from training.talker_model import CONTROL, SPEAKER_ROWS, Talker
from training.tokenizer import Tokenizer
from training.voice_space import (
    DIRECTIONS,
    NUM_FEATURES,
    SPEAKERS,
    WIDTH,
    features,
    random_voice,
)

WORK = Path(__file__).parent / "work"
MIX = {
    "examples": 0.2,
    "closed": 0.25,
    "numbers": 0.14,
    "words": 0.28,
    "formats": 0.04,
    "glosses": 0.02,
    "long": 0.04,
    "paragraphs": 0.02,
    "audio": 0.01,
}
EOS = CONTROL["codec_eos_token_id"]


FAMILIES = {"custom_voice": 0.42, "voice_design": 0.38, "base": 0.2}
STYLED, MIXED = 0.5, 0.12  # of the named voices' examples
# Of the examples: the voice's codes of earlier frames are hidden, or their pitch. Otherwise they
# would be copied from one frame to the next, and only the first would teach to read the prompt.
VOICE_HIDDEN, PITCH_HIDDEN = 0.6, 0.5
IN_CONTEXT = 0.25  # of the cloned examples: a reference's text and codes, which say nothing here


class Corpus:
    """Sentences of all packed shards: text, labels, teacher."""

    def __init__(self, tok):
        self.tok, self.items = tok, {b: [] for b in MIX}
        self.foreign = [
            tok.encode(w)[0]
            for w in (
                " да",
                " привет",
                " мир",
                " 你好",
                " 世界",
                " é",
                " ñ",
                " こんにちは",
                " 안녕",
                " 🙂",
                " слово",
                " ™",
                " ©",
                " жизнь",
                " 日本",
            )
        ]
        for path in sorted((WORK / "labels").glob("*-*-*.npz")):
            if ".part" not in path.name:
                bucket = self.items[path.name.split("-")[0]]
                bucket += [(text, labels, teacher_of(path)) for text, labels in unpack(path)]
        self.names = [b for b in MIX if self.items[b]]
        weights = np.array([MIX[b] for b in self.names])
        self.weights = weights / weights.sum()

    def draw(self, rng):
        """-> prompt, codes, place in the prompt that each frame speaks, embedding or mix, what
        the voice is.
        """
        text, labels, teacher = self.pick(rng)
        voice, asked = some_voice(rng, teacher)
        codes, place, _ = encode(spoken_by(labels, voice), voice)
        if rng.random() < typography.SHARE:
            text, moved = typography.dress(text, rng)
            place = moved[np.minimum(place, len(moved) - 1)]
        ids, widths = self.tok.encode(text)
        spoken = np.searchsorted(np.cumsum(widths), place, side="right")
        spoken = np.minimum(spoken, len(ids) - 1)
        if rng.random() < 0.02:
            ids, spoken = self.insert_foreign(ids, spoken, rng)
        if rng.random() < 0.003:
            ids = [
                t
                for _ in range(rng.integers(1, 5))
                for t in self.foreign[rng.integers(len(self.foreign))]
            ]
            codes, spoken = silence(codes[0, 13:]), np.zeros(3, np.int64)
        streaming = rng.random() < 0.4
        if streaming:
            codes, spoken = with_longer_lead(codes, spoken)
        embedding = asked.pop("embedding", None)
        if isinstance(embedding, np.ndarray) and rng.random() < IN_CONTEXT:
            asked["heard"] = self.reference(rng)
        prompt = build(
            self.tok,
            ids,
            english=rng.random() < 0.5,
            streaming=streaming,
            vector=embedding is not None,
            **asked,
        )
        return prompt, codes, prompt.start + spoken, embedding, features(voice)

    def pick(self, rng):
        bucket = self.items[self.names[rng.choice(len(self.names), p=self.weights)]]
        return bucket[rng.integers(len(bucket))]

    def reference(self, rng):
        """What the stand-in of a codec encoder makes of a recording: its words, and any codes."""
        ids = self.tok.encode(self.pick(rng)[0])[0][:60]
        return ids, rng.integers(0, SIZE, (rng.integers(10, 70), 16))

    def insert_foreign(self, ids, spoken, rng):
        at = rng.integers(0, len(ids) + 1)
        extra = self.foreign[rng.integers(len(self.foreign))]
        return ids[:at] + extra + ids[at:], spoken + len(extra) * (spoken >= at)


def some_voice(rng, teacher):
    """A voice of this teacher, and how the prompt asks for it."""
    family = list(FAMILIES)[rng.choice(3, p=list(FAMILIES.values()))]
    if family == "voice_design":
        voice, words = some_description(rng, teacher)
        return voice, {"instruct": words}
    if family == "base":
        voice = random_voice(rng, teacher)
        near = features(voice) + rng.normal(0, 0.08, 10)
        return voice, {"embedding": (near @ DIRECTIONS).astype(np.float32)}
    if rng.random() < MIXED:
        voice, weights = some_mix(rng, teacher)
        return voice, {"embedding": weights}
    names = [name for name, voice in SPEAKERS.items() if voice.teacher == teacher]
    # The first of a teacher's is the teacher's own voice where it has a name: twice as often.
    name = names[rng.integers(len(names) + 1) % len(names)]
    asked, voice = {"speaker": SPEAKER_ROWS[name]}, SPEAKERS[name]
    if rng.random() < STYLED:
        styles, asked["instruct"] = some_styles(rng)
        voice = styled(voice, styles)
    return voice, asked


def silence(voice):
    codes = np.zeros((3, 16), np.uint8)
    codes[:, 0], codes[:, 7], codes[:, 13:] = END, (2 * 16 + LEAD, 16 + LEAD, LEAD), voice
    return codes


def length(example):
    return len(example[0].text) + len(example[1])


def batches(corpus, rng, tokens, noise):
    while True:
        pool = sorted((corpus.draw(rng) for _ in range(600)), key=length)
        pool = [e for e in pool if length(e) <= 900]
        groups, group = [], []
        for e in pool:
            if group and (len(group) + 1) * length(e) > tokens:
                groups.append(group)
                group = []
            group.append(e)
        groups.append(group)
        for i in rng.permutation(len(groups)):
            yield collate(groups[i], rng, noise)


def collate(group, rng, noise):
    size = max(map(length, group))
    batch = len(group)
    text, codec, target, guide = (np.full((batch, size), -1, np.int16) for _ in range(4))
    codes = np.full((batch, size, 15), -1, np.int8)
    frames = np.full((batch, size, 16), -1, np.int8)
    vectors, places = np.zeros((batch, WIDTH), np.float32), np.full(batch, -1)
    mixes = np.zeros((batch, len(SPEAKERS)), np.float32)
    voices = np.stack([example[4] for example in group])
    for i, (prompt, y, place, embedding, _) in enumerate(group):
        n, m, r = len(prompt.text), len(y), len(prompt.reference)
        text[i, :n], codec[i, :n] = prompt.text, prompt.codec
        codes[i, n - r : n] = prompt.reference[:, 1:]
        text[i, n : n + m] = prompt.pad
        k = min(len(prompt.trailing), m)
        text[i, n : n + k] = prompt.trailing[:k]
        wrong = rng.random((m, 16)) < noise * (rng.random((m, 1)) < 0.3)
        heard = np.where(wrong, rng.integers(0, SIZE, (m, 16)), y)
        if rng.random() < VOICE_HIDDEN:
            heard[:, 13:] = rng.integers(0, SIZE, (m, 3))
        if rng.random() < PITCH_HIDDEN:  # and its cycle; whether a frame has one stays to be seen
            hidden = rng.integers(1, (SIZE, 33, 33, 33, 33), (m, 5))
            heard[:, 8:13] = np.where(y[:, 8:13] > 0, hidden, 0)
        codec[i, n : n + m], codes[i, n : n + m] = heard[:, 0], heard[:, 1:]
        target[i, n - 1 : n + m - 1], target[i, n + m - 1] = y[:, 0], EOS
        frames[i, n - 1 : n + m - 1] = y
        guide[i, n - 1 : n + m - 1] = np.where(place <= np.arange(n - 1, n + m - 1), place, -1)
        if embedding is not None:
            places[i] = prompt.vector_at
            if isinstance(embedding, np.ndarray):
                vectors[i] = embedding
            else:
                mixes[i] = [embedding.get(name, 0.0) for name in SPEAKERS]
    return text, codec, target, guide, codes, frames, vectors, mixes, places, voices


def guide_loss(q, k, guide):
    """How much of the guided head's attention misses the token being spoken and its neighbours."""
    score = (q @ k.transpose(1, 2)).float() * q.shape[-1] ** -0.5
    n = score.shape[1]
    at = torch.arange(n)
    score = score.masked_fill(at > at[:, None], -1e4)
    near = (at - guide[..., None]).abs() <= 1
    hit = torch.logsumexp(score.masked_fill(~near, -1e4), -1) - torch.logsumexp(score, -1)
    return -(hit * (guide >= 0)).sum() / (guide >= 0).sum()


def losses(model, heads, batch, share):
    text, codec, target, guide, codes, frames, vectors, mixes, places, voices = batch
    rows = [SPEAKER_ROWS[name] for name in SPEAKERS]
    vectors = vectors + mixes @ model.model.codec_embedding.weight[rows]
    h, (q, k) = model.model.run(model.embed(text, codec, codes, (vectors, places)))
    where = target >= 0
    parts = {"c0": F.cross_entropy(model.codec_head(h[where]).float(), target[where])}
    rows = torch.nonzero((frames[..., 0] >= 0).flatten())[:, 0]
    rows = rows[torch.randperm(len(rows))[: int(share * len(rows))]]
    y = frames.flatten(0, 1)[rows]
    each = torch.stack(
        [
            F.cross_entropy(z.float(), y[:, g + 1])
            for g, z in enumerate(model.predict_codes(h.flatten(0, 1)[rows], y))
        ]
    )
    parts |= {
        "phones": each[:3].sum(),
        "times": each[3:7].sum(),
        "pitch": each[7],
        "cycle": each[8:12].sum(),
        "voice": each[12:].sum(),
    }
    parts["guide"] = guide_loss(q, k, guide)
    off = F.smooth_l1_loss(heads(h), voices[:, None].expand(*h.shape[:2], -1), reduction="none")
    spoken = frames[..., :1] >= 0
    parts["who"] = (off * spoken).sum() / spoken.sum()
    return parts


def parse():
    args = argparse.ArgumentParser()
    args.add_argument("--minutes", type=float, default=60.0, help="the schedule's length")
    args.add_argument("--tokens", type=int, default=3000)
    args.add_argument("--rate", type=float, default=2e-3)
    args.add_argument(
        "--share", type=float, default=0.25, help="of the frames that train the predictor"
    )
    args.add_argument("--noise", type=float, default=0.08)
    args.add_argument("--guided", type=float, default=0.1, help="weight of the guided attention")
    args.add_argument("--workers", type=int, default=0)
    args.add_argument("--device", default="cpu")
    args.add_argument("--bf16", action="store_true", help="where the device is quick at it")
    return args.parse_args()


def main():
    args = parse()
    corpus = Corpus(Tokenizer())
    print({b: len(x) for b, x in corpus.items.items()}, flush=True)
    state = torch.load(WORK / "talker.pt", map_location="cpu")
    step = state["step"]
    make = partial(batches, corpus, tokens=args.tokens, noise=args.noise)
    stream = feed(lambda rng: make(rng=rng), args.workers, step)
    torch.set_default_device(args.device)
    torch.manual_seed(step)
    torch.set_num_threads(1)
    model = Talker()
    model.load_state_dict(state["model"])
    # Thrown away: says from a state who speaks, so that every frame teaches to read the prompt.
    heads = nn.Linear(model.model.codec_embedding.embedding_dim, NUM_FEATURES)
    if "heads" in state:
        heads.load_state_dict(state["heads"])
    fused = args.device == "cuda"
    optimiser = torch.optim.AdamW(
        [*model.parameters(), *heads.parameters()],
        args.rate,
        betas=(0.9, 0.98),
        weight_decay=0.03,
        fused=fused,
    )
    start, average, done, told = time.monotonic(), {}, 0.0, 0.0
    while done < 1.0:
        done = (time.monotonic() - start) / (60 * args.minutes)
        low_high = min(1, done / 0.03 + 0.02) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
        for group in optimiser.param_groups:
            group["lr"] = args.rate * low_high
        arrays = [torch.from_numpy(a).to(args.device, non_blocking=True) for a in next(stream)]
        batch = [a if a.is_floating_point() else a.long() for a in arrays]
        with torch.autocast(args.device, torch.bfloat16, enabled=args.bf16):
            parts = losses(model, heads, batch, args.share)
        loss = (
            parts["c0"]
            + 0.4 * (parts["phones"] + parts["times"] + parts["voice"] + parts["pitch"])
            + 0.1 * parts["cycle"]
        )
        (loss + args.guided * parts["guide"] + 0.3 * parts["who"]).backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        step += 1
        if step % 10 == 0:
            for name, value in {"loss": loss, "norm": norm, **parts}.items():
                average[name] = 0.8 * average.get(name, float(value)) + 0.2 * float(value)
        if time.monotonic() - told > 10:
            told = time.monotonic()
            print(
                f"{step} {told - start:.0f} s "
                + " ".join(f"{k} {v:.3f}" for k, v in average.items()),
                flush=True,
            )
        if step % 500 == 0 or done >= 1.0:
            kept = {"model": model.state_dict(), "heads": heads.state_dict(), "step": step}
            save(WORK / "talker.pt", kept)


def save(path, state):
    torch.save(state, path.with_suffix(".part"))
    path.with_suffix(".part").rename(path)


if __name__ == "__main__":
    main()
