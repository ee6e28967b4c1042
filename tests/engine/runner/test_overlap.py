"""A core that begins the next frame before it has taken the last, as on a GPU, tells the same."""

import random
from collections.abc import Iterator

import pytest

from engine.config import ModelSpec
from engine.core import EngineCore
from engine.protocol import FinishReason, SamplingParams
from tests.engine.conftest import build_core
from tests.engine.speaking import Speaker, assert_idle, random_submit, speak, submit

SUBMITS = [random_submit(random.Random(i), i, most_frames=12) for i in range(24)]


@pytest.fixture
def overlapped(core: EngineCore) -> Iterator[EngineCore]:
    core.talker.overlap = True
    yield core
    core.talker.overlap = False


def test_overlapped_steps_tell_the_same(core: EngineCore) -> None:
    plain = speak(core, SUBMITS)
    core.talker.overlap = True
    try:
        overlapped = speak(core, SUBMITS)
    finally:
        core.talker.overlap = False
    for one in SUBMITS:
        assert overlapped[one.id].codes == plain[one.id].codes
        assert overlapped[one.id].finished == plain[one.id].finished
        assert len(overlapped[one.id].pcm) == len(plain[one.id].pcm)
    assert_idle(core)


def test_a_frame_too_many_is_dropped(ending_model: ModelSpec) -> None:
    """Whether the end token was drawn is known when the next frame has begun already."""
    core = build_core([ending_model], kv_cache_memory="8MB", max_num_seqs=2)
    submits = [submit(i, "ending", params=SamplingParams(temperature=0.0)) for i in range(5)]
    plain = speak(core, submits)
    core.talker.overlap = True
    overlapped = speak(core, submits)
    for one in submits:
        heard = overlapped[one.id]
        assert heard.finished is not None and heard.finished.reason is FinishReason.STOP
        assert heard.codes == plain[one.id].codes
        assert len(heard.samples) == 1920 * len(heard.codes)
    assert_idle(core)


def test_no_frame_is_begun_beyond_the_budget(overlapped: EngineCore) -> None:
    begun = []
    runner = overlapped.talker.runners[SUBMITS[0].model]
    inner = runner.decode
    runner.decode = lambda seqs: begun.append(len(seqs)) or inner(seqs)  # type: ignore
    try:
        heard = speak(overlapped, [submit(1, SUBMITS[0].model, num_frames=5)])[1]
    finally:
        del runner.decode
    assert len(heard.codes) == 5 and sum(begun) == 5


@pytest.mark.parametrize("steps", range(1, 6))
def test_an_abort_takes_what_is_under_way_with_it(overlapped: EngineCore, steps: int) -> None:
    with Speaker(overlapped) as speaker:
        speaker.add(submit(1, num_frames=30))
        speaker.add(submit(2, num_frames=9))
        for _ in range(steps):
            speaker.step()
        overlapped.abort(1)
        speaker.add(submit(3, num_frames=9))  # takes the row at once
        heard = speaker.run()
    assert heard[1].finished is not None and heard[1].finished.reason is FinishReason.ABORT
    assert heard[2].codes == heard[3].codes and len(heard[3].codes) == 9
    assert_idle(overlapped)
