"""Text that comes while the sequence speaks: any pieces, any moments, the same codes."""

import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.config import ModelSpec
from engine.core import EngineCore
from engine.protocol import FinishReason, Prompt, SamplingParams, Submit
from tests.engine.conftest import build_core
from tests.engine.speaking import (
    REFERENCES,
    ROLE,
    SPEAKERS,
    Speaker,
    Utterance,
    assert_idle,
    prompt,
    say,
    speak,
    submit,
)

TEXT = tuple(range(20, 44))
WHOLE: dict[str, Utterance] = {}  # the text in one piece, by model
QUICK = {
    "max_examples": 5,
    "deadline": None,
    "suppress_health_check": [HealthCheck.function_scoped_fixture],
}


def live(
    id_: int, model: str, text: tuple[int, ...], num_frames: int, *, open_: bool = True
) -> Submit:
    speakers = ((SPEAKERS[0], 1.0),) if model.startswith("custom_voice") else ()
    reference = REFERENCES[0].key if model.startswith("base") else None
    # Long enough to be prefilled in three slices: text may come between them.
    instruct = (9,) * 120 if model.startswith("voice_design") else ()
    one = Prompt(
        role=ROLE,
        text=text,
        instruct=instruct,
        speakers=speakers,
        reference=reference,
        streaming_text=True,
        text_open=open_,
    )
    return submit(id_, model, num_frames, prompt=one)


def assert_all_is_heard(utterance: Utterance) -> None:
    assert utterance.finished is not None
    assert len(utterance.samples) == 1920 * len(utterance.codes)


def until_it_waits(speaker: Speaker) -> None:
    while speaker.core.has_work:
        speaker.step()


@settings(**QUICK)
@given(
    cuts=st.lists(st.integers(1, len(TEXT) - 1), max_size=6, unique=True).map(sorted),
    steps=st.lists(st.integers(0, 8) | st.none(), min_size=8, max_size=8),
    final_apart=st.booleans(),
    model=st.sampled_from(["custom_voice-1b7", "voice_design-0b6", "base-1b7"]),
)
def test_pieces_are_the_whole(
    core: EngineCore, cuts: list[int], steps: list, final_apart: bool, model: str
) -> None:
    """Steps between pieces: a number, or None for as many as there are."""
    if model not in WHOLE:
        WHOLE[model] = say(core, live(0, model, TEXT, 32, open_=False))
    expected = WHOLE[model]
    bounds = [*cuts, len(TEXT)]
    with Speaker(core) as speaker:
        first = TEXT[: bounds[0]]
        speaker.add(live(1, model, first, 32))
        pieces = [TEXT[a:b] for a, b in itertools.pairwise(bounds)]
        for piece, pause in zip([*pieces, ()], steps, strict=False):
            if pause is None:
                until_it_waits(speaker)
            for _ in range(pause or 0):
                speaker.step()
            last = piece == () if final_apart else piece is (pieces or [()])[-1]
            core.append(1, piece, last)
        heard = speaker.run()[1]
    assert heard.codes == expected.codes
    assert_all_is_heard(heard)
    assert_idle(core)


def test_one_that_waits_burns_no_steps_and_has_said_all(core: EngineCore) -> None:
    with Speaker(core) as speaker:
        speaker.add(live(1, "custom_voice-0b6", TEXT[:7], 60))
        until_it_waits(speaker)
        heard, (seq,) = speaker.heard[1], core.sequences.values()
        assert seq.waits_for_text and len(heard.codes) == 7  # one frame per token
        assert len(heard.samples) == 1920 * 7 and heard.finished is None
        steps, row, blocks = core.talker.num_steps, seq.row, list(seq.block_table)
        for _ in range(5):
            speaker.step()
        assert core.talker.num_steps == steps and not core.has_work
        speaker.add(submit(2, num_frames=5))
        until_it_waits(speaker)
        assert len(speaker.heard[2].codes) == 5, "others go on"
        core.append(1, TEXT[7:9], False)
        until_it_waits(speaker)
        assert len(heard.codes) == 9 and len(heard.samples) == 1920 * 9
        assert (seq.row, seq.block_table) == (row, blocks)
        core.append(1, (), True)
        speaker.run()
    assert len(heard.codes) == 60
    assert_idle(core)


