"""How well a Base model's speaker encoder tells voices apart: what `cloning.consent_similarity` and
`cloning.protected_similarity` would refuse.

    python -m benchmarks.likeness [--checkpoint FOLDER] [--sentences 12]

Voices: flite's, which read the same sentences of training/eval_sentences.txt. Without a checkpoint
one of random weights is made, whose figures say nothing of a trained one.
"""

import argparse
import itertools
import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks.watermark import FLITE, by_flite
from engine.config import ModelSpec
from engine.dummy.checkpoint import write_random_checkpoint
from engine.loader.checkpoint import load
from training.judge import sentences


def embeddings(checkpoint: str, count: int) -> dict[str, np.ndarray]:
    """By voice: rows of length 1."""
    spec, cpu = ModelSpec(id="base", checkpoint=checkpoint), torch.device("cpu")
    encoder = load(spec, Path(checkpoint), torch.float32, cpu).speaker_encoder
    assert encoder is not None, "a Base checkpoint is needed"
    found = {}
    for voice in FLITE:
        rows = [
            encoder(torch.from_numpy(by_flite(voice, 1.0, sentence.plain).astype(np.float32)))
            for sentence in sentences("everyday")[:count]
        ]
        stacked = torch.stack(rows).float().numpy()
        found[voice] = stacked / np.linalg.norm(stacked, axis=1, keepdims=True)
    return found


def report(found: dict[str, np.ndarray]) -> None:
    same = np.concatenate(
        [(rows @ rows.T)[np.triu_indices(len(rows), 1)] for rows in found.values()]
    )
    pairs = itertools.combinations(found.values(), 2)
    other = np.concatenate([(one @ two.T).ravel() for one, two in pairs])
    for name, values in (("one voice", same), ("two voices", other)):
        low, middle, high = np.quantile(values, (0.05, 0.5, 0.95))
        print(f"{name}: cosine {low:.3f} {middle:.3f} {high:.3f} (5, 50, 95 %; n={len(values)})")
    for threshold in (0.25, 0.5, 0.75, 0.9, 0.95, 0.99):
        refused, passed = (same < threshold).mean(), (other >= threshold).mean()
        print(f"at {threshold}: the right voice refused {refused:.1%}, another passed {passed:.1%}")
    every = np.sort(np.concatenate([same, other]))
    rates = [max((same < at).mean(), (other >= at).mean()) for at in every]
    best = int(np.argmin(rates))
    print(f"errors are equal at {every[best]:.4f}: {rates[best]:.1%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", help="a folder; else random weights of a small shape")
    parser.add_argument("--sentences", type=int, default=12)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        if arguments.checkpoint is None:
            write_random_checkpoint(Path(folder) / "c", model_type="base", shape="tiny-0b6")
        report(embeddings(arguments.checkpoint or f"{folder}/c", arguments.sentences))


if __name__ == "__main__":
    main()
