"""Prompts that cannot run, voices that cannot be used: Failed names the field, the rest goes on."""

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.config import ModelSpec
from engine.core import EngineCore
from engine.protocol import (
    MAX_VOICES,
    FinishReason,
    Prompt,
    ReferenceAudio,
    SamplingParams,
    Submit,
)
from tests.engine.conftest import build_core
from tests.engine.speaking import (
    REFERENCES,
    ROLE,
    Speaker,
    Utterance,
    assert_idle,
    prompt,
    recording,
    say,
    speak,
    submit,
)

BASE, CUSTOM = "base-1b7", "custom_voice-1b7"


def refused(core: EngineCore, one: Submit) -> tuple[str | None, str]:
    """(param, message) of the refusal; and that a neighbour did not notice."""
    neighbour = submit(1000, CUSTOM, 3)
    heard = speak(core, [neighbour, one])
    assert heard[1000].finished is not None and len(heard[1000].codes) == 3
    failed = heard[one.id].failed
    assert failed is not None and failed.kind == "invalid_prompt" and not heard[one.id].codes
    assert_idle(core)
    return failed.param, failed.message


def asking(max_new_tokens: int) -> SamplingParams:
    return SamplingParams(temperature=0.0, max_new_tokens=max_new_tokens, ignore_eos=True)


