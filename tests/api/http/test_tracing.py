"""Spans as a collector gets them: over OTLP, from a server on an engine that hums."""

import itertools
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from qtts_openai.http.tracing import Timeline, Tracer
from qtts_openai.settings import ServerSettings, SettingsError
from tests.api.speech.test_streaming import wait_until

STAGES = ["queue", "prefill", "first frame", "first chunk", "encode", "send"]
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Collector:
    def __init__(self) -> None:
        self.spans: list = []
        self.services: set[str] = set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.path == "/v1/traces"
                body = self.rfile.read(int(self.headers["content-length"]))
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    outer.services |= {
                        one.value.string_value
                        for one in resource.resource.attributes
                        if one.key == "service.name"
                    }
                    for scope in resource.scope_spans:
                        outer.spans += scope.spans
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join(10)
        self.server.server_close()

    def requests(self) -> list:
        return [span for span in self.spans if span.kind == 2]  # SERVER

    def below(self, span) -> list:
        children = [one for one in self.spans if one.parent_span_id == span.span_id]
        return sorted(children, key=lambda one: one.start_time_unix_nano)


@pytest.fixture
def collector(monkeypatch) -> Iterator[Collector]:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    made = Collector()
    yield made
    made.close()


def attributes(span) -> dict:
    values = {one.key: one.value for one in span.attributes}
    return {key: value.string_value or value.int_value for key, value in values.items()}


@pytest.mark.parametrize("fields", [{}, {"stream": False}, {"stream_format": "sse"}])
def test_a_span_a_request_with_its_stages(start, collector, fields):
    server = start(server=ServerSettings(traces=collector.url))
    body = {"model": "tts-1", "voice": "alloy", "input": "Hi.", **fields}
    headers = {"traceparent": PARENT, "x-request-id": "mine-7"}
    assert server.http.post("/audio/speech", json=body, headers=headers).status_code == 200
    wait_until(lambda: len(collector.spans) >= 7, 5)
    (span,) = collector.requests()
    assert span.name == "POST /v1/audio/speech" and collector.services == {"qtts"}
    assert span.trace_id.hex() == PARENT[3:35] and span.parent_span_id.hex() == PARENT[36:52]
    told = attributes(span)
    assert told["http.response.status_code"] == 200 and told["request.id"] == "mine-7"
    below = collector.below(span)
    names = [one.name for one in below]
    wanted = ["prepare", *STAGES] if "stream" not in fields else ["prepare", *STAGES[:-2], "encode"]
    assert names == wanted
    for one, other in itertools.pairwise(below):
        assert one.end_time_unix_nano <= other.start_time_unix_nano + 1000
    assert span.start_time_unix_nano <= below[0].start_time_unix_nano + 5_000_000


def test_refusals_probes_and_strangers(start, collector):
    server = start(server=ServerSettings(traces=collector.url))
    server.http.get(f"{server.url}/health")
    assert server.speak(input="").status_code == 400
    server.speak(input="Hi.", voice="nobody")
    wait_until(lambda: len(collector.requests()) == 2, 5)
    assert {attributes(one)["http.response.status_code"] for one in collector.requests()} == {400}
    assert not [one for one in collector.spans if one.name == "GET /health"]


def test_a_bucket_names_one_of_its_requests(start, collector):
    server = start(server=ServerSettings(traces=collector.url))
    assert server.speak().status_code == 200
    plain = server.http.get(f"{server.url}/metrics")
    assert "trace_id" not in plain.text and plain.headers["content-type"].startswith("text/plain")
    accept = {"accept": "application/openmetrics-text; version=1.0.0"}
    answer = server.http.get(f"{server.url}/metrics", headers=accept)
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    found = dict(re.findall(r'^(qtts_\w+)_bucket.* # {trace_id="(\w+)"}', answer.text, re.M))
    assert found.keys() == {"qtts_ttfa_seconds", "qtts_queue_seconds", "qtts_real_time_factor"}
    wait_until(lambda: bool(collector.requests()), 5)
    assert set(found.values()) == {collector.requests()[0].trace_id.hex()}


def test_without_a_collector_speech_goes_on(start, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    server = start(server=ServerSettings(traces="http://127.0.0.1:9"))
    assert server.speak().status_code == 200


def test_stages_that_are_not_known_are_left_out():
    timeline = Timeline()
    for moment in ("read", "heard", "encoded", "sent"):  # from the cache
        timeline.mark(moment)
    assert [name for name, *_ in timeline.stages()] == ["prepare", "encode", "send"]
    assert Tracer(None).begin("/v1/audio/speech", "POST", {}).exemplar() is None


def test_the_extra_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry", None)
    with pytest.raises(SettingsError, match=r"server\.traces.*qtts-openai\[otel\]"):
        Tracer("http://127.0.0.1:4318")
