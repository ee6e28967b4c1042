"""Prometheus metrics of the HTTP side and, at each scrape, the engine's latest Stats."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import cast, get_args

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.openmetrics import exposition as open_metrics

from engine import EngineClient, Stats
from qtts_openai.decoding.client import Outcome

_TTFA_BUCKETS = (0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2, 5, 10, 30)
_RTF_BUCKETS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1, 1.25, 1.5, 2, 5)
_LAG_BUCKETS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10)


_COUNTS = (
    *("num_steps", "num_frames", "num_runaways", "num_preemptions"),
    *("num_prefix_cache_queries", "num_prefix_cache_hits"),
)
# Fields of engine.Stats: what grows for ever is a counter, whose name ends in _total.
_STATS: tuple[tuple[str, type[GaugeMetricFamily] | type[CounterMetricFamily], str], ...] = (
    *(
        (name, GaugeMetricFamily, name)
        for name in Stats.__struct_fields__
        if name.startswith("num_") and name not in _COUNTS
    ),
    *((name, CounterMetricFamily, name.removeprefix("num_")) for name in _COUNTS),
    ("prefill_s", CounterMetricFamily, "prefill_seconds"),
    ("decode_s", CounterMetricFamily, "decode_seconds"),
    ("codec_s", CounterMetricFamily, "codec_seconds"),
)


class Metrics:
    """`cached_bytes` and `num_queued` are asked at each scrape."""

    def __init__(
        self,
        engine: EngineClient,
        cached_bytes: Callable[[], int] = int,
        num_queued: Callable[[], int] = int,
    ) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_EngineCollector(engine, num_queued))
        registry = self.registry
        counter, gauge = partial(Counter, registry=registry), partial(Gauge, registry=registry)
        histogram = partial(Histogram, registry=registry)
        self.requests = counter("qtts_http_requests", "HTTP answers", ["route", "method", "status"])
        self.ttfa = histogram(
            "qtts_ttfa_seconds",
            "Request read to first PCM of the engine or the cache",
            buckets=_TTFA_BUCKETS,
        )
        self.queue = histogram(
            "qtts_queue_seconds",
            "How long an utterance waited for a place in the engine",
            buckets=_TTFA_BUCKETS,
        )
        self.rtf = histogram(
            "qtts_real_time_factor",
            "Time that an answer took by the seconds of its speech; a slow listener's counts, too",
            buckets=_RTF_BUCKETS,
        )
        self.live_sessions = gauge("qtts_live_sessions", "Live sessions that are open", ["dialect"])
        self.live_first_audio = histogram(
            "qtts_live_first_audio_seconds",
            "First text of a live utterance to its first audio",
            ["dialect"],
            buckets=_TTFA_BUCKETS,
        )
        self.live_stalls = counter(
            "qtts_live_text_stalls",
            "Live utterances whose text paused for so long that they gave up their row",
            ["dialect"],
        )
        self.live_cancels = counter("qtts_live_cancels", "Live utterances cut short", ["dialect"])
        self.live_heard = counter(
            "qtts_live_cancelled_heard_seconds",
            "Of utterances that were cut short, what was heard",
            ["dialect"],
        )
        self.streams = gauge("qtts_streams", "Answers being spoken")
        self.audio = counter("qtts_audio_seconds", "Seconds of speech made")
        self.characters = counter("qtts_characters", "Characters of input")
        self.finished = counter("qtts_finished", "Utterances by how they ended", ["reason"])
        self.loop_lag = histogram(
            "qtts_event_loop_lag_seconds",
            "How late the event loop came to a timer, ten times a second",
            buckets=_LAG_BUCKETS,
        )
        self.refused = counter(
            "qtts_refused", "Requests answered with an error, by its code", ["reason"]
        )
        self.rate_store_failures = counter(
            "qtts_rate_store_failures",
            "Questions and reports that the shared store of limits did not get",
        )
        self.underruns = counter(
            "qtts_underruns_predicted", "Times that a listener who plays as audio leaves had none"
        )
        self.gaps = counter("qtts_predicted_gap_seconds", "How long they had none")
        self.decoded = counter(
            "qtts_decoder_files", "Audio files of requests by what became of them", ["outcome"]
        )
        self.cache_answers = counter(
            "qtts_cache_answers", "Utterances that a cache may serve, by whether it did", ["result"]
        )
        gauge("qtts_cache_bytes", "PCM in the cache").set_function(cached_bytes)
        for outcome in get_args(Outcome):
            self.decoded.labels(outcome)

    def count_decoded(self, outcome: Outcome) -> None:
        self.decoded.labels(outcome).inc()

    def note_gap(self, seconds: float) -> None:
        if seconds > 0:
            self.underruns.inc()
            self.gaps.inc(seconds)

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """The text and its content type. Exemplars need OpenMetrics, which Prometheus asks for."""
        if "application/openmetrics-text" in accept:
            # Its escaping, on by default, would take vLLM's colons for a fault.
            encode = cast(Callable[..., bytes], open_metrics.generate_latest)
            text = encode(self.registry, open_metrics.ALLOWUTF8)
            return text, open_metrics.CONTENT_TYPE_LATEST
        return generate_latest(self.registry), CONTENT_TYPE_LATEST


class _EngineCollector:
    def __init__(self, engine: EngineClient, num_queued: Callable[[], int]) -> None:
        self._engine = engine
        self._num_queued = num_queued

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "qtts_engine_ready",
            "1 while the engine is ready",
            float(self._engine.status == "ready"),
        )
        for name, kind, shown in _STATS:
            help_ = f"{name} of engine.Stats"
            labels = ["worker"]
            family = kind(f"qtts_engine_{shown}", help_, labels=labels)
            for worker, state in enumerate(self._engine.workers):
                if state.stats is not None:
                    family.add_metric([str(worker)], float(getattr(state.stats, name)))
            yield family
        yield from self._workers()
        yield from self._load()

    def _workers(self) -> Iterator[Metric]:
        up = GaugeMetricFamily(
            "qtts_engine_worker_up", "1 while this worker takes work", labels=["worker"]
        )
        restarts = CounterMetricFamily(
            "qtts_engine_worker_restarts", "Times it was started again", labels=["worker"]
        )
        labels = ["worker", "device"]
        info = GaugeMetricFamily("qtts_engine_info", "1; what a worker computes on", labels=labels)
        for worker, state in enumerate(self._engine.workers):
            info.add_metric([str(worker), state.device], 1.0)
            up.add_metric([str(worker)], float(state.status == "ready"))
            restarts.add_metric([str(worker)], float(state.num_restarts))
        yield from (info, up, restarts)

    def _load(self) -> Iterator[Metric]:
        """What autoscalers and routers read, over all workers; the names of vLLM are those that
        llm-d's endpoint picker and vLLM's dashboards know.
        """
        stats = self._engine.stats
        running = float(sum(one.num_running for one in stats))
        waiting = float(sum(one.num_waiting for one in stats) + self._num_queued())
        blocks = sum(one.num_blocks for one in stats)
        used = 1 - sum(one.num_free_blocks for one in stats) / blocks if blocks else 0.0
        places = "Utterances that may be spoken at once"
        yield GaugeMetricFamily("qtts_engine_num_places", places, float(self._engine.num_places))
        load = "Utterances spoken and waiting"
        yield GaugeMetricFamily("qtts_engine_load", load, running + waiting)
        for name, value in (("running", running), ("waiting", waiting)):
            alias = f"vllm:num_requests_{name}"
            yield GaugeMetricFamily(alias, f"Utterances {name}, by vLLM's name", value)
        usage = "Part of the KV cache in use, by vLLM's name"
        yield GaugeMetricFamily("vllm:kv_cache_usage_perc", usage, used)
