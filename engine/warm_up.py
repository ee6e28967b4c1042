"""The first utterances of a worker. They warm it up, and on a CPU they show how many utterances it
can speak at once in real time.

In: an EngineCore that has just been built. Afterwards nothing of them is left in it, and its
statistics are zero again.
"""

import time
from collections.abc import Callable

from engine.core import EngineCore
from engine.models.config import layer_weights
from engine.protocol import FRAME_S, AudioChunk, Finished, Prompt, SamplingParams, Submit

FRAMES = 8
# Rows of the larger of two batches that are timed, and how long each is at most.
MANY_ROWS = 8
MOST_S = 1.0
# The part of a frame's time that a step may take: prompts and encoders want some, too.
BUSY_SHARE = 0.8
# Where real time is out of reach, a listener among others may wait so many times as long as alone.
SLOWDOWN = 2
LEAST_PLACES = 8  # however unlucky the measurement was, or busy the machine at that moment


def warm_up(core: EngineCore) -> None:
    """A short utterance through every stage of every model, so that the first request finds
    everything warm.
    """
    for model in core.checkpoints:
        _add(core, model, 1)
    outputs = []
    while core.has_work:
        outputs += core.step()
    assert sum(isinstance(fact, Finished) for fact in outputs) == len(core.checkpoints), (
        "warm-up failed"
    )
    assert any(isinstance(fact, AudioChunk) for fact in outputs), "warm-up made no audio"
    core.codec_stage.time_chunks()
    core.reset_stats()


def measure_places(core: EngineCore, num_rows: int) -> int:
    """Utterances of the slowest model that are spoken in real time together, or at least half as
    fast as one alone, whichever are more; the machine's other load is part of the measurement.
    """
    found = []
    for model in _unlike(core):
        many_s = _time_step(core, model, MANY_ROWS)
        found.append(places(_time_step(core, model, 1), many_s, num_rows))
    core.reset_stats()
    return min(found)


def _unlike(core: EngineCore) -> list[str]:
    """One of each set of models whose steps cost the same."""
    found: dict[tuple[int, int, int], str] = {}
    for model, checkpoint in core.checkpoints.items():
        talker = checkpoint.config.talker_config
        size = layer_weights(talker), layer_weights(talker.code_predictor_config)
        found.setdefault((*size, id(core.codecs[model])), model)
    return list(found.values())


def time_frames(core: EngineCore, model: str) -> float:
    """Seconds of a frame of one utterance, by the wall: a GPU's time is not the processor's. The
    better of two, the first of which makes warm what was not.
    """
    return min(_time_step(core, model, 1, time.perf_counter) for _ in range(2))


def places(one_s: float, many_s: float, num_rows: int) -> int:
    """From the seconds of a step with one row and with MANY_ROWS: a row more costs always as much
    more.
    """
    row_s = (many_s - one_s) / (MANY_ROWS - 1)
    if row_s <= 0:
        return num_rows
    allowed_s = max(BUSY_SHARE * FRAME_S, SLOWDOWN * one_s)
    return min(num_rows, max(LEAST_PLACES, 1 + int((allowed_s - one_s) / row_s)))


def _time_step(
    core: EngineCore, model: str, num_rows: int, clock: Callable[[], float] = time.thread_time
) -> float:
    """Seconds of a step that makes a frame for each of so many rows, and its audio."""
    added = _add(core, model, num_rows)
    core.step()  # prefills
    started, num_steps = clock(), 0
    while core.has_work and clock() - started < MOST_S:
        core.step()
        num_steps += 1
    elapsed_s = clock() - started
    for seq_id in added:
        core.abort(seq_id)
    while core.has_work:
        core.step()
    return elapsed_s / num_steps


def _add(core: EngineCore, model: str, number: int) -> list[int]:
    """Utterances of FRAMES frames each. Their ids, which no request has."""
    speakers = tuple((row, 1.0) for row in list(core.checkpoints[model].info.speakers.values())[:1])
    prompt = Prompt(role=(0, 0, 0), text=(0,) * 8, speakers=speakers)
    params = SamplingParams(max_new_tokens=FRAMES, ignore_eos=True, seed=0)
    first = -1 - len(core.sequences)
    ids = list(range(first, first - number, -1))
    for seq_id in ids:
        core.add(Submit(seq_id, model, prompt, params))
    return ids
