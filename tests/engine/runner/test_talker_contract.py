"""The contract of engine/talker_engine.py, sentence by sentence, for every implementation.

An implementation joins by a line in IMPLEMENTATIONS: a name, and what makes its engine from the
checkpoints of tests/engine/conftest.py. One that needs an environment of its own imports this file
and brings fixtures instead (tests/vllm/test_contract.py).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
import torch

from engine.config import ModelSpec
from engine.core import EngineCore
from engine.input_processor import build_sequence
from engine.loader.checkpoint import Checkpoint
from engine.protocol import FinishReason, SamplingParams, Submit
from engine.runner.own_talker import OwnTalkerEngine
from engine.scheduler.sequence import Sequence
from engine.talker_engine import TalkerEngine
from tests.engine.conftest import CONFIG, build_core
from tests.engine.speaking import MODELS, prompt

ROWS = 4


def own(*, overlap: bool) -> Callable[[list[ModelSpec]], EngineCore]:
    def build(models: list[ModelSpec]) -> EngineCore:
        core = build_core(models, max_num_seqs=ROWS, kv_cache_memory="8MB")
        assert isinstance(core.talker, OwnTalkerEngine)
        core.talker.overlap = overlap
        return core

    return build


IMPLEMENTATIONS = {"own": own(overlap=False), "own-overlapped": own(overlap=True)}


@dataclass
class Listener:
    """Drives a talker as EngineCore does, and checks on the way what it tells."""

    talker: TalkerEngine
    checkpoints: dict[str, Checkpoint]
    frames: dict[int, list[list[int]]] = field(default_factory=dict)
    ended: dict[int, FinishReason] = field(default_factory=dict)
    failed: dict[int, Exception] = field(default_factory=dict)
    started: list[int] = field(default_factory=list)
    rows: dict[int, int] = field(default_factory=dict)  # of running sequences
    seqs: dict[int, Sequence] = field(default_factory=dict)

    def add(self, submit: Submit) -> Sequence:
        capacity = self.talker.capacity(submit.model)
        checkpoint = self.checkpoints[submit.model]
        seq = build_sequence(submit, checkpoint, CONFIG, capacity.max_tokens, 0)
        self.seqs[seq.id], self.frames[seq.id] = seq, []
        self.talker.add(seq, None)
        return seq

    def finish(self, seq: Sequence, reason: FinishReason) -> None:
        self.talker.finish(seq, reason)
        self.ended[seq.id] = reason
        self.rows.pop(seq.id, None)

    @torch.inference_mode()
    def step(self) -> None:
        step = self.talker.step()
        for seq in step.started:
            assert seq.id not in self.started and seq.id not in self.ended
            assert 0 <= seq.row < self.talker.capacity(seq.model).num_rows
            assert seq.row not in self.rows.values(), "a row is its sequence's own"
            self.started.append(seq.id)
            self.rows[seq.id] = seq.row
        for seq, error in step.failed:
            self.failed[seq.id] = error
        for seq, codes in step.frames:
            self._take(seq, codes)

    def _take(self, seq: Sequence, codes: list[int] | None) -> None:
        assert seq.id in self.started and seq.id not in self.ended, "not begun, or over"
        if codes is None:
            self.finish(seq, FinishReason.STOP)
            return
        assert len(codes) == 16 and all(0 <= code < 2048 for code in codes)
        self.frames[seq.id].append(codes)
        seq.num_frames += 1
        if seq.num_frames == seq.max_frames:
            self.finish(seq, FinishReason.LENGTH)

    def run(self, *submits: Submit) -> dict[int, list[list[int]]]:
        for submit in submits:
            self.add(submit)
        while self.talker.has_work:
            self.step()
        return self.frames


@pytest.fixture(scope="module", params=IMPLEMENTATIONS)
def built(
    request: pytest.FixtureRequest, models: list[ModelSpec], ending_model: ModelSpec
) -> Iterator[EngineCore]:
    core = IMPLEMENTATIONS[request.param]([models[0], models[1], ending_model])
    yield core
    core.close()


@pytest.fixture
def listener(built: EngineCore) -> Iterator[Listener]:
    yield Listener(built.talker, built.checkpoints)
    assert_given_back(built.talker)


def assert_given_back(talker: TalkerEngine) -> None:
    while talker.has_work:  # what is in flight of finished sequences is dropped
        assert not talker.step().frames
    stats = talker.stats()
    assert (stats.num_waiting, stats.num_running) == (0, 0)
    assert stats.num_free_rows == stats.num_rows and stats.num_free_blocks == stats.num_blocks
    talker.check_integrity()


def say(id_: int, model: str = MODELS[0], num_frames: int = 6, **changes: object) -> Submit:
    """Seeded by its id, and as long as it says."""
    params = {"seed": id_, "max_new_tokens": num_frames + 1, "ignore_eos": True} | changes
    return Submit(id_, model, prompt(), SamplingParams(**params))


def live(id_: int, num_text: int, num_frames: int = 12, *, text_open: bool) -> Submit:
    params = SamplingParams(seed=1, max_new_tokens=num_frames + 1, ignore_eos=True)
    spoken = prompt(num_text, streaming_text=True, text_open=text_open)
    return Submit(id_, MODELS[0], spoken, params)


def test_every_sequence_is_started_once_and_speaks_its_frames(listener: Listener) -> None:
    """More than there are rows, of two models if it may have two, of lengths from one frame on."""
    models = [model for model in MODELS if model in listener.checkpoints]
    submits = [say(i, models[i % len(models)], 1 + i) for i in range(2 * ROWS + 1)]
    frames = listener.run(*submits)
    assert sorted(listener.started) == [one.id for one in submits]
    assert [len(frames[i]) for i in range(len(submits))] == [1 + i for i in range(len(submits))]
    assert set(listener.ended.values()) == {FinishReason.LENGTH}


def test_who_came_first_starts_first(listener: Listener) -> None:
    listener.run(*(say(i, num_frames=3) for i in range(3 * ROWS)))
    assert listener.started == sorted(listener.started)


def test_codes_do_not_depend_on_company(listener: Listener) -> None:
    alone = Listener(listener.talker, listener.checkpoints).run(say(5))[5]
    together = listener.run(*(say(i) for i in range(3, 9)))
    assert together[5] == alone and together[6] != alone


def test_an_end_is_told_once_and_nothing_after_it(listener: Listener) -> None:
    greedy = {"temperature": 0.0, "ignore_eos": False, "max_new_tokens": None}
    listener.run(*(say(i, "ending", **greedy) for i in range(ROWS + 2)))
    assert set(listener.ended.values()) == {FinishReason.STOP}
    lengths = {len(listener.frames[i]) for i in range(ROWS + 2)}
    assert len(lengths) == 1 and lengths != {0}


@pytest.mark.parametrize("steps", [0, 1, 2, 4])
def test_finish_gives_back_at_once_and_tells_no_more(listener: Listener, steps: int) -> None:
    """Waiting, just begun, in mid-speech; twice; the row is another one's in the next step."""
    full = listener.talker.stats()
    first, *others = (listener.add(say(i, num_frames=40)) for i in range(ROWS + 2))
    for _ in range(steps):
        listener.step()
    heard = len(listener.frames[0])
    for seq in (first, first, others[-1]):
        listener.finish(seq, FinishReason.ABORT)
    assert listener.talker.stats().num_free_rows >= (1 if steps else full.num_rows)
    listener.step()
    listener.step()
    assert len(listener.frames[0]) == heard and others[-1].id not in listener.started
    for seq in others:
        listener.finish(seq, FinishReason.ABORT)
    stats = listener.talker.stats()
    assert (stats.num_free_rows, stats.num_free_blocks) == (full.num_free_rows, full.num_blocks)


