"""Listeners on a virtual clock: a long prompt arrives while 16 streams play. No torch.

The costs are those of a slow device: 1 ms per prompt token, so 3000 tokens take 3 s alone, and a
decode step of 16 rows takes 32 to 80 ms for 80 ms of speech.
"""

import pytest

from engine.scheduler.scheduler import FORCED_SLICE_S, MAX_PREFILL_WAIT_S, PREFILL_SHARE, Scheduler
from tests.engine.scheduler.simulation import Costs, Listener, Simulation, play

LONG, LONG_S = 3000, 3.1  # with the fixed cost of each slice
STEPS_S = 0.4  # two of the longest steps of these simulations: a first chunk may need two frames


class Eager(Scheduler):
    """Prefill never yields."""

    def _prefill_budget(self, *_: object, forced: bool) -> int:
        return self.max_num_batched_tokens


def long_prompt_arrives(
    scheduler: type[Scheduler], decode_s: float, warm_up_s: float
) -> tuple[list[Listener], Listener]:
    """The streams, with underruns counted from the arrival on, and the new one."""
    simulation = Simulation(Costs(decode_s=decode_s), scheduler)
    streams = play(simulation, 16, warm_up_s)
    for stream in streams:
        stream.num_underruns, stream.underrun_s = 0, 0.0
    new = simulation.submit(LONG, 300)
    while new.first_audio_at is None:
        simulation.step()
    simulation.run(3.0)
    return streams, new


def underruns(streams: list[Listener]) -> int:
    return sum(stream.num_underruns for stream in streams)


@pytest.mark.parametrize("warm_up_s", [0.5, 6.0], ids=["young", "old"])
@pytest.mark.parametrize("decode_s", [0.016, 0.024, 0.033])
def test_a_long_prompt_makes_nobody_run_dry(decode_s: float, warm_up_s: float) -> None:
    streams, new = long_prompt_arrives(Scheduler, decode_s, warm_up_s)
    assert underruns([*streams, new]) == 0
    assert new.ttfa_s <= MAX_PREFILL_WAIT_S + LONG_S / PREFILL_SHARE + STEPS_S


@pytest.mark.parametrize("decode_s", [0.016, 0.024, 0.034])
def test_without_yielding_they_do(decode_s: float) -> None:
    streams, _ = long_prompt_arrives(Eager, decode_s, 0.5)
    assert underruns(streams) > 16


@pytest.mark.parametrize("warm_up_s", [0.2, 0.5, 8.0])
def test_a_prompt_that_grows_dearer_as_it_goes_makes_nobody_run_dry(warm_up_s: float) -> None:
    """4,000 tokens: the last takes five times as long as the first, since it looks back at all."""
    costs = Costs(0.004, 0.0004, 0.046, 0.001, 0.006, 0.0013, prefill_s_per_pair=4e-7)
    simulation = Simulation(costs)
    streams = play(simulation, 4, warm_up_s)
    new = simulation.submit(4000, 300)
    while new.first_audio_at is None:
        simulation.step()
    assert underruns(streams) == 0


def test_old_streams_let_a_long_prompt_through_at_once() -> None:
    """Their leads are long, so yielding costs nothing that the work itself does not."""
    _, new = long_prompt_arrives(Scheduler, 0.016, 6.0)
    assert new.ttfa_s <= 1.1 * LONG_S


@pytest.mark.parametrize("decode_s", [0.054, 0.07, 0.1])
def test_overload_does_not_starve_prefill(decode_s: float) -> None:
    """Decode alone is slower than speech: prefill still has its share of the time."""
    _, new = long_prompt_arrives(Scheduler, decode_s, 6.0)
    assert new.ttfa_s <= MAX_PREFILL_WAIT_S + LONG_S / PREFILL_SHARE + STEPS_S


def test_overload_starts_short_prompts_soon() -> None:
    simulation = Simulation(Costs(decode_s=0.1))
    play(simulation, 16, 6.0)
    for _ in range(5):
        new = simulation.submit(40, 50)
        simulation.run(2.0)
        assert new.ttfa_s <= MAX_PREFILL_WAIT_S + FORCED_SLICE_S + STEPS_S


def test_no_model_starves_another() -> None:
    """Long prompts of two models under overload: each gets its share."""
    simulation = Simulation(Costs(decode_s=0.1), models=("a", "b"))
    for model in "ab" * 8:
        simulation.submit(30, 10_000, model)
    simulation.run(6.0)
    new = [simulation.submit(1000, 300, model) for model in "ab"]
    simulation.run(8.0)
    assert all(n.ttfa_s <= MAX_PREFILL_WAIT_S + 1.0 / PREFILL_SHARE + 2 * STEPS_S for n in new)


@pytest.mark.parametrize("decode_s", [0.016, 0.024, 0.034])
def test_streams_that_can_keep_up_never_pause(decode_s: float) -> None:
    """From the first frame on, though chunks grow: decode is 1.6 to 2.5 times as fast as speech."""
    simulation = Simulation(Costs(decode_s=decode_s))
    streams = play(simulation, 16, 10.0)
    assert underruns(streams) == 0


@pytest.mark.parametrize("num_listeners", [8, 16])
def test_listeners_who_begin_together_never_pause(num_listeners: int) -> None:
    """The embedded voice on two CPU cores, where a chunk costs much beside its frames."""
    costs = Costs(0.015, 0.0001, 0.0125, 0.0002, codec_s=0.006, codec_s_per_frame=0.0013)
    simulation = Simulation(costs)
    streams = []
    for _ in range(4):
        streams += [simulation.submit(40, 60) for _ in range(num_listeners)]
        simulation.run(7.0)
    assert underruns(streams) == 0
    assert all(stream.seq.is_finished for stream in streams)


def test_a_burst_is_heard_in_order() -> None:
    simulation = Simulation(Costs(decode_s=0.004, decode_s_per_row=0.0005))
    streams = [simulation.submit(40, 100) for _ in range(48)]
    simulation.run(10.0)
    times = [stream.ttfa_s for stream in streams]
    assert times == sorted(times) and times[-1] <= 7.0  # 1.9 s of prefill, and nobody runs dry
    assert sum(stream.underrun_s for stream in streams) < 0.1
