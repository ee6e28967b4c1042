"""The queue's policy by a virtual clock, and its rules under any order of events."""

import heapq
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import EngineConfig, QueueFullError
from qtts_openai.http.fair_queue import FairQueue


class Job:
    def __init__(self, who: str, is_firm: bool = False) -> None:
        self.who, self.is_firm = who, is_firm
        self.has_begun = False
        self.refused: QueueFullError | None = None
        self.error: Exception | None = None
        self.on_begin = lambda: None

    def begin(self) -> bool:
        if self.error is not None:
            raise self.error
        self.has_begun = True
        self.on_begin()
        return True

    def refuse(self, error: QueueFullError) -> None:
        self.refused = error


def entered(queue: FairQueue, who: str, number: int = 1, **options) -> list[Job]:
    jobs = [Job(who, **options) for _ in range(number)]
    for job in jobs:
        queue.enter(job)
    return jobs


def begun(jobs: list[Job]) -> int:
    return sum(job.has_begun for job in jobs)


def test_a_caller_alone_gets_all_places():
    queue = FairQueue(lambda: 8, 64)
    assert begun(entered(queue, "a", 20)) == 8 and queue.num_waiting == 12


def test_while_another_waits_nobody_gets_more_than_half():
    queue = FairQueue(lambda: 8, 64)
    flood, others = entered(queue, "a", 30), entered(queue, "b", 10)
    for job in [job for job in flood if job.has_begun]:
        queue.leave(job)
    assert queue.num_active_of("a") == queue.num_active_of("b") == 4
    assert begun(others) == 4


def test_a_newcomer_need_not_wait_for_one_of_a_few_places_more():
    queue = FairQueue(lambda: 16, 64)
    flood = entered(queue, "a", 30)
    (first, second), third, fourth = (
        entered(queue, "b", 2), entered(queue, "c"), entered(queue, "d"),
    )  # fmt: skip
    assert begun(flood) == 16 and first.has_begun and begun(third) == 1
    assert not second.has_begun and not begun(fourth), "one each, and two in all"
    queue.leave(first)
    assert second.has_begun, "it has nothing under way again, and came before the fourth"
    for job in flood[:2]:
        queue.leave(job)
    assert begun(flood) == 16 and begun(fourth) == 1


def test_where_places_are_tight_a_flood_keeps_to_a_third_while_another_is_about():
    queue = FairQueue(lambda: 9, 64, is_tight=lambda: True)
    running = entered(queue, "a", 40)
    assert queue.num_active_of("a") == 9, "alone it has all"

    def next_of_a() -> None:
        queue.leave(next(job for job in running if job.has_begun))
        del running[next(i for i, job in enumerate(running) if job.has_begun)]

    (other,) = entered(queue, "b")
    for _ in range(6):
        next_of_a()
    for _ in range(3):  # b asks again at once, each time
        next_of_a()
        queue.leave(other)
        assert queue.num_active_of("a") == 3, "also between two requests of b"
        (other,) = entered(queue, "b")
        assert other.has_begun
    queue.leave(other)
    for _ in range(9):
        next_of_a()
    assert queue.num_active_of("a") == 9, "b has gone"
    assert not queue._left_at


def test_where_places_are_tight_two_busy_callers_still_fill_all():
    queue = FairQueue(lambda: 9, 64, is_tight=lambda: True)
    running = {who: entered(queue, who, 20) for who in "ab"}
    for job in running["a"][:9]:
        queue.leave(job)
    assert (queue.num_active_of("a"), queue.num_active_of("b")) == (4, 5)


def test_where_places_are_not_tight_a_flood_fills_them():
    queue = FairQueue(lambda: 8, 64)
    flood = entered(queue, "a", 40)
    entered(queue, "b")
    for job in flood[:5]:
        queue.leave(job)
    assert (queue.num_active_of("a"), queue.num_active_of("b")) == (7, 1)


def test_a_free_place_goes_to_who_has_the_fewest():
    queue = FairQueue(lambda: 6, 64)
    flood, some, one = entered(queue, "a", 9), entered(queue, "b", 9), entered(queue, "c", 9)
    for job in flood[:6]:
        queue.leave(job)
    assert [queue.num_active_of(who) for who in "abc"] == [2, 2, 2]
    assert begun(some) == begun(one) == 2


