"""Trains talker and code predictor together on teacher codes.

    python talker_train.py --steps 7000      -> work/talker.pt (resumed if present), work/talker.log

Each example draws its prompt anew: whole text or token by token, language named or not, now and
then characters that cannot be spoken. One attention head is guided along the text.
"""

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import typography
from codes import END, LEAD, SIZE, with_longer_lead
from prompt import build
from talker_model import CONTROL, Talker
from tokenizer import Tokenizer
from torch import nn

WORK = Path(__file__).parent / "work"
MIX = {
    "examples": 0.28,
    "closed": 0.22,
    "numbers": 0.16,
    "words": 0.14,
    "formats": 0.06,
    "glosses": 0.04,
    "long": 0.07,
    "paragraphs": 0.06,
    "audio": 0.03,
}
EOS = CONTROL["codec_eos_token_id"]


class Corpus:
    """Sentences of all finished code shards: text, codes, and the byte of it each frame speaks."""

    def __init__(self, tok):
        self.tok, self.items, self.loaded = tok, {b: [] for b in MIX}, set()
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
        self.refresh()

    def refresh(self):
        for path in sorted((WORK / "codes").glob("*-*-*.npz")):
            if path.name in self.loaded or ".part" in path.name:
                continue
            self.loaded.add(path.name)
            z = np.load(path)
            cuts = np.cumsum(z["lengths"])[:-1]
            speaker = int(path.stem.endswith("rms"))
            for text, codes, place in zip(
                str(z["texts"]).split("\n"),
                np.split(z["codes"], cuts),
                np.split(z["place"], cuts),
                strict=True,
            ):
                self.items[path.name.split("-")[0]].append((text, codes, place, speaker))

    def draw(self, rng):
        names = [b for b in MIX if self.items[b]]
        weights = np.array([MIX[b] for b in names])
        bucket = self.items[names[rng.choice(len(names), p=weights / weights.sum())]]
        text, codes, place, speaker = bucket[rng.integers(len(bucket))]
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
            codes, spoken = silence(codes[0, 13]), np.zeros(3, np.int64)
        streaming = rng.random() < 0.4
        if streaming:
            codes, spoken = with_longer_lead(codes, spoken)
        text, codec, trailing, start = build(self.tok, ids, speaker, rng.random() < 0.5, streaming)
        return text, codec, trailing, codes, start + spoken

    def insert_foreign(self, ids, spoken, rng):
        at = rng.integers(0, len(ids) + 1)
        extra = self.foreign[rng.integers(len(self.foreign))]
        return ids[:at] + extra + ids[at:], spoken + len(extra) * (spoken >= at)


def silence(voice):
    codes = np.zeros((3, 16), np.uint8)
    codes[:, 0], codes[:, 7], codes[:, 13] = END, (2 * 16 + LEAD, 16 + LEAD, LEAD), voice
    return codes


def length(example):
    return len(example[0]) + len(example[3])


def batches(corpus, rng, tokens):
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
            yield groups[i]


def collate(group, rng, noise):
    size = max(map(length, group))
    batch = len(group)
    text, codec, target, guide = (np.full((batch, size), -1) for _ in range(4))
    codes, frames = np.full((batch, size, 13), -1), np.full((batch, size, 14), -1)
    for i, (t, c, trailing, y, place) in enumerate(group):
        n, m = len(t), len(y)
        text[i, :n], codec[i, :n] = t, c
        text[i, n : n + m] = t[3]  # <tts_pad>
        k = min(len(trailing), m)
        text[i, n : n + k] = trailing[:k]
        wrong = rng.random((m, 14)) < noise * (rng.random((m, 1)) < 0.3)
        heard = np.where(wrong, rng.integers(0, SIZE, (m, 14)), y[:, :14])
        codec[i, n : n + m], codes[i, n : n + m] = heard[:, 0], heard[:, 1:]
        target[i, n - 1 : n + m - 1], target[i, n + m - 1] = y[:, 0], EOS
        frames[i, n - 1 : n + m - 1] = y[:, :14]
        guide[i, n - 1 : n + m - 1] = np.where(place <= np.arange(n - 1, n + m - 1), place, -1)
    return [torch.from_numpy(a) for a in (text, codec, target, guide, codes, frames)]