def test_many_wait_at_once_and_all_is_heard(core: EngineCore) -> None:
    """More audio is put off than one step may decode, and then everybody waits."""
    with Speaker(core) as speaker:
        for i in range(40):
            speaker.add(live(i, "custom_voice-0b6", (TEXT * 2)[: 20 + i % 5], 60))
        until_it_waits(speaker)
        for i, heard in speaker.heard.items():
            assert len(heard.samples) == 1920 * len(heard.codes) == 1920 * (20 + i % 5)


def test_text_after_the_last_is_ignored(core: EngineCore) -> None:
    expected = say(core, live(0, "voice_design-1b7", TEXT[:5], 20, open_=False))
    with Speaker(core) as speaker:
        speaker.add(live(1, "voice_design-1b7", TEXT[:3], 20))
        core.append(1, TEXT[3:5], True)
        core.append(1, TEXT[5:], False)
        for _ in range(4):
            speaker.step()
        core.append(1, TEXT[5:], True)
        heard = speaker.run()[1]
        core.append(1, TEXT, True)
        core.append(77, TEXT, True)
    assert heard.codes == expected.codes
    assert_idle(core)


def test_text_for_one_that_is_not_open_is_ignored(core: EngineCore) -> None:
    one = live(0, "custom_voice-0b6", TEXT[:5], 12, open_=False)
    expected = say(core, one)
    with Speaker(core) as speaker:
        speaker.add(one)
        speaker.step()
        core.append(0, TEXT, True)
        assert speaker.run()[0].codes == expected.codes


@pytest.mark.parametrize("started", [False, True])
def test_text_beyond_the_budget_is_cut(core: EngineCore, started: bool) -> None:
    """The frames there are room for are spoken with their text, and the reason says why it ends."""
    expected = say(core, live(0, "custom_voice-0b6", (TEXT * 4)[:12], 12, open_=False))
    with Speaker(core) as speaker:
        speaker.add(live(1, "custom_voice-0b6", TEXT[:4], 12))
        if started:
            speaker.step()
        core.append(1, (TEXT * 4)[4:], False)
        core.append(1, TEXT, False)
        heard = speaker.run()[1]
    assert heard.codes == expected.codes
    assert heard.finished is not None and heard.finished.reason is FinishReason.LENGTH
    assert_idle(core)


def test_text_beyond_the_budget_is_written_nowhere(small_core: EngineCore) -> None:
    """Its rows would lie in blocks of others, whose text is still to come."""
    model, neighbours = "custom_voice-0b6", (1, 2, 3)
    before = [live(i, model, TEXT * 3, 100, open_=False) for i in range(4)]
    expected = speak(small_core, before)[0].codes  # each row has had blocks all over the pool
    with Speaker(small_core) as speaker:
        for i in neighbours:
            speaker.add(live(i, model, TEXT * 3, 100, open_=False))
        speaker.add(live(9, model, TEXT[:1], 20))
        while small_core.talker.scheduler.waiting or any(
            not seq.num_frames for seq in small_core.sequences.values()
        ):
            speaker.step()
        small_core.append(9, (5,) * 400, True)
        heard = speaker.run()
    assert [heard[i].codes for i in neighbours] == [expected] * 3
    assert_idle(small_core)


@pytest.mark.parametrize("started", [False, True])
@pytest.mark.parametrize("bad", [640, -1])
def test_bad_ids_fail_their_utterance_only(core: EngineCore, started: bool, bad: int) -> None:
    with Speaker(core) as speaker:
        speaker.add(live(1, "custom_voice-0b6", TEXT[:4], 12))
        speaker.add(submit(2, num_frames=4))
        if started:
            speaker.step()
        core.append(1, (5, bad), True)
        heard = speaker.run()
    assert heard[1].failed is not None and heard[1].failed.param == "input"
    assert len(heard[2].codes) == 4
    assert_idle(core)


def test_one_that_waits_can_be_aborted(core: EngineCore) -> None:
    with Speaker(core) as speaker:
        speaker.add(live(1, "custom_voice-0b6", TEXT[:2], 50))
        until_it_waits(speaker)
        core.abort(1)
        assert core.has_work
        heard = speaker.run()[1]
    assert heard.finished is not None and heard.finished.reason is FinishReason.ABORT
    assert_idle(core)


