"""Prometheus metrics of the HTTP side and, at each scrape, the engine's latest Stats."""

from collections.abc import Callable, Iterator
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

from engine import EngineClient, Stats
from qtts_openai.decoding.client import Outcome

_TTFA_BUCKETS = (0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2, 5, 10, 30)
_LAG_BUCKETS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10)


class Metrics:
    def __init__(self, engine: EngineClient, cached_bytes: Callable[[], int] = int) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_EngineCollector(engine))
        self.requests = Counter(
            "qtts_http_requests",
            "HTTP answers",
            ["route", "method", "status"],
            registry=self.registry,
        )
        self.ttfa = Histogram(
            "qtts_ttfa_seconds",
            "Request read to first PCM of the engine or the cache",
            buckets=_TTFA_BUCKETS,
            registry=self.registry,
        )
        self.live_sessions = Gauge(
            "qtts_live_sessions", "Live sessions that are open", ["dialect"], registry=self.registry
        )
        self.live_first_audio = Histogram(
            "qtts_live_first_audio_seconds",
            "First text of a live utterance to its first audio",
            buckets=_TTFA_BUCKETS,
            registry=self.registry,
        )
        self.live_cancels = Counter(
            "qtts_live_cancels", "Live utterances cut short", ["dialect"], registry=self.registry
        )
        self.live_heard = Counter(
            "qtts_live_cancelled_heard_seconds",
            "Of utterances that were cut short, what was heard",
            ["dialect"],
            registry=self.registry,
        )
        self.streams = Gauge("qtts_streams", "Answers being spoken", registry=self.registry)
        self.audio = Counter("qtts_audio_seconds", "Seconds of speech made", registry=self.registry)
        self.characters = Counter("qtts_characters", "Characters of input", registry=self.registry)
        self.finished = Counter(
            "qtts_finished", "Utterances by how they ended", ["reason"], registry=self.registry
        )
        self.loop_lag = Histogram(
            "qtts_event_loop_lag_seconds",
            "How late the event loop came to a timer, ten times a second",
            buckets=_LAG_BUCKETS,
            registry=self.registry,
        )

        self.refused = Counter(
            "qtts_refused",
            "Requests refused for their key, a limit or a full queue",
            ["reason"],
            registry=self.registry,
        )

        self.decoded = Counter(
            "qtts_decoder_files",
            "Audio files of requests by what became of them",
            ["outcome"],
            registry=self.registry,
        )

        self.cache_answers = Counter(
            "qtts_cache_answers",
            "Utterances that a cache may serve, by whether it did",
            ["result"],
            registry=self.registry,
        )
        cache_bytes = Gauge("qtts_cache_bytes", "PCM in the cache", registry=self.registry)
        cache_bytes.set_function(cached_bytes)

        for outcome in get_args(Outcome):
            self.decoded.labels(outcome)

    def count_decoded(self, outcome: Outcome) -> None:
        self.decoded.labels(outcome).inc()

    def render(self) -> bytes:
        return generate_latest(self.registry)


class _EngineCollector:
    def __init__(self, engine: EngineClient) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "qtts_engine_ready",
            "1 while the engine is ready",
            float(self._engine.status == "ready"),
        )
        for name in Stats.__struct_fields__:
            family = GaugeMetricFamily(
                f"qtts_engine_{name}", "As in engine.Stats", labels=["worker"]
            )
            for worker, stats in enumerate(self._engine.stats):
                family.add_metric([str(worker)], float(getattr(stats, name)))
            yield family
