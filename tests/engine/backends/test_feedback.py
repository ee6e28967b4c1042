"""What is fed to vLLM's layers and drawn from them, without vLLM: our own layers stand in for its,
and a batch is cut as vLLM might cut it.
"""

import random
from collections.abc import Iterator

import pytest
import torch

from engine.backends.vllm.feedback import Feedback
from engine.core import EngineCore
from engine.input_processor import build_sequence
from engine.layers.rotary import RotaryTable
from engine.loader.checkpoint import TalkerCheckpoint
from engine.protocol import Prompt, Submit
from engine.runner.torch_backend import TorchBackend
from engine.scheduler.scheduler import PrefillChunk
from engine.scheduler.sequence import Sequence
from tests.engine.conftest import CONFIG
from tests.engine.speaking import ROLE, random_params, random_text
from tests.models import golden
from tests.models.test_graph_safety import FORBIDDEN, Ops, record
from tests.models.test_parity import make_core

NUM_ROWS, NUM_BLOCKS, BLOCK_SIZE, MAX_TOKENS = 3, 24, 16, 128


@pytest.fixture(scope="module", params=["tiny-0b6", "tiny-1b7"])
def own(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> EngineCore:
    """Our engine with one checkpoint: what the codes have to be."""
    name = f"custom_voice/{request.param}"
    return make_core(golden.write_one(tmp_path_factory.mktemp("feedback"), name), None)


class Layers:
    """In place of vLLM: slices of requests in one batch, and the tokens that come of it."""

    def __init__(self, own: EngineCore, *, kernels: bool = False) -> None:
        self.checkpoint: TalkerCheckpoint = own.checkpoints["m"]  # type: ignore[assignment]
        c = self.checkpoint.config.talker_config
        self.feedback = Feedback(
            self.checkpoint.config,
            self.checkpoint.talker,
            self.checkpoint.predictor,
            num_rows=NUM_ROWS,
            num_blocks=NUM_BLOCKS,
            block_size=BLOCK_SIZE,
            max_tokens=MAX_TOKENS,
            kernels=kernels,
        )
        cpu, fp32 = torch.device("cpu"), torch.float32
        rotary = RotaryTable(c.head_dim, c.rope_theta, MAX_TOKENS, fp32, cpu)
        self.attention = TorchBackend(c, self.feedback.buffers, rotary, rotary)
        shape = (c.num_hidden_layers, 2, NUM_BLOCKS + 1, BLOCK_SIZE, c.num_key_value_heads)
        self.cache = torch.zeros(*shape, c.head_dim)
        self.num_started = 0

    def start(self, submit: Submit, row: int) -> Sequence:
        seq = build_sequence(submit, self.checkpoint, CONFIG, MAX_TOKENS, 0)
        per_row = NUM_BLOCKS // NUM_ROWS
        seq.row, seq.block_table = row, list(range(row * per_row, (row + 1) * per_row))
        self.num_started += 1
        self.feedback.start(seq, self.num_started, None)
        return seq

    def run(self, slices: list[tuple[Sequence, int, int]]) -> list[int]:
        """(sequence, first position, end) of each -> the token that each is told."""
        chunks = [PrefillChunk(*one) for one in slices]
        rows = [chunk.seq.row for chunk in chunks]
        self.feedback.begin(rows)
        lengths = [chunk.end - chunk.start for chunk in chunks]
        starts = torch.tensor([0, *lengths]).cumsum(0)
        positions = torch.cat([torch.arange(c.start, c.end) for c in chunks])
        x = self.feedback.inputs(positions, starts)
        of_token = torch.tensor(rows).repeat_interleave(torch.tensor(lengths))
        hidden = self.checkpoint.talker(
            x, self.cache, self.attention.prefill(chunks, of_token, positions)
        )
        return self.feedback.draw(hidden[starts[1:] - 1]).argmax(-1).tolist()


@pytest.fixture
def layers(own: EngineCore) -> Iterator[Layers]:
    with torch.inference_mode():
        yield Layers(own)


def submits(num: int, seed: int) -> list[Submit]:
    rng = random.Random(seed)
    return [
        Submit(
            i,
            "m",
            Prompt(
                role=ROLE,
                text=random_text(rng, 12),
                streaming_text=rng.random() < 0.5,
                speakers=((3066, 1.0),),
                instruct=random_text(rng, 8),
            ),
            random_params(rng, 16),
        )
        for i in range(num)
    ]


@pytest.mark.parametrize("seed", range(2))
def test_any_cut_of_any_batch_gives_our_engines_codes(
    own: EngineCore, layers: Layers, seed: int
) -> None:
    """Prompts in slices beside frames, steps without a sequence, and again and again a sequence
    whose keys and values are lost and computed anew; rows are used several times.
    """
    eos, rng = own.checkpoints["m"].config.talker_config.codec_eos_token_id, random.Random(seed)
    wanted = golden.speak(own, waiting := submits(9, seed))
    told: dict[int, list[int]] = {}
    frames: dict[int, dict[int, list[int]]] = {}
    computed: dict[Sequence, int] = {}
    number = {}
    while waiting or computed:
        free = set(range(NUM_ROWS)) - {seq.row for seq in computed}
        while waiting and free:
            seq = layers.start(waiting.pop(), free.pop())
            computed[seq], told[seq.id], frames[seq.id] = 0, [], {}
            number[layers.num_started] = seq.id
        for seq in [seq for seq in computed if rng.random() < 0.1]:
            computed[seq] = 0
        chosen = [seq for seq in computed if rng.random() < 0.8] or list(computed)
        ends = [
            min(computed[s] + rng.randint(1, 9), s.num_prompt_tokens + len(told[s.id]))
            for s in chosen
        ]
        tokens = layers.run([(s, computed[s], end) for s, end in zip(chosen, ends, strict=True)])
        for run, frame, *codes in layers.feedback.take():
            assert frames[number[run]].setdefault(frame, codes) == codes, "it was drawn again"
        for seq, end, token in zip(chosen, ends, tokens, strict=True):
            computed[seq] = end
            if end < seq.num_prompt_tokens + len(told[seq.id]):
                continue  # a slice: vLLM has no use for its token
            told[seq.id].append(token)
            if token == eos or len(told[seq.id]) == seq.max_frames:
                del computed[seq]
    for id_, codes in wanted.items():
        assert [frames[id_][k] for k in range(len(codes))] == codes
        assert told[id_][: len(codes)] == [frame[0] for frame in codes]
        assert told[id_][len(codes) :] in ([], [eos])


def test_a_step_reads_nothing_back_and_stays_where_it_is(layers: Layers) -> None:
    first, second = (layers.start(one, row) for row, one in enumerate(submits(2, 5)))
    ends = [seq.num_prompt_tokens for seq in (first, second)]
    layers.run([(first, 0, ends[0]), (second, 0, ends[1])])
    b, feedback = layers.feedback.buffers, layers.feedback
    tensors = {k: v for k, v in vars(b).items() if isinstance(v, torch.Tensor)}
    at = {name: tensor.data_ptr() for name, tensor in tensors.items()}
    at["rows"] = feedback.rows.data_ptr()
    feedback.begin([0, 1])
    hidden = torch.zeros_like(b.hidden[:2])
    with Ops() as ops:
        feedback.inputs(torch.tensor(ends), torch.arange(3))
        feedback.draw(hidden)
    assert "embedding" in ops.names
    allowed = {"lift_fresh"}  # the test's own positions, and the host's copy of the rows
    assert {n for n in ops.names if any(word in n for word in FORBIDDEN)} <= allowed
    after = {name: getattr(b, name).data_ptr() for name in tensors}
    assert after | {"rows": feedback.rows.data_ptr()} == at


@pytest.mark.slow  # Triton interpreted, a minute of a core each
@pytest.mark.timeout(1800)
def test_replayed_frames_are_the_same(own: EngineCore, layers: Layers) -> None:
    """As GPUs have it: a graph of kernels, recorded over padding; here they are interpreted."""
    pytest.importorskip("triton")
    replayed = Layers(own, kernels=True)
    replayed.feedback.capture(record)
    one = submits(1, 3)[0]
    tokens = []
    for these in (layers, replayed):
        seq = these.start(one, 0)
        tokens.append(these.run([(seq, 0, seq.num_prompt_tokens)]))
        for k in range(4):
            end = seq.num_prompt_tokens + k
            tokens[-1] += these.run([(seq, end, end + 1)])
    assert tokens[0] == tokens[1] and len(tokens[0]) == 5
