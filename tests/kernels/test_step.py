"""A whole frame in kernels, and as recorded graphs, against plain torch: equal codes.

One sequence speaks alone, another joins it and stays; padding fills the buckets.
"""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from engine.config import ModelSpec, Sampling
from engine.dummy import checkpoint as random_checkpoint
from engine.dummy.checkpoint import write_random_checkpoint
from engine.dummy.configs import random_checkpoint_config
from engine.kernels import fused
from engine.kernels.tuning import candidates
from engine.loader.checkpoint import Checkpoint, load
from engine.protocol import Prompt
from engine.runner.cuda_graphs import Replay
from engine.runner.prompt_embeds import prompt_shape
from engine.runner.talker_runner import TalkerRunner
from engine.scheduler.scheduler import PrefillChunk
from engine.scheduler.sequence import Sequence

GREEDY = Sampling(0.0, 0, 1.0, 1.0, 0.0, 0, 1.0, seed=0)
FREE = Sampling(0.9, 50, 0.8, 1.05, 0.9, 20, 0.9, seed=11, ignore_eos=True)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, device: str) -> Checkpoint:
    path: Path = tmp_path_factory.mktemp("step") / "tiny"
    write_random_checkpoint(path, model_type="custom_voice", shape="tiny-0b6")
    spec = ModelSpec(id="m", checkpoint=str(path))
    return load(spec, path, torch.float32, torch.device(device))


@pytest.fixture
def shallow_checkpoint(tmp_path: Path, device: str, monkeypatch: pytest.MonkeyPatch) -> Checkpoint:
    """Fewer layers, and fewer codes for the predictor's heads: less to interpret."""

    def config(*args) -> dict:
        made = random_checkpoint_config(*args)
        made["talker_config"]["num_hidden_layers"] = 2
        predictor = made["talker_config"]["code_predictor_config"]
        predictor |= {"num_hidden_layers": 1, "layer_types": ["full_attention"]}
        predictor["vocab_size"] = 256
        return made

    monkeypatch.setattr(random_checkpoint, "random_checkpoint_config", config)
    write_random_checkpoint(tmp_path, model_type="custom_voice", shape="tiny-0b6")
    spec = ModelSpec(id="m", checkpoint=str(tmp_path))
    return load(spec, tmp_path, torch.float32, torch.device(device))


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.inference_mode():
        yield


def make_runner(checkpoint: Checkpoint, device: str, *, kernels: bool) -> TalkerRunner:
    c = checkpoint.config.talker_config
    shape = (c.num_hidden_layers, 2, 5, 16, c.num_key_value_heads, c.head_dim)
    return TalkerRunner(checkpoint, torch.zeros(shape, device=device), 2, 32, kernels=kernels)


def sequences() -> list[Sequence]:
    """An instructed one, and one of two speakers with its text frame by frame."""
    both = ((3066, 0.5), (3010, 0.5))
    prompts = [
        Prompt(role=(1, 2, 3), text=(9, 8), speakers=((3066, 1.0),), instruct=(4, 5)),
        Prompt(
            role=(1, 2, 3), text=(5, 6, 7), speakers=both, language_id=2050, streaming_text=True
        ),
    ]
    seqs = []
    for i, (prompt, sampling) in enumerate(zip(prompts, (GREEDY, FREE), strict=True)):
        length, trailing = prompt_shape(prompt, 0)
        seq = Sequence(i, "m", prompt, sampling, length, 8, trailing)
        seq.row, seq.block_table = i, [2 * i, 2 * i + 1]
        seqs.append(seq)
    return seqs


def run(runner: TalkerRunner) -> list[list[list[int] | None]]:
    """Codes of three steps; the second sequence's prompt is prefilled in two slices."""
    first, second = sequences()
    runner.start(first, None)
    runner.prefill([PrefillChunk(first, 0, first.num_prompt_tokens)])
    told = [step(runner, [first])]
    runner.start(second, None)
    runner.prefill([PrefillChunk(second, 0, 4)])
    runner.prefill([PrefillChunk(second, 4, second.num_prompt_tokens)])
    told.append(step(runner, [second, first]))
    told.append(step(runner, [second]))
    return told


def step(runner: TalkerRunner, seqs: list[Sequence]) -> list[list[int] | None]:
    for seq in seqs:
        seq.num_scheduled += 1
    return runner.decode(seqs).result()


def stand_in(run: Callable[[], Tensor]) -> tuple[Replay, Tensor]:
    """A recording is the same function again into the same memory."""
    out = run()
    return (lambda: out.copy_(run())), out


@pytest.mark.slow
def test_kernels_and_graphs_equal_plain_torch(checkpoint: Checkpoint, device: str) -> None:
    plain = run(make_runner(checkpoint, device, kernels=False))
    runner = make_runner(checkpoint, device, kernels=True)
    assert run(runner) == plain
    if device == "cuda":
        return  # real graphs: tests/gpu
    runner.capture(stand_in, max_tokens=16)
    assert run(runner) == plain


def test_a_frame_with_fused_products(
    shallow_checkpoint: Checkpoint, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One frame is enough: its shapes and strides are those of every frame. The last candidate has
    the fewest programs to interpret.
    """
    checkpoint, seconds = shallow_checkpoint, itertools.count()
    monkeypatch.setattr(fused, "candidates", lambda *args: candidates(*args)[-1:])
    (first, _), (again, _) = sequences(), sequences()
    plain = one_frame(make_runner(checkpoint, device, kernels=False), first)
    fused.fuse_(
        checkpoint.talker,
        checkpoint.predictor,
        max_rows=2,
        shared=99 << 10,
        measure=lambda *_: float(next(seconds)),
    )
    assert one_frame(make_runner(checkpoint, device, kernels=True), again) == plain


def one_frame(runner: TalkerRunner, seq: Sequence) -> list[list[int] | None]:
    runner.start(seq, None)
    runner.prefill([PrefillChunk(seq, 0, seq.num_prompt_tokens)])
    return step(runner, [seq])
