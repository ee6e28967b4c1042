"""What is vLLM's own business must not show: pauses, preemption, its prefix cache, its blocks."""

import random
from collections.abc import Iterator

import pytest
import torch

from engine.backends.vllm import options
from engine.config import ModelSpec
from engine.core import EngineCore
from engine.protocol import SamplingParams, Submit
from tests.engine.conftest import models
from tests.engine.speaking import (
    Speaker,
    assert_idle,
    prompt,
    random_params,
    random_prompt,
    say,
    speak,
)
from tests.vllm.conftest import build_core, num_free_blocks

__all__ = ["models"]
NAME = "custom_voice-0b6"


@pytest.fixture(scope="module")
def core(models: list[ModelSpec]) -> Iterator[EngineCore]:
    core = build_core(models[0], max_num_seqs=8)
    yield core
    core.close()


def seeded(id_: int, num_frames: int = 30, **fields: object) -> Submit:
    params = SamplingParams(seed=id_, max_new_tokens=num_frames + 1, ignore_eos=True)
    return Submit(id_, NAME, prompt(**fields), params)


def test_who_is_held_goes_on_as_if_nothing_had_been(core: EngineCore) -> None:
    expected = speak(core, [seeded(1), seeded(2)])
    with Speaker(core) as speaker:
        for id_ in (1, 2):
            speaker.add(seeded(id_))
        for _ in range(9):
            speaker.step()
        core.hold(1, True)
        while core.has_work:
            speaker.step()
        paused = speaker.heard[1]
        assert paused.finished is None and 0 < len(paused.codes) < 12
        core.hold(1, False)
        heard = speaker.run()
    for id_ in (1, 2):
        assert heard[id_].codes == expected[id_].codes
    assert_idle(core)


def test_prompts_that_begin_alike_are_computed_once(core: EngineCore) -> None:
    """Told by their ids; another voice, or another instruction, is another beginning."""
    instruct = tuple(range(100, 180))
    cached: dict[int, int] = {}
    step = core.talker.llm.step  # type: ignore[attr-defined]

    def watched() -> list:
        outputs = step()
        for output in outputs:
            cached.setdefault(int(output.request_id.split(".")[0]), output.num_cached_tokens)
        return outputs

    core.talker.llm.step = watched  # type: ignore[attr-defined]
    voice = {"speakers": ((3066, 1.0),), "instruct": instruct}
    others = [
        voice | {"speakers": ((3065, 1.0),)},
        voice | {"instruct": (*instruct[:-1], 5)},
        voice | {"streaming_text": True},
    ]
    cold = say(core, seeded(3, 5, **voice))
    warm = say(core, seeded(3, 5, **voice))
    for fields in others:
        say(core, seeded(3, 5, **fields))
    core.talker.llm.step = step  # type: ignore[attr-defined]
    first, second, *rest = cached.values()
    assert (first, second >= 64, rest) == (0, True, [0, 0, 0])
    assert warm.codes == cold.codes


def test_2000_requests_leave_nothing(core: EngineCore) -> None:
    """Of random lengths, a third of them aborted in the queue, in their prompt or in mid-speech."""
    rng, left = random.Random(3), 2000
    running: set[int] = set()
    with torch.inference_mode(), Speaker(core) as speaker:
        while left or running:
            while left and len(running) < 16:
                left -= 1
                speaker.add(Submit(left, NAME, random_prompt(rng, NAME), random_params(rng, 6)))
                running.add(left)
            speaker.step()
            for id_ in [id_ for id_ in running if rng.random() < 0.06]:
                core.abort(id_)
            running &= set(core.sequences)
        speaker.step()
        failed = [u for u in speaker.heard.values() if u.failed]
        assert not failed and len(speaker.heard) == 2000
    assert_idle(core)
    free, total = num_free_blocks(core)
    assert free == total and core.stats().num_preemptions == 0


def test_who_is_preempted_all_the_same_says_the_same(
    core: EngineCore, models: list[ModelSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM gets fewer blocks than our count says, so it has to take some back."""
    from engine.backends.vllm.worker import TalkerExtension

    submits = [seeded(i, 90) for i in range(4)]
    expected = speak(core, submits)
    core.close()  # there may be one in a process
    arguments, opened = options.arguments, TalkerExtension.qtts_open

    def fewer(*args: object, **more: object) -> dict[str, object]:
        found = arguments(*args, **more)  # type: ignore[arg-type]
        blocks = found["kv_cache_memory_bytes"] // (more["num_blocks"] + 1)  # type: ignore[operator]
        return found | {"kv_cache_memory_bytes": 9 * blocks, "max_model_len": 192}

    monkeypatch.setattr(options, "arguments", fewer)
    monkeypatch.setattr(TalkerExtension, "qtts_open", lambda *a: opened(*a) + 1000)
    small = build_core(models[0])
    heard = speak(small, submits)
    assert small.stats().num_preemptions > 0
    assert [heard[i].codes for i in range(4)] == [expected[i].codes for i in range(4)]
    assert_idle(small)
    small.close()
