"""Listeners who leave at any moment: nothing is lost, nothing is kept, nobody else notices."""

import random
from collections import Counter

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.core import EngineCore
from engine.protocol import FinishReason
from tests.engine.speaking import MODELS, REFERENCES, Speaker, assert_idle, random_submit

SETTINGS = settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
# (what, argument): submit with a seed, steps, abort of the n-th that is alive, forget voices
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.integers(0, 10_000)),
        st.tuples(st.just("step"), st.integers(1, 4)),
        st.tuples(st.just("abort"), st.integers(0, 50)),
        st.tuples(st.just("forget"), st.just(0)),
    ),
    min_size=4,
    max_size=40,
)
phases: Counter[str] = Counter()


def phase(core: EngineCore, id_: int) -> str:
    if id_ in core.encoding:
        return "encoding"
    seq = core.sequences[id_]
    if seq in core.talker.scheduler.waiting:
        return "waiting"
    if not seq.is_prefilled:
        return "mid-prefill" if seq.num_prefilled else "admitted"
    return "unheard" if seq.playback_started_at is None else "speaking"


def play(speaker: Speaker, events: list[tuple[str, int]]) -> set[int]:
    """Ids that were aborted."""
    core, aborted = speaker.core, set()
    for i, (what, n) in enumerate(events):
        if what == "submit":
            speaker.add(random_submit(random.Random(n), i, most_frames=6))
        elif what == "step":
            for _ in range(n):
                speaker.step()
        elif what == "forget":
            for voices in core.voices.values():
                voices.done.clear()
        elif core.sequences:
            id_ = list(core.sequences)[n % len(core.sequences)]
            phases[phase(core, id_)] += 1
            aborted.add(id_)
            core.abort(id_)
            core.abort(id_)
    return aborted


@SETTINGS
@given(events=EVENTS, leave_all=st.booleans())
def test_random_aborts(small_core: EngineCore, events: list, leave_all: bool) -> None:
    for model in ("base-0b6", "base-1b7"):
        for reference in REFERENCES:
            small_core.register_voice(model, reference)
    with Speaker(small_core) as speaker:
        aborted = play(speaker, events)
        if leave_all:
            for id_ in list(small_core.sequences):
                aborted.add(id_)
                small_core.abort(id_)
        heard = speaker.run()
    for id_, utterance in heard.items():
        assert (utterance.finished is None) != (utterance.failed is None), "one end each"
        if utterance.finished is not None:
            left = utterance.finished.reason is FinishReason.ABORT
            assert left == (id_ in aborted)
            assert left or len(utterance.samples) == 1920 * len(utterance.codes)
    assert_idle(small_core)


def test_every_phase_is_left(small_core: EngineCore) -> None:
    """One abort in each phase, on purpose."""
    phases.clear()
    for want in ("encoding", "waiting", "mid-prefill", "admitted", "speaking"):
        for seed in range(40):
            if phases[want]:
                break
            leave_in(small_core, want, seed)
        assert phases[want], want


def leave_in(core: EngineCore, want: str, seed: int) -> None:
    """Submit a few and step until one is in the phase; then it leaves, and the rest after it."""
    for voices in core.voices.values():
        voices.done.clear()
    with Speaker(core) as speaker:
        for i in range(6):
            speaker.add(random_submit(random.Random(10 * seed + i), i, most_frames=6))
        for _ in range(20):
            found = [id_ for id_ in core.sequences if phase(core, id_) == want]
            if found:
                phases[want] += 1
                core.abort(found[0])
                break
            speaker.step()
        for id_ in list(core.sequences):
            core.abort(id_)
        speaker.run()
    assert_idle(core)


def test_an_abort_frees_within_a_step(small_core: EngineCore) -> None:
    with Speaker(small_core) as speaker:
        for i in range(8):
            speaker.add(random_submit(random.Random(i), i, most_frames=6))
        speaker.step()
        for id_ in list(small_core.sequences):
            small_core.abort(id_)
        speaker.step()
        assert_idle(small_core)


def test_survivors_do_not_notice(core: EngineCore) -> None:
    """Half leave at random moments; the others say what they say alone."""
    rng = random.Random(5)
    submits = [random_submit(random.Random(500 + i), i, most_frames=12) for i in range(16)]
    assert {one.model for one in submits} >= set(MODELS[:4])
    stay = submits[::2]
    with Speaker(core) as speaker:
        alone = {one.id: speaker.run([one])[one.id].codes for one in stay}
    with Speaker(core) as speaker:
        for one in submits:
            speaker.add(one)
        leaving = [one.id for one in submits[1::2]]
        while leaving:
            speaker.step()
            if rng.random() < 0.7:
                core.abort(leaving.pop(rng.randrange(len(leaving))))
        together = speaker.run()
    assert {id_: together[id_].codes for id_ in alone} == alone
    assert_idle(core)
