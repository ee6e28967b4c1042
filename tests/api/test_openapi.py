"""The OpenAPI document: that it is true, checked against the routes and, with schemathesis, against
answers.
"""

import re

import pytest

from qtts_openai.routes.openapi import document
from tests.api.conftest import BASE, CUSTOM, DESIGN

HIDDEN = {("get", path) for path in ("/openapi.json", "/docs", "/", "/studio")}


def test_it_lists_exactly_the_routes(server):
    app = server.uvicorn.config.app
    real = {
        (method.lower(), re.sub(r":\w+}", "}", route.path))
        for route in app.routes
        for method in route.methods - {"OPTIONS"}
    }
    told = {(method, path) for path, item in document()["paths"].items() for method in item}
    assert real - HIDDEN == told


def test_it_is_served_with_a_page(server):
    answer = server.http.get(f"{server.url}/openapi.json")
    assert answer.json() == document()
    page = server.http.get(f"{server.url}/docs")
    assert page.headers["content-type"].startswith("text/html") and "openapi.json" in page.text
    assert "<script" not in page.text and "//" not in page.text, "the page needs no network"
    for name in ("POST /v1/audio/speech", "SpeechRequest", "response_format", "(required)"):
        assert name in page.text


def test_optional_fields_may_be_null():
    schema = document()["components"]["schemas"]["SpeechRequest"]
    assert schema["required"] == ["input"]
    assert {"type": "null"} in schema["properties"]["speed"]["anyOf"]


@pytest.fixture
def quick(start):
    return start(models=(CUSTOM, DESIGN, BASE))


@pytest.mark.clients
def test_schemathesis_finds_no_5xx_and_no_surprise(quick):
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, Phase, given, settings
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_schema_conformance,
        status_code_conformance,
    )

    checks = [
        not_a_server_error,
        status_code_conformance,
        content_type_conformance,
        response_schema_conformance,
    ]
    schema = schemathesis.openapi.from_url(f"{quick.url}/openapi.json")
    for result in schema.get_all_operations():
        operation = result.ok()

        @settings(
            max_examples=60,
            deadline=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def probe(case):
            case.call_and_validate(checks=checks, timeout=20)

        probe()
