"""Many utterances at once: each is what it is alone, whatever its company."""

import random
from collections import Counter
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.config import ModelSpec
from engine.core import EngineCore
from engine.dummy import checkpoint as random_checkpoint
from engine.dummy.configs import random_checkpoint_config
from engine.protocol import FinishReason, SamplingParams, Submit
from engine.runner import codec_runner, prefix_cache
from tests.engine.conftest import build_core
from tests.engine.speaking import (
    LANGUAGES,
    MODELS,
    SPEAKERS,
    Speaker,
    Utterance,
    assert_idle,
    prompt,
    random_submit,
    say,
    speak,
    submit,
)

SUBMITS = [random_submit(random.Random(i), i, 3 + i // 5) for i in range(64)]


@pytest.fixture(scope="module")
def alone(core: EngineCore) -> dict[int, Utterance]:
    """Every utterance by itself."""
    return {one.id: say(core, one) for one in SUBMITS}


def assert_same(together: Utterance, alone: Utterance, hint: object) -> None:
    np.testing.assert_array_equal(together.codes, alone.codes, err_msg=str(hint))
    assert together.finished == alone.finished
    assert len(together.samples) == len(alone.samples) == 1920 * len(alone.codes)
    assert np.abs(together.samples - alone.samples).max(initial=0) <= 2, hint


def test_the_utterances_are_of_all_kinds(alone: dict[int, Utterance]) -> None:
    prompts = [one.prompt for one in SUBMITS]
    assert {one.model for one in SUBMITS} == set(MODELS)
    assert {p.streaming_text for p in prompts} == {True, False}
    assert sum(bool(p.reference and p.reference_text) for p in prompts) >= 5
    assert sum(bool(p.reference and not p.reference_text) for p in prompts) >= 5
    assert sum(len(p.speakers) == 2 for p in prompts) >= 3
    assert sum(one.params.temperature == 0 for one in SUBMITS) >= 5
    assert len({len(utterance.codes) for utterance in alone.values()}) >= 10
    codes = {str(utterance.codes) for utterance in alone.values()}
    assert len(codes) == len(SUBMITS), "no two say the same"


@pytest.mark.parametrize("arrival", ["at once", "shuffled in bursts"])
def test_64_at_once(core: EngineCore, alone: dict[int, Utterance], arrival: str) -> None:
    submits = list(SUBMITS)
    if arrival == "shuffled in bursts":
        random.Random(0).shuffle(submits)
    gap = {"at once": 64, "shuffled in bursts": 7}[arrival]
    with Speaker(core) as speaker:
        for i, one in enumerate(submits):
            speaker.add(one)
            if i % gap == gap - 1:
                speaker.step()
        together = speaker.run()
    for one in SUBMITS:
        assert_same(together[one.id], alone[one.id], one)
    assert_idle(core)


def test_one_that_follows_another_does_not_hurry(core: EngineCore) -> None:
    """Its audio comes in the largest chunks from the start, and is the same."""
    hurried, calm = submit(1, num_frames=30), submit(1, num_frames=30)
    calm = msgspec.structs.replace(calm, id=2, buffered_s=60.0)
    with Speaker(core) as speaker:
        first, second = speaker.run([hurried])[1], speaker.run([calm])[2]
    assert np.array_equal(first.codes, second.codes)
    assert len(first.samples) == len(second.samples)
    assert second.num_chunks == 3 < first.num_chunks, "12 + 12 + 7 frames"


def test_the_queue_changes_nothing(small_core: EngineCore, alone: dict[int, Utterance]) -> None:
    """Four rows and few blocks: most wait, rows and blocks are reused over and over."""
    submits = SUBMITS[::2]
    together = speak(small_core, submits)
    for one in submits:
        assert_same(together[one.id], alone[one.id], one)
    assert_idle(small_core)


# ---- seeds ----


def sampled(id_: int, seed: int | None, num_frames: int = 12) -> Submit:
    params = SamplingParams(seed=seed, max_new_tokens=num_frames + 1, ignore_eos=True)
    return submit(id_, params=params, prompt=prompt(speakers=((SPEAKERS[0], 1.0),)))


@settings(
    max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seeds=st.lists(st.integers(0, 2**64 - 1), min_size=2, max_size=4, unique=True))
def test_same_seed_same_codes_other_seed_other_codes(core: EngineCore, seeds: list[int]) -> None:
    heard = speak(core, [sampled(i, seed) for i, seed in enumerate(seeds + seeds)])
    codes = [str(heard[i].codes) for i in range(2 * len(seeds))]
    assert codes[: len(seeds)] == codes[len(seeds) :]
    assert len(set(codes)) == len(seeds)


def test_no_seed_is_another_one_each_time(core: EngineCore) -> None:
    heard = speak(core, [sampled(i, None) for i in range(4)])
    assert len({str(utterance.codes) for utterance in heard.values()}) == 4


def test_the_length_asked_for_does_not_change_the_words(core: EngineCore) -> None:
    heard = speak(core, [sampled(n, 7, num_frames=n) for n in (3, 9, 30)])
    assert heard[3].codes == heard[30].codes[:3] and heard[9].codes == heard[30].codes[:9]


# ---- ends ----


@pytest.mark.parametrize("tokens", [2, 3, 17])
def test_n_tokens_are_n_minus_1_frames(core: EngineCore, tokens: int) -> None:
    params = SamplingParams(temperature=0.0, max_new_tokens=tokens, ignore_eos=True)
    heard = say(core, submit(1, params=params))
    assert heard.finished is not None and heard.finished.reason is FinishReason.LENGTH
    assert heard.finished.usage.num_frames == len(heard.codes) == tokens - 1


def test_the_model_ends_its_speech(ending_model: ModelSpec) -> None:
    core = build_core([ending_model], kv_cache_memory="8MB", max_num_seqs=8)
    free = SamplingParams(temperature=0.0)
    held = SamplingParams(temperature=0.0, max_new_tokens=31, ignore_eos=True)
    heard = speak(core, [submit(i, "ending", params=free) for i in range(3)])
    heard |= speak(core, [submit(9, "ending", params=held)])
    for i in range(3):
        assert heard[i].finished is not None and heard[i].finished.reason is FinishReason.STOP
        assert 2 <= len(heard[i].codes) < 30
        assert heard[i].codes == heard[9].codes[: len(heard[i].codes)]
        assert len(heard[i].samples) == 1920 * len(heard[i].codes)
    assert len(heard[9].codes) == 30
    assert core.num_runaways == 0
    assert_idle(core)
    core.close()


def test_a_runaway_is_stopped_and_counted(models: list[ModelSpec]) -> None:
    core = build_core(models[:1], kv_cache_memory="8MB", guard_frames_base=10, guard_factor=0.5)
    params = SamplingParams(temperature=0.0, ignore_eos=True)
    heard = say(core, submit(1, params=params, prompt=prompt(num_text=5)))
    assert heard.finished is not None and heard.finished.reason is FinishReason.LENGTH
    assert (len(heard.codes), core.stats().num_runaways) == (20, 1)
    say(core, submit(2))
    assert core.num_runaways == 1, "a length that was asked for is no runaway"
    core.close()


def test_audio_comes_in_growing_chunks(core: EngineCore) -> None:
    one, long = submit(1, num_frames=1), submit(2, num_frames=40)
    heard = speak(core, [one, long])
    assert heard[1].num_chunks == 1
    assert 5 <= heard[2].num_chunks <= 40
    sizes = Counter(len(utterance.pcm) for utterance in heard.values())
    assert sizes == Counter([3840, 40 * 3840])


# ---- what checkpoints share ----


def test_one_pool_and_one_codec_for_all(core: EngineCore) -> None:
    assert len({id(pool) for pool in core.talker.pools.values()}) == 1
    assert len({id(codec) for codec in core.codecs.values()}) == 1
    assert len({id(runner.kv_cache) for runner in core.talker.runners.values()}) == 1


def test_the_first_row_of_one_model_is_not_the_first_row_of_the_next(core: EngineCore) -> None:
    """Rows are the engine's, not the model's: the shared codec keeps one state per row."""
    with Speaker(core) as speaker:
        for i, model in enumerate(MODELS):
            speaker.add(submit(i, model, num_frames=6))
        speaker.step()
        rows = [seq.row for seq in core.sequences.values()]
        blocks = [block for seq in core.sequences.values() for block in seq.block_table]
        assert len(set(rows)) == len(rows) == len(MODELS)
        assert len(set(blocks)) == len(blocks)


def test_what_differs_is_not_shared(
    models: list[ModelSpec],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A checkpoint of another depth and codec beside one of the usual kind."""

    def shallow(*args) -> dict:
        config = random_checkpoint_config(*args)
        config["talker_config"]["num_hidden_layers"] = 2
        return config

    monkeypatch.setattr(random_checkpoint, "random_checkpoint_config", shallow)
    random_checkpoint.write_random_checkpoint(
        tmp_path / "other", model_type="custom_voice", shape="tiny-0b6", seed=9
    )
    other = ModelSpec(id="other", checkpoint=str(tmp_path / "other"))
    core = build_core([models[0], other], kv_cache_memory="8MB", max_num_seqs=6)
    assert core.talker.pools["other"] is not core.talker.pools[MODELS[0]]
    assert core.codecs["other"] is not core.codecs[MODELS[0]]
    submits = [submit(i, model, 8) for i, model in enumerate([MODELS[0], "other"] * 3)]
    alone = {one.id: say(core, one) for one in submits[:2]}
    together = speak(core, submits)
    for i in range(6):
        np.testing.assert_array_equal(together[i].codes, alone[i % 2].codes)
        assert np.abs(together[i].samples - alone[i % 2].samples).max() <= 2
    assert_idle(core)
    core.close()


def test_a_cold_run_teaches_the_scheduler_nothing(models: list[ModelSpec]) -> None:
    core = build_core(models[:1], kv_cache_memory="8MB", max_num_seqs=2)
    assert core.talker.scheduler.prefill_s_per_token == {}
    say(core, submit(1))
    assert 0 < core.talker.scheduler.prefill_s_per_token[MODELS[0]] < 1
    core.close()


# ---- codec modes ----


def test_official_codec_mode_restarts(
    models: list[ModelSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every 300 frames; here every 30."""
    monkeypatch.setattr(codec_runner, "OFFICIAL_WINDOW", 30)
    exact, official = (
        build_core(models[:1], kv_cache_memory="8MB", max_num_seqs=2, codec_mode=mode)
        for mode in ("exact", "official")
    )
    one = submit(1, num_frames=40)
    a, b = say(exact, one), say(official, one)
    assert a.codes == b.codes and len(a.samples) == len(b.samples) == 40 * 1920
    apart = np.abs(a.samples - b.samples)
    assert apart[: 30 * 1920].max() <= 2 < apart[30 * 1920 :].max()
    exact.close()
    official.close()


# ---- prompts that begin alike ----


def test_a_known_beginning_is_not_prefilled_again(models: list[ModelSpec]) -> None:
    """Same voice, language and instruction, other words: only those are prefilled, and the codes
    are those of an engine that knows nothing.
    """

    def says(i: int, num_text: int) -> Submit:
        beginning = {"speakers": ((SPEAKERS[0], 1.0),), "instruct": tuple(range(20, 31))}
        return submit(i, prompt=prompt(num_text, language_id=LANGUAGES[1], **beginning))

    core = build_core(models[:1], max_num_batched_tokens=16)
    fresh = [say(build_core(models[:1]), says(i, 5 + i)) for i in range(3)]
    core.reset_stats()
    prefilled: list[int] = []
    core.talker.scheduler.observe_prefill = lambda _, num_tokens, __: prefilled.append(num_tokens)  # type: ignore
    for i in range(3):
        prefilled.clear()
        assert say(core, says(i, 5 + i)).codes == fresh[i].codes
        whole = 11 + 3 + 6 + (5 + i) + 2  # instruction, role, head; text, its end, the start
        assert sum(prefilled) == (whole - 20 if i else whole)
    told = core.stats()
    assert told.num_prefix_cache_queries == sum(11 + 3 + 6 + 5 + i + 2 for i in range(3))
    assert told.num_prefix_cache_hits == 2 * 20
    core.reset_stats()
    assert (core.stats().num_prefix_cache_queries, core.stats().num_prefix_cache_hits) == (0, 0)


def test_beginnings_are_forgotten_oldest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix_cache, "MAX_PREFIX_TOKENS", 30)
    cache = prefix_cache.PrefixCache(torch.randn(2, 2, 5, 16, 1, 4))
    slots = torch.arange  # position n in slot n
    a, b, c = (prompt(speakers=((i, 1.0),)) for i in range(3))  # 8 tokens each before the text
    for one in (a, b, c):
        cache.keep(one, slots)
    assert cache.restore(a, slots) == 8
    cache.keep(prompt(instruct=(1, 2, 3), speakers=((9, 1.0),)), slots)
    assert [cache.restore(one, slots) for one in (a, b, c)] == [8, 0, 8]
    long = prompt(instruct=tuple(range(30)))
    cache.keep(long, slots)
    assert cache.restore(long, slots) == 0