def test_text_that_comes_while_the_voice_is_encoded(core: EngineCore) -> None:
    expected = say(core, live(0, "base-0b6", TEXT[:9], 12, open_=False))
    core.voices["base-0b6"].done.clear()
    with Speaker(core) as speaker:
        speaker.add(live(1, "base-0b6", TEXT[:2], 12))
        assert core.encoding
        core.append(1, TEXT[2:9], True)
        assert speaker.run()[1].codes == expected.codes


def test_live_text_needs_some_to_begin_with(core: EngineCore) -> None:
    heard = say(core, submit(1, prompt=prompt(0, streaming_text=True, text_open=True)))
    assert heard.failed is not None and heard.failed.param == "input"


def sampled(id_: int, model: str, text: tuple[int, ...], *, open_: bool, seed: int = 5) -> Submit:
    """By chance, and free to end."""
    params = SamplingParams(seed=seed)
    return Submit(id_, model, live(id_, model, text, 1, open_=open_).prompt, params)


@pytest.fixture(scope="module")
def ending_core(ending_model: ModelSpec):
    """Wants to end at nearly every frame."""
    core = build_core([ending_model])
    yield core
    core.close()


@settings(**{**QUICK, "max_examples": 4})
@given(
    cuts=st.lists(st.integers(1, len(TEXT) - 1), max_size=6, unique=True).map(sorted),
    pauses=st.lists(st.integers(0, 8) | st.none(), min_size=7, max_size=7),
    seed=st.integers(0, 2**63 - 1),
)
def test_one_that_wants_to_end_reads_all_its_text(
    ending_core: EngineCore, cuts: list[int], pauses: list[int | None], seed: int
) -> None:
    """In a batch, beside one that has all its text at once: the same codes for the same ids."""
    bounds = [*cuts, len(TEXT)]
    with Speaker(ending_core) as speaker:
        speaker.add(sampled(0, "ending", TEXT, open_=False, seed=seed))
        speaker.add(sampled(1, "ending", TEXT[: bounds[0]], open_=True, seed=seed))
        pieces = [TEXT[a:b] for a, b in itertools.pairwise(bounds)]
        for piece, pause in zip([*pieces, ()], pauses, strict=False):
            for _ in range(99 if pause is None else pause):
                speaker.step()
            ending_core.append(1, piece, piece == ())
        heard = speaker.run()
    assert heard[0].codes == heard[1].codes and len(heard[1].codes) >= len(TEXT)
    for utterance in heard.values():
        assert utterance.finished is not None
        assert utterance.finished.reason is FinishReason.STOP
        assert utterance.finished.num_text == len(TEXT)
    assert_idle(ending_core)


def test_it_waits_for_text_so_long_and_no_longer(core: EngineCore) -> None:
    now, clock = 100.0, core.clock
    try:
        core.clock = lambda: now
        with Speaker(core) as speaker:
            speaker.add(sampled(1, "custom_voice-0b6", TEXT[:4], open_=True))
            until_it_waits(speaker)
            speaker.step()
            assert core.due_in_s == core.config.open_text_timeout_s
            now += core.config.open_text_timeout_s - 1
            speaker.step()
            core.append(1, TEXT[4:6], False)
            until_it_waits(speaker)
            speaker.step()
            now += core.config.open_text_timeout_s
            assert core.due_in_s == 0
            core.step()
            core.append(1, TEXT[6:], False)  # crosses the end on its way
            heard = speaker.run()[1]
    finally:
        core.clock = clock
    assert heard.finished is not None and heard.finished.num_text == 6
    assert core.due_in_s is None
    assert_idle(core)


def test_its_guard_is_that_of_its_text(core: EngineCore) -> None:
    """Text that came live may run away no longer than text that was there from the start."""
    with Speaker(core) as speaker:
        speaker.add(sampled(1, "custom_voice-0b6", TEXT[:4], open_=True))
        speaker.step()
        assert core.sequences[1].max_frames > 200
        core.append(1, (), True)
        guard = core.config.guard_frames_base + core.config.guard_factor * 16
        assert core.sequences[1].max_frames == guard


@pytest.mark.parametrize("started", [False, True])
def test_text_that_was_cut_is_told(core: EngineCore, started: bool) -> None:
    with Speaker(core) as speaker:
        speaker.add(live(1, "custom_voice-0b6", TEXT[:4], 12))
        if started:
            speaker.step()
        core.append(1, (TEXT * 4)[4:], True)
        heard = speaker.run()[1]
    assert heard.finished is not None and heard.finished.num_text == 12
