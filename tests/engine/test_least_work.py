"""Which of several workers an utterance goes to. The workers are made up."""

import msgspec
import pytest

from engine import EngineClient, QueueFullError, SamplingParams
from engine.config import EngineConfig
from tests.engine.speaking import prompt

FRAME = bytes(3840)


@pytest.fixture
def engine() -> EngineClient:
    client = EngineClient(EngineConfig(data_parallel_size=2, max_queued=1), [])
    for worker in client._workers:
        worker.status, worker.num_rows = "ready", 3
    return client


def start(engine: EngineClient, frames: float, **params: int):
    long = msgspec.structs.replace(prompt(0), expected_frames=frames)
    return engine.submit("m", long, SamplingParams(**params))


def where(engine: EngineClient) -> list[list[int]]:
    return [sorted(worker.streams) for worker in engine._workers]


def test_the_one_with_the_least_work_left_is_next(engine) -> None:
    """Not the one with the fewest utterances."""
    start(engine, 1000)
    start(engine, 50)
    start(engine, 50)
    assert where(engine) == [[1], [2, 3]]


def test_what_was_heard_is_no_work_any_more(engine) -> None:
    long = start(engine, 1000)
    start(engine, 100)
    long.feed(FRAME * 990)
    start(engine, 100)
    assert where(engine) == [[1, 3], [2]]


def test_a_speech_that_outlasts_its_estimate_is_still_work(engine) -> None:
    start(engine, 10).feed(FRAME * 500)
    assert engine._workers[0].frames_left > 0


def test_a_request_may_bound_its_work(engine) -> None:
    start(engine, 1000, max_new_tokens=5)
    start(engine, 100)
    start(engine, 100)
    assert where(engine) == [[1, 3], [2]]


def test_a_free_row_comes_before_little_work(engine) -> None:
    for _ in range(3):
        start(engine, 1)
        engine._workers[1].status = "restarting"
    engine._workers[1].status = "ready"
    start(engine, 1000)
    start(engine, 1)
    assert where(engine) == [[1, 2, 3], [4, 5]]


def test_all_have_to_be_full(engine) -> None:
    for _ in range(8):
        start(engine, 10)
    assert [len(ids) for ids in where(engine)] == [4, 4]
    with pytest.raises(QueueFullError, match="8 utterances"):
        start(engine, 10)