def test_callers_are_served_in_turn():
    queue = FairQueue(lambda: 1, 64)
    speaking: list[Job] = []
    for who in "xaaabbc":
        job = Job(who)
        job.on_begin = lambda job=job: speaking.append(job)
        queue.enter(job)
    while len(speaking) < 7:
        queue.leave(speaking[-1])
    assert "".join(job.who for job in speaking) == "xabcaba"


def test_what_continues_goes_ahead_of_its_callers_others():
    queue = FairQueue(lambda: 1, 64)
    (running,), waiting = entered(queue, "a"), entered(queue, "a", 3)
    part = Job("a", is_firm=True)
    queue.enter(part, ahead=True)
    queue.leave(running)
    assert part.has_begun and not begun(waiting)


def test_one_that_leaves_while_it_waits_takes_no_turn():
    queue = FairQueue(lambda: 1, 64)
    (running,), (gone, stays) = entered(queue, "a"), entered(queue, "b", 2)
    queue.leave(gone)
    queue.leave(running)
    assert stays.has_begun and not gone.has_begun
    queue.leave(stays)
    assert (queue.num_active, queue.num_waiting) == (0, 0)
    assert not queue._lines and not queue._active, "callers who left are forgotten"


def test_too_many_are_refused():
    queue = FairQueue(lambda: 2, 3)
    entered(queue, "a", 5)
    with pytest.raises(QueueFullError) as error:
        queue.enter(Job("a"))
    assert error.value.retry_after_s > 0


def test_a_full_queue_has_room_for_one_with_a_shorter_line():
    queue = FairQueue(lambda: 2, 4)
    flood = entered(queue, "a", 6)
    (other,) = entered(queue, "b")
    assert flood[-1].refused and not any(job.refused for job in flood[:-1])
    queue.leave(flood[0])
    queue.leave(flood[1])
    assert other.has_begun and queue.num_waiting <= 4


def test_firm_tickets_wait_however_many_do_and_are_never_refused():
    queue = FairQueue(lambda: 1, 2)
    firm = entered(queue, "a", 9, is_firm=True)
    with pytest.raises(QueueFullError):
        queue.check_room("a")
    queue.check_room("b")
    entered(queue, "b")
    assert not any(job.refused for job in firm)
    entered(queue, "c")
    with pytest.raises(QueueFullError):
        entered(queue, "d")
    assert queue.num_waiting == 8 + 2, "what is not firm is bounded"


def test_without_places_a_ticket_begins_and_learns_why_not():
    queue = FairQueue(lambda: 0, 64)
    assert begun(entered(queue, "a")) == 1


def test_a_full_engine_is_waited_for_where_something_is_under_way():
    queue = FairQueue(lambda: 4, 64)
    (running,) = entered(queue, "a")
    job = Job("b")
    job.error = QueueFullError("full")
    queue.enter(job)
    assert not job.refused and queue.num_waiting == 1
    job.error = None
    queue.leave(running)
    assert job.has_begun
    queue.leave(job)
    job = Job("b")
    job.error = QueueFullError("full")
    queue.enter(job)
    assert job.refused is job.error and (queue.num_active, queue.num_waiting) == (0, 0)


class World:
    """Utterances take a time; the clock jumps from end to end."""

    def __init__(self, places: int, spread: random.Random, max_waiting: int = 64) -> None:
        self.queue = FairQueue(lambda: places, max_waiting)
        self.now, self.events, self.random, self.count = 0.0, [], spread, 0

    def at(self, time: float, action) -> None:
        self.count += 1
        heapq.heappush(self.events, (time, self.count, action))

    def run(self, until: float) -> None:
        while self.events and self.events[0][0] <= until:
            self.now, _, action = heapq.heappop(self.events)
            action()

    def speak(self, who: str, seconds: float, then) -> None:
        job, asked = Job(who), self.now

        def end() -> None:
            self.queue.leave(job)
            then(self.now - asked)

        job.on_begin = lambda: self.at(self.now + seconds, end)
        try:
            self.queue.enter(job)
        except QueueFullError:
            self.at(self.now + 1, lambda: self.speak(who, seconds, then))