CASES: dict[str, tuple[Submit, str, str]] = {
    "no such model": (submit(1, "nobody"), "model", "nobody"),
    "no text": (submit(1, prompt=prompt(0)), "input", "no text"),
    "text id too large": (submit(1, prompt=Prompt(role=ROLE, text=(640,))), "input", "vocab"),
    "negative text id": (submit(1, prompt=Prompt(role=ROLE, text=(-1,))), "input", "vocab"),
    "instruct id": (submit(1, prompt=prompt(instruct=(1, 9999))), "input", "vocab"),
    "role id": (submit(1, prompt=Prompt(role=(640,), text=(1,))), "input", "vocab"),
    "speaker id": (submit(1, prompt=prompt(speakers=((99_999, 1.0),))), "voice", "speaker"),
    "language id": (submit(1, prompt=prompt(language_id=-5)), "voice", "language"),
    "endless weight": (
        submit(1, prompt=prompt(speakers=((3065, float("nan")),))),
        "voice",
        "weight",
    ),
    "clone on a model that cannot": (
        submit(1, CUSTOM, prompt=prompt(reference="x")),
        "ref_audio",
        "cannot clone",
    ),
    "unknown reference": (
        submit(1, BASE, prompt=prompt(reference="x")),
        "ref_audio",
        "not registered",
    ),
    "open text in the whole-text layout": (
        submit(1, prompt=prompt(text_open=True)),
        "input",
        "streaming",
    ),
    "one token": (submit(1, params=asking(1)), "max_new_tokens", "at least 2"),
    "longer than the memory": (submit(1, params=asking(2000)), "max_new_tokens", "shorten"),
    "a text longer than the memory": (
        submit(1, prompt=prompt(400), params=SamplingParams()),
        "input",
        "shorten",
    ),
    "a prompt that leaves no room": (
        submit(1, prompt=Prompt(role=ROLE, text=(1,) * 600), params=asking(2)),
        "max_new_tokens",
        "0",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_refused(small_core: EngineCore, case: str) -> None:
    one, param, words = CASES[case]
    found, message = refused(small_core, one)
    assert found == param and words in message


def test_what_just_fits_runs(small_core: EngineCore) -> None:
    """The whole pool for one utterance, to the last position."""
    pool = small_core.talker.pools[CUSTOM]
    room = min(512, pool.num_blocks * pool.block_size)
    one = prompt(8, instruct=(1,) * 480)
    num_prompt = 480 + 3 + 4 + 8 + 1 + 1  # instruct, role, head, text, end, bos
    fits = submit(1, CUSTOM, room - num_prompt, prompt=one)
    heard = say(small_core, fits)
    assert heard.finished is not None
    assert heard.finished.usage.num_prompt_tokens == num_prompt
    assert len(heard.codes) == room - num_prompt
    param, _ = refused(small_core, submit(2, CUSTOM, room - num_prompt + 1, prompt=one))
    assert param == "max_new_tokens"


def test_no_utterance_is_longer_than_max_frames(models: list[ModelSpec]) -> None:
    core = build_core(models[:1], kv_cache_memory="8MB", max_num_seqs=4, max_frames=5)
    free = SamplingParams(temperature=0.0, ignore_eos=True)
    live = prompt(streaming_text=True, text_open=True)
    with Speaker(core) as speaker:
        for i, one in enumerate((prompt(), live)):
            speaker.add(submit(i, prompt=one, params=free))
        speaker.add(submit(2, num_frames=100))
        core.append(1, (1,) * 50, final=True)
        heard = speaker.run()
    assert [len(heard[i].codes) for i in range(3)] == [5, 5, 5]
    core.close()


# ---- sampling parameters at their edges ----


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    fields=st.fixed_dictionaries(
        {},
        optional={
            "temperature": st.sampled_from([0.0, 1e-30, 1e-3, 50.0, 1e30]),
            "top_k": st.sampled_from([0, 1, 2, 3072, 10**6]),
            "top_p": st.sampled_from([0.0, 1e-9, 0.999999, 1.0]),
            "repetition_penalty": st.sampled_from([1e-3, 1.0, 100.0]),
            "subtalker_temperature": st.sampled_from([0.0, 1e-30, 1e30]),
            "subtalker_top_k": st.sampled_from([0, 1, 10**6]),
            "subtalker_top_p": st.sampled_from([0.0, 1.0]),
            "seed": st.sampled_from([0, 2**63, 2**64 - 1]),
        },
    )
)
def test_extreme_parameters_give_codes(core: EngineCore, fields: dict[str, Any]) -> None:
    params = SamplingParams(max_new_tokens=4, ignore_eos=True, **fields)
    codes = np.array(say(core, submit(1, params=params)).codes)
    assert codes.shape == (3, 16)
    assert codes.min() >= 0 and codes.max() < 2048


# ---- recordings ----


def clone(id_: int, key: str, *, in_context: bool = True, num_frames: int = 3) -> Submit:
    words = (5, 6, 7) if in_context else ()
    return submit(id_, BASE, num_frames, prompt=prompt(reference=key, reference_text=words))


def hear(core: EngineCore, reference: ReferenceAudio, one: Submit) -> Utterance:
    core.register_voice(one.model, reference)
    return say(core, one)


BROKEN = {
    "empty": np.zeros(0),
    "one sample": np.zeros(1),
    "too short": np.zeros(1279),
    "not a number": np.full(5_000, np.nan),
    "endless": np.full(5_000, np.inf),
    "far too loud": np.full(5_000, 1e38),
}


@pytest.mark.parametrize("in_context", [True, False])
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_recording_fails_its_own_utterance_only(
    core: EngineCore, name: str, in_context: bool
) -> None:
    before = say(core, submit(1, BASE))
    reference = ReferenceAudio(f"{name}-{in_context}", BROKEN[name].astype("<f4").tobytes())
    heard = hear(core, reference, clone(1, reference.key, in_context=in_context))
    assert heard.failed is not None and heard.failed.param == "ref_audio"
    after = say(core, submit(1, BASE))
    assert after.codes == before.codes, "and leaves nothing behind"
    assert np.abs(after.samples - before.samples).max() <= 2
    assert_idle(core)


def test_an_embedding_is_as_good_as_the_recording_it_comes_from(core: EngineCore) -> None:
    reference = recording(11, 9_600)
    heard = hear(core, reference, clone(1, reference.key, in_context=False))
    row = core.voices[BASE].request(reference.key, False).result().speaker_embedding
    given = ReferenceAudio("row", b"", row.float().numpy().astype("<f4").tobytes())
    again = hear(core, given, clone(1, "row", in_context=False))
    assert again.codes == heard.codes
    other = ReferenceAudio("other", b"", np.ones(len(row), "<f4").tobytes())
    assert hear(core, other, clone(1, "other", in_context=False)).codes != heard.codes
    assert_idle(core)


@pytest.mark.parametrize("in_context", [True, False])
@pytest.mark.parametrize("size, value", [(3, 0.0), (None, np.nan)])
def test_an_embedding_that_cannot_be_fails_its_own_utterance_only(
    core: EngineCore, size: int | None, value: float, in_context: bool
) -> None:
    size = size or core.checkpoints[BASE].info.embedding_size
    given = ReferenceAudio(f"{size}{in_context}", b"", np.full(size, value, "<f4").tobytes())
    core.register_voice(BASE, given)
    param, message = refused(core, clone(1, given.key, in_context=in_context))
    assert (param == "speaker_embedding" and "finite numbers" in message) or in_context


@pytest.mark.parametrize("num_samples", [1_280, 1_919, 1_920, 1_921, 3_840])
def test_recordings_of_any_length(core: EngineCore, num_samples: int) -> None:
    reference = recording(9, num_samples)
    heard = hear(core, reference, clone(1, reference.key))
    assert heard.finished is not None and len(heard.codes) == 3


def test_silence_is_a_voice(core: EngineCore) -> None:
    reference = ReferenceAudio("silence", bytes(4 * 9_600))
    assert len(hear(core, reference, clone(1, "silence")).codes) == 3


def test_an_encoder_error_fails_the_utterance(
    core: EngineCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object) -> None:
        raise RuntimeError("out of memory")

    reference = recording(10, 9_600)
    with monkeypatch.context() as patch:
        patch.setattr(core.voices[BASE], "encode", broken)
        heard = hear(core, reference, clone(1, reference.key))
    assert heard.failed is not None and heard.failed.kind == "generation"
    assert "sequence 1 in the server's log" in heard.failed.message
    assert "out of memory" not in heard.failed.message
    assert_idle(core)
    assert len(say(core, clone(1, reference.key)).codes) == 3, "the next one tries again"


def test_a_recording_is_encoded_once(core: EngineCore, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, calls = core.voices[BASE], []
    encode = encoder.encode
    monkeypatch.setattr(encoder, "encode", lambda *args: calls.append(args) or encode(*args))
    reference = recording(11, 9_600)
    core.register_voice(BASE, reference)
    heard = speak(core, [clone(i, reference.key) for i in range(4)])
    assert len(calls) == 1 and len({str(u.codes) for u in heard.values()}) == 1


def test_the_least_recently_used_recording_is_forgotten(models: list[ModelSpec]) -> None:
    core = build_core([models[5]], kv_cache_memory="8MB", max_num_seqs=4)
    references = [recording(100 + i, 1_500) for i in range(MAX_VOICES)]
    for reference in references:
        core.register_voice(BASE, reference)
    first, second = references[:2]
    assert len(say(core, clone(1, first.key)).codes) == 3  # used: the second is now the oldest
    core.register_voice(BASE, recording(99, 1_500))
    assert say(core, clone(2, second.key)).failed is not None
    assert say(core, clone(3, first.key)).failed is None
    for i, reference in enumerate(references[2:12]):
        assert say(core, clone(10 + i, reference.key)).failed is None
    assert (
        len(core.codec_stage.snapshots) <= MAX_VOICES
        and len(core.voices[BASE].samples) == MAX_VOICES
    )
    core.close()


def test_a_recording_may_be_forgotten_while_its_utterances_wait(models: list[ModelSpec]) -> None:
    core = build_core([models[5]], kv_cache_memory="8MB", max_num_seqs=1)
    reference = REFERENCES[0]
    expected = hear(core, reference, clone(1, reference.key)).codes
    with Speaker(core) as speaker:
        for i in range(3):
            speaker.add(clone(i, reference.key))
        for i in range(MAX_VOICES):
            core.register_voice(BASE, recording(200 + i, 1_500))
        heard = speaker.run()
    assert [heard[i].codes for i in range(3)] == [expected] * 3
    assert_idle(core)
    core.close()


def test_reason_of_an_abort(core: EngineCore) -> None:
    with Speaker(core) as speaker:
        speaker.add(submit(1, num_frames=50))
        for _ in range(5):
            speaker.step()
        core.abort(1)
        core.abort(1)
        core.abort(12345)
        heard = speaker.run()[1]
    assert heard.finished is not None and heard.finished.reason is FinishReason.ABORT
    assert heard.finished.usage.num_frames == len(heard.codes) > 0
    assert_idle(core)


def test_messages_survive_the_wire() -> None:
    """What the tests submit is what a worker would decode."""
    one = clone(1, "x")
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(one), type=Submit) == one
