"""What a scrape says."""

from typing import cast

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from engine import EngineClient, Stats, WorkerState
from qtts_openai.http.metrics import Metrics
from qtts_openai.speech.playback import Playback
from tests.api.speech.test_streaming import LONG, wait_until

OPEN_METRICS = "application/openmetrics-text; version=1.0.0"


class Workers:
    """Of three: one speaks, one is being started again, one is full."""

    status = "ready"
    num_places = 16

    @staticmethod
    def told(running: int, free_blocks: int) -> Stats:
        fields = dict.fromkeys(Stats.__struct_fields__, 0)
        return Stats(
            **fields
            | {"num_running": running, "num_free_blocks": free_blocks, "num_blocks": 100}
            | {"num_prefix_cache_queries": 50, "num_prefix_cache_hits": 10 * running}
        )

    @property
    def workers(self) -> list[WorkerState]:
        one, three = self.told(2, 90), self.told(8, 0)
        return [
            WorkerState("ready", 0, one, "cuda:0, bfloat16"),
            WorkerState("restarting", 3, None),
            WorkerState("ready", 1, three),
        ]

    @property
    def stats(self) -> list[Stats]:
        return [one.stats for one in self.workers if one.stats]


def scraped(text: str, name: str, **labels: str) -> list[float]:
    return [
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]


def test_workers_keep_their_numbers_while_one_restarts():
    text = Metrics(cast(EngineClient, Workers())).render(OPEN_METRICS)[0].decode()
    assert scraped(text, "qtts_engine_num_running", worker="0") == [2]
    assert scraped(text, "qtts_engine_num_running", worker="1") == []
    assert scraped(text, "qtts_engine_num_running", worker="2") == [8]
    assert scraped(text, "qtts_engine_worker_up") == [1, 0, 1]
    assert scraped(text, "qtts_engine_info", device="cuda:0, bfloat16") == [1]
    assert scraped(text, "qtts_engine_worker_restarts_total") == [0, 3, 1]
    assert scraped(text, "vllm:num_requests_running") == scraped(text, "qtts_engine_load") == [10]
    assert scraped(text, "qtts_engine_num_places") == [16]
    assert scraped(text, "qtts_engine_prefix_cache_queries_total") == [50, 50]
    assert scraped(text, "qtts_engine_prefix_cache_hits_total") == [20, 80]
    assert scraped(text, "vllm:kv_cache_usage_perc") == [pytest.approx(0.55)]


def read(server) -> str:
    answer = server.http.get(f"{server.url}/metrics", headers={"accept": OPEN_METRICS})
    assert answer.status_code == 200
    return answer.text


def test_refusals_are_counted_by_reason_wherever_they_are_made(start):
    server = start()
    server.speak(input="")
    server.speak(model="nothing")
    server.http.post("/audio/speech", content=b"{}", headers={"content-encoding": "br"})
    text = read(server)
    for reason in ("model_not_found", "content_encoding"):
        assert scraped(text, "qtts_refused_total", reason=reason) == [1], reason
    assert sum(scraped(text, "qtts_refused_total")) == 3


def test_waiting_and_leaving_are_counted(start):
    server = start()
    server.engine.chunk_delay_s = 0.05
    body = {"model": "tts-1", "voice": "alloy", "input": LONG, "response_format": "pcm"}
    with server.http.stream("POST", "/audio/speech", json=body) as answer:
        next(answer.iter_raw())
    wait_until(lambda: scraped(read(server), "qtts_finished_total", reason="abort") == [1], 5)
    text = read(server)
    assert scraped(text, "qtts_queue_seconds_count") == [1]
    assert scraped(text, "qtts_streams") == [0]


def test_a_listener_who_runs_dry_is_predicted(start):
    """Chunks of at most 0.64 s of speech, one every 0.8 s."""
    server = start()
    server.engine.chunk_delay_s = 0.8
    assert server.speak(max_new_tokens=16).status_code == 200
    text = read(server)
    assert scraped(text, "qtts_underruns_predicted_total")[0] >= 2
    assert scraped(text, "qtts_predicted_gap_seconds_total")[0] > 0.5


def test_playback_hears_gaps_and_nothing_before_the_first_sound():
    clock = iter([10.0, 10.5, 11.6, 12.0, 13.4])
    playback = Playback(lambda: next(clock))
    gaps = [playback.sent(audio_s) for audio_s in (1.0, 1.5, 2.5, 2.5, 3.0)]
    # Plays until 11.0, 11.5; dry at 11.6, plays until 12.6; an empty piece; dry at 13.4.
    assert gaps == pytest.approx([0, 0, 0.1, 0, 0.8])