@pytest.mark.parametrize("connections", [24, 200])
def test_a_flood_by_one_key_costs_another_one_utterance_at_most(connections):
    """Seconds from request to end, utterances of 3 to 5 s: alone, and beside the flood."""

    def p95(flood: int) -> float:
        world, took = World(16, random.Random(1)), []

        def again(who, _seconds=0.0):
            seconds = world.random.uniform(3, 5)
            world.speak(who, seconds, lambda _: again(who))

        def listener(_seconds=None):
            if _seconds is not None:
                took.append(_seconds)
            world.at(world.now + 1, lambda: world.speak("b", 4.0, listener))

        for _ in range(flood):
            again("a")
        listener()
        world.run(500)
        assert len(took) > 40, "nobody is refused for ever"
        return sorted(took)[int(len(took) * 0.95)]

    idle = p95(0)
    assert idle == 4.0
    assert p95(connections) < 2 * idle + 5.0


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["enter", "firm", "ahead", "end", "abort"]),
        st.sampled_from("abcd"),
        st.integers(0, 99),
    ),
    max_size=120,
)


@given(EVENTS, st.integers(1, 19), st.integers(0, 12))
@settings(max_examples=150, deadline=None)
def test_rules(events, places, max_waiting):
    queue = FairQueue(lambda: places, max_waiting)
    jobs: list[Job] = []

    most = places + places // 8

    def check_begin(job: Job) -> None:
        """Nobody gets a place beyond half while another waits, nor one of the spare ones beside
        another of its own.
        """
        others = {j.who for j in jobs if not j.has_begun and not j.refused and j.who != job.who}
        assert queue.num_active_of(job.who) <= (places + 1) // 2 or not others
        assert queue.num_active <= places or queue.num_active_of(job.who) == 1

    for kind, who, pick in events:
        waiting = [job for job in jobs if not job.has_begun and not job.refused]
        running = [job for job in jobs if job.has_begun]
        if kind in ("end", "abort"):
            pool = running if kind == "end" else waiting
            if pool:
                job = pool[pick % len(pool)]
                jobs.remove(job)
                queue.leave(job)
        else:
            job = Job(who, is_firm=kind != "enter")
            job.on_begin = lambda job=job: check_begin(job)
            jobs.append(job)
            try:
                queue.enter(job, ahead=kind == "ahead")
            except QueueFullError:
                jobs.remove(job)
                assert not job.is_firm and queue.num_active >= places
        assert not any(job.refused and job.is_firm for job in jobs)
        jobs = [job for job in jobs if not job.refused]
        begun_now = [job for job in jobs if job.has_begun]
        assert queue.num_active == len(begun_now) <= most
        assert queue.num_waiting == len(jobs) - len(begun_now)
        assert not queue.num_waiting or queue.num_active >= places, "no place is left empty"
        waiting = [job for job in jobs if not job.has_begun]
        newcomers = [job for job in waiting if not queue.num_active_of(job.who)]
        assert not newcomers or queue.num_active == most
        for job in jobs:
            assert queue.num_active_of(job.who) == sum(j.who == job.who for j in begun_now)


def test_one_keys_flood_leaves_another_key_its_turn(start, monkeypatch):
    """24 connections over HTTP that never stop; an utterance takes about 0.1 s."""
    monkeypatch.setenv("QTTS_API_KEYS", "flood: a, other: b")
    server = start(engine=EngineConfig(max_queued=8))
    server.engine.num_rows, server.engine.max_live = 4, 4
    server.engine.chunk_delay_s = 0.02
    stop = threading.Event()

    def say(key: str) -> tuple[int, float]:
        began = time.monotonic()
        body = {"model": "tts-1", "voice": "alloy", "input": "Hi.", "response_format": "pcm"}
        headers = {"authorization": f"Bearer {key}"}
        answer = server.http.post("/audio/speech", json=body, headers=headers)
        return answer.status_code, time.monotonic() - began

    def hammer() -> list[tuple[int, float]]:
        answers = []
        while not stop.is_set():
            answers.append(say("a"))
            if answers[-1][0] == 429:
                stop.wait(0.1)
        return answers

    with ThreadPoolExecutor(24) as pool:
        floods = [pool.submit(hammer) for _ in range(24)]
        time.sleep(0.3)
        others = [say("b") for _ in range(12)]
        stop.set()
        flood = [answer for future in floods for answer in future.result()]
    assert {status for status, _ in others} == {200}
    assert {status for status, _ in flood} == {200, 429}
    waited = sorted(took for status, took in flood if status == 200)
    assert sorted(took for _, took in others)[6] < waited[len(waited) // 2]
