"""The OpenAPI document: that it is true, checked against the routes and, with schemathesis, against
answers.
"""

import re

import msgspec
import pytest

from qtts_openai.answers import ErrorAnswer, VoiceAnswer
from qtts_openai.routes.docs import document
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


def operations():
    for path, item in document()["paths"].items():
        for method, operation in item.items():
            yield f"{method} {path}", operation


def test_every_answer_is_described_by_a_struct():
    for name, operation in operations():
        for status, response in operation["responses"].items():
            for kind, media in response["content"].items():
                schema = media["schema"]
                if kind == "application/json":
                    refs = schema.get("oneOf", [schema])
                    assert all("$ref" in ref for ref in refs), (name, status, schema)
                else:
                    assert status == "200" and schema["type"] == "string", (name, status)


def test_every_error_has_an_example_that_is_one():
    for name, operation in operations():
        errors = {s: r for s, r in operation["responses"].items() if s >= "400"}
        assert {"400", "401", "403", "413"} <= errors.keys(), name
        for status, response in errors.items():
            media = response["content"]["application/json"]
            if not media["schema"]["$ref"].endswith("/ErrorAnswer"):
                assert name in ("get /ready", "get /health") and status == "503"
                continue
            shown = msgspec.convert(media["examples"]["one"]["value"], ErrorAnswer)
            assert shown.error.message


def test_answers_say_which_fields_are_always_there():
    schema = document()["components"]["schemas"]["VoiceAnswer"]
    optional = schema["properties"].keys() - set(schema["required"])
    assert {"id", "object", "models"} <= set(schema["required"])
    assert {"created_at", "prompt", "disabled"} <= optional
    bare = {"id": "a", "name": "a", "language": "Auto", "gender": "neutral", "description": ""}
    bare |= {"type": "speaker", "available": True, "models": [], "needs": []}
    written = msgspec.to_builtins(msgspec.convert(bare, VoiceAnswer))
    assert written.keys() == set(schema["required"])


def test_an_input_is_not_empty():
    field = document()["components"]["schemas"]["SpeechRequest"]["properties"]["input"]
    assert field["minLength"] == 1 and re.search(field["pattern"], " a")
    assert not re.search(field["pattern"], " \n ")


@pytest.mark.parametrize(
    ("path", "file", "is_needed"),
    [
        ("/v1/audio/voices", "audio_sample", False),
        ("/v1/audio/voice_consents", "recording", True),
    ],
)
def test_file_parts_are_binary(path, file, is_needed):
    content = document()["paths"][path]["post"]["requestBody"]["content"]
    _, upload = content["multipart/form-data"]["schema"]["allOf"]
    assert upload["properties"][file] == {"type": "string", "format": "binary"}
    assert (file in upload["required"]) is is_needed
    assert ("application/json" in content) is not is_needed, "JSON carries no file"


def test_a_query_that_does_not_fit_names_its_field(server):
    for query, param in (("limit=0", "limit"), ("limit=x", "limit")):
        answer = server.http.get(f"/audio/voice_consents?{query}")
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


@pytest.fixture
def quick(start):
    return start(models=(CUSTOM, DESIGN, BASE))


@pytest.mark.parametrize(
    "max_examples", [4, pytest.param(60, marks=pytest.mark.clients)], ids=["few", "many"]
)
def test_schemathesis_finds_no_5xx_and_no_surprise(quick, max_examples):
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
            max_examples=max_examples,
            deadline=None,
            phases=[Phase.explicit, Phase.generate],
            derandomize=max_examples < 10,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def probe(case):
            case.call_and_validate(checks=checks, timeout=20)

        probe()
