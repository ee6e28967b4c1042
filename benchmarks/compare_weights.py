"""What weights in fewer bits do to the codes on a CPU, code by code.

Regime. A sentence is spoken greedily in float32 by plain torch; then every other form is led along
the same codes (teacher forcing) and asked at each step which code it would have chosen. `agree` is
the share of equal choices for codebook 0, for the rest, and of frames equal in all sixteen; `top5`
is the share where the reference's choice is among the form's five likeliest. torch's bfloat16 is
the yardstick: it is what GPUs and the official package run.

    python -m benchmarks.compare_weights --shape 0.6B

A table, then one JSON document on the last line. Random weights have spread-out logits and say
little about words; give --checkpoint a trained one for that.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.config import EngineConfig, ModelSpec
from engine.dummy.checkpoint import write_random_checkpoint
from engine.protocol import Prompt, SamplingParams, Submit
from engine.runner import torch_backend as backend
from engine.startup import build

# engine.kernels, dtype and quantization
REFERENCE = ("torch", "float32", "none")
FORMS = (
    ("torch", "bfloat16", "none"),
    *(("native", "float32", weights) for weights in ("none", "int8", "int4")),
)


class Guide:
    """Stands in for the sampler: records greedy choices, or leads along recorded ones."""

    def __init__(self, lead: list[int] | None = None) -> None:
        self.lead, self.chosen, self.in_top5 = lead, [], []

    def __call__(self, logits: Tensor, params: Any, uniform: Tensor) -> Tensor:
        best = logits.topk(5).indices[0].tolist()
        step = len(self.chosen)
        self.chosen.append(best[0])
        if self.lead is None:
            return torch.tensor([best[0]])
        self.in_top5.append(self.lead[step] in best)
        return torch.tensor([self.lead[step]])


def speak(path: Path, form: tuple[str, str, str], frames: int, guide: Guide) -> None:
    names = dict(zip(("kernels", "dtype", "quantization"), form, strict=True))
    config = EngineConfig(device="cpu", max_num_seqs=1, max_model_len=1024, **names)
    core, _ = build(config, [ModelSpec(id="m", checkpoint=str(path))])
    plain, backend.sample = backend.sample, guide
    speaker = next(iter(core.checkpoints["m"].info.speakers.values()), 0)
    prompt = Prompt(role=(0, 1, 2), text=tuple(range(10, 40)), speakers=((speaker, 1.0),))
    params = SamplingParams(max_new_tokens=frames + 1, temperature=0.0, ignore_eos=True)
    core.add(Submit(1, "m", prompt, params))
    while core.has_work:
        core.step()
    backend.sample = plain
    core.close()


def compare(reference: list[int], guide: Guide) -> dict[str, float]:
    same = torch.tensor(guide.chosen).eq(torch.tensor(reference)).view(-1, 16)
    top5 = torch.tensor(guide.in_top5).view(-1, 16)
    return {
        "agree_codebook_0": same[:, 0].float().mean().item(),
        "agree_rest": same[:, 1:].float().mean().item(),
        "agree_frame": same.all(1).float().mean().item(),
        "top5": top5.float().mean().item(),
    }


def measure(path: Path, frames: int) -> list[dict[str, Any]]:
    reference = Guide()
    speak(path, REFERENCE, frames, reference)
    rows = []
    for form in FORMS:
        guide = Guide(reference.chosen)
        speak(path, form, frames, guide)
        found = compare(reference.chosen, guide)
        rows.append({"form": form, **found})
        print(f"{' '.join(form):21}{''.join(f'{v:9.1%}' for v in found.values())}", flush=True)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="tiny-1b7")
    parser.add_argument("--checkpoint", type=Path, help="a CustomVoice checkpoint directory")
    parser.add_argument("--frames", type=int, default=32)
    args = parser.parse_args()
    print("                        code 0     rest    frame     top5   (share equal to float32)")
    with tempfile.TemporaryDirectory() as folder:
        path = args.checkpoint or Path(folder) / args.shape
        if args.checkpoint is None:
            write_random_checkpoint(path, model_type="custom_voice", shape=args.shape)
        rows = measure(path, args.frames)
    print(json.dumps({"benchmark": "compare_weights", **vars(args), "rows": rows}, default=str))
    return 0


if __name__ == "__main__":
    sys.exit(main())
