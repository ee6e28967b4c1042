"""Sequences without a model, for tests of the torch-free modules."""

import itertools
from typing import Any

from engine.config import Sampling
from engine.protocol import Prompt
from engine.scheduler.sequence import Sequence

GREEDY = Sampling(0.0, 0, 1.0, 1.0, 0.0, 0, 1.0, seed=0)
PROMPT = Prompt(role=(0,), text=(0,))
_ids = itertools.count(1)


def make(num_prompt: int = 8, num_frames: int = 24, model: str = "m", **fields: Any) -> Sequence:
    """A waiting sequence with a prompt and a frame budget of these sizes."""
    return Sequence(
        id=next(_ids),
        model=model,
        prompt=PROMPT,
        sampling=GREEDY,
        num_prompt_tokens=num_prompt,
        max_frames=num_frames,
        **fields,
    )
