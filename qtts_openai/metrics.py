"""Prometheus metrics of the HTTP side and, at each scrape, the engine's latest Stats."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

from engine import EngineClient, Stats

_TTFA_BUCKETS = (0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2, 5, 10, 30)
_STATS_HELP = {
    "num_waiting": "Sequences that wait for a row",
    "num_running": "Sequences that speak",
    "num_free_blocks": "Free KV blocks",
    "num_blocks": "KV blocks",
    "num_free_rows": "Free rows",
    "num_rows": "Rows",
    "num_steps": "Steps since start",
    "num_frames": "Frames made since start",
    "num_runaways": "Utterances cut by the runaway guard since start",
    "step_s": "Seconds in steps since start",
    "prefill_s": "Seconds in prefill since start",
    "decode_s": "Seconds in decode since start",
    "codec_s": "Seconds in the codec since start",
}


class Metrics:
    def __init__(self, engine: EngineClient) -> None:
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
            "Request read to first PCM",
            buckets=_TTFA_BUCKETS,
            registry=self.registry,
        )
        self.streams = Gauge("qtts_streams", "Answers being spoken", registry=self.registry)
        self.audio = Counter("qtts_audio_seconds", "Seconds of speech made", registry=self.registry)
        self.characters = Counter("qtts_characters", "Characters of input", registry=self.registry)
        self.finished = Counter(
            "qtts_finished", "Utterances by how they ended", ["reason"], registry=self.registry
        )

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
        for name, text in _STATS_HELP.items():
            family = GaugeMetricFamily(f"qtts_engine_{name}", text, labels=["worker"])
            for worker, stats in enumerate(self._engine.stats):
                family.add_metric([str(worker)], _value(stats, name))
            yield family


def _value(stats: Stats, name: str) -> float:
    return float(getattr(stats, name))