def guide_loss(q, k, guide):
    """How much of the guided head's attention misses the token being spoken and its neighbours."""
    score = (q @ k.transpose(1, 2)).float() * q.shape[-1] ** -0.5
    n = score.shape[1]
    at = torch.arange(n)
    score = score.masked_fill(at > at[:, None], -1e4)
    near = (at - guide[..., None]).abs() <= 1
    hit = torch.logsumexp(score.masked_fill(~near, -1e4), -1) - torch.logsumexp(score, -1)
    return -(hit * (guide >= 0)).sum() / (guide >= 0).sum()


def losses(model, batch, share, generator):
    text, codec, target, guide, codes, frames = batch
    h, (q, k) = model.model.run(model.embed(text, codec, codes))
    where = target >= 0
    parts = {"c0": F.cross_entropy(model.codec_head(h[where]).float(), target[where])}
    rows = torch.nonzero((frames[..., 0] >= 0).flatten())[:, 0]
    rows = rows[torch.randperm(len(rows), generator=generator)[: int(share * len(rows))]]
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
        "voice": each[12],
    }
    parts["guide"] = guide_loss(q, k, guide)
    return parts


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--steps", type=int, default=7000)
    args.add_argument("--tokens", type=int, default=3000)
    args.add_argument("--rate", type=float, default=2e-3)
    args.add_argument("--restart", type=int, default=0, help="step at which the schedule begins")
    args.add_argument(
        "--share", type=float, default=0.5, help="of the frames that train the predictor"
    )
    args.add_argument("--noise", type=float, default=0.08)
    args = args.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    tok = Tokenizer()
    corpus = Corpus(tok)
    print({b: len(x) for b, x in corpus.items.items()}, flush=True)
    model = Talker()
    print({n: sum(p.numel() for p in m.parameters()) for n, m in model.named_children()})
    optimiser = torch.optim.AdamW(
        model.parameters(), args.rate, betas=(0.9, 0.98), weight_decay=0.03
    )
    step, path, start = 0, WORK / "talker.pt", time.process_time()
    if path.exists():
        state = torch.load(path)
        model.load_state_dict(state["model"])
        if "optimiser" in state:
            optimiser.load_state_dict(state["optimiser"])
        step = state["step"]
    rng, generator = np.random.default_rng(step), torch.Generator().manual_seed(step)
    stream, average = batches(corpus, rng, args.tokens), {}
    while step < args.steps:
        at = step - args.restart
        rate = (
            args.rate
            * min(1, (at + 1) / 200)
            * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * at / (args.steps - args.restart))))
        )
        for group in optimiser.param_groups:
            group["lr"] = rate
        batch = collate(next(stream), rng, args.noise)
        with torch.autocast("cpu", torch.bfloat16):
            parts = losses(model, batch, args.share, generator)
        guided = 1.0 if step < 1500 else 0.1
        loss = (
            parts["c0"]
            + 0.4 * (parts["phones"] + parts["times"])
            + 0.1 * parts["pitch"]
            + 0.1 * parts["cycle"]
            + 0.1 * parts["voice"]
        )
        (loss + guided * parts["guide"]).backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        step += 1
        for name, value in {"loss": loss, "norm": norm, **parts}.items():
            average[name] = 0.97 * average.get(name, float(value)) + 0.03 * float(value)
        if step % 25 == 0:
            print(
                f"{step} {time.process_time() - start:.0f} s "
                + " ".join(f"{k} {v:.3f}" for k, v in average.items()),
                flush=True,
            )
        if step % 250 == 0 or step == args.steps:
            torch.save(
                {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "step": step},
                path.with_suffix(".part"),
            )
            path.with_suffix(".part").rename(path)
            corpus.refresh()


if __name__ == "__main__":
    main()