def test_open_text_bounds_the_frames(listener: Listener) -> None:
    whole = Listener(listener.talker, listener.checkpoints).run(live(1, 6, text_open=False))[1]
    seq = listener.add(live(2, 2, text_open=True))
    while listener.talker.has_work:
        listener.step()
    assert len(listener.frames[2]) == 2 < len(whole), "no frame without its text row"
    listener.talker.append(seq, (12, 13), final=False)
    while listener.talker.has_work:
        listener.step()
    assert len(listener.frames[2]) == 4
    listener.talker.append(seq, (14, 15), final=True)
    assert listener.run()[2] == whole, "live text is spoken as if it had been there at once"


def test_the_end_is_not_drawn_while_text_is_to_come(listener: Listener) -> None:
    """In one batch: all the text at once, the same bit by bit, and one that ends when it likes."""

    def ending(id_: int, num_text: int, text_open: bool) -> Submit:
        text = prompt(num_text, streaming_text=True, text_open=text_open)
        return Submit(id_, "ending", text, SamplingParams(temperature=0.0))

    listener.add(ending(1, 12, text_open=False))
    seq = listener.add(ending(2, 2, text_open=True))
    listener.add(ending(3, 2, text_open=False))
    for at in range(2, 12, 2):
        while listener.talker.has_work:
            listener.step()
        assert 2 not in listener.ended and len(listener.frames[2]) == at
        listener.talker.append(seq, (10 + at, 11 + at), final=at == 10)
    frames = listener.run()
    assert set(listener.ended.values()) == {FinishReason.STOP}
    assert frames[1] == frames[2] and len(frames[1]) >= 12 > len(frames[3])


def test_text_may_be_appended_before_the_start(listener: Listener) -> None:
    whole = Listener(listener.talker, listener.checkpoints).run(live(1, 6, text_open=False))[1]
    with torch.inference_mode():
        seq = listener.add(live(2, 2, text_open=True))
        listener.talker.append(seq, (12, 13, 14, 15), final=True)
    assert listener.run()[2] == whole


def test_a_sequence_that_cannot_be_started_fails_alone(listener: Listener) -> None:
    others = [say(i) for i in (1, 2, 3)]
    bad = listener.add(say(9))
    bad.sampling = None  # type: ignore[assignment]
    frames = listener.run(*others)
    assert set(listener.failed) == {9} and 9 not in listener.started
    assert all(len(frames[one.id]) == 6 for one in others)
    listener.finish(bad, FinishReason.ERROR)


def test_stats_count(listener: Listener) -> None:
    listener.talker.reset_stats()
    listener.run(*(say(i, num_frames=5) for i in range(2)))
    stats = listener.talker.stats()
    assert stats.num_steps >= 5 and stats.decode_s > 0 and stats.prefill_s > 0
    listener.talker.reset_stats()
    assert listener.talker.stats().num_steps == 0
    assert not listener.talker.has_work and listener.talker.step().frames == []
