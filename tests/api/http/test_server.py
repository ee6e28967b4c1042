"""Discovery, health, metrics and keys."""

import openai
import pytest

from engine import QueueFullError
from tests.api.test_speech import assert_envelope


def test_health_and_metrics(server):
    health = server.http.get(f"{server.url}/health")
    assert health.status_code == 200
    assert health.json()["status"] == "ready"
    server.speak()
    text = server.http.get(f"{server.url}/metrics").text
    assert 'qtts_http_requests_total{method="POST",route="/v1/audio/speech",status="200"}' in text
    assert "qtts_engine_num_places" in text and "qtts_ttfa_seconds_bucket" in text


def test_health_is_503_while_the_engine_is_not_ready(server):
    server.engine.status = "restarting"
    try:
        assert server.http.get(f"{server.url}/health").status_code == 503
    finally:
        server.engine.status = "ready"


def test_routes_that_make_clients_take_us_for_another_server_do_not_exist(server):
    for path in ("/v1/test", "/v1/readyz"):
        assert_envelope(server.http.get(f"{server.url}{path}"), 404)


@pytest.fixture
def keyed(start, monkeypatch, tmp_path):
    from qtts_openai.settings import AuthSettings

    (tmp_path / "keys").write_text("# a comment\nfrom-file\n\n")
    monkeypatch.setenv("QTTS_API_KEYS", "one, two")
    return start(auth=AuthSettings(keys_file=str(tmp_path / "keys")))


def test_keys(keyed):
    assert_envelope(keyed.speak(), 401, None, None)
    for header in ("Bearer", "Basic one", "one"):
        keyed.http.headers["authorization"] = header
        assert_envelope(keyed.speak(), 401)
    for wrong in ("Bearer three", "Bearer one, two", "Bearer \xe9"):
        answer = keyed.http.get("/models", headers={"authorization": wrong.encode("latin-1")})
        assert_envelope(answer, 401, None, "invalid_api_key")
        assert "one" not in answer.text.replace("None", "")
    for key in ("one", "two", "from-file"):
        keyed.http.headers["authorization"] = f"Bearer {key}"
        assert keyed.speak().status_code == 200
        assert keyed.http.get("/models").status_code == 200
    with keyed.openai(api_key="bad") as client, pytest.raises(openai.AuthenticationError):
        client.models.list()


def test_refusals_are_counted_by_their_reason(keyed):
    keyed.speak()
    keyed.http.get("/models", headers={"authorization": "Bearer wrong"})
    keyed.http.headers["authorization"] = "Bearer one"
    keyed.engine.submit_error = QueueFullError("full", 1)
    keyed.speak()
    text = keyed.http.get(f"{keyed.url}/metrics").text
    for reason in ("no_key", "invalid_api_key", "queue_full"):
        assert f'qtts_refused_total{{reason="{reason}"}} 1.0' in text


def test_discovery_is_open(keyed):
    voices = keyed.http.get("/audio/voices").json()["voices"]
    assert all(isinstance(voice["id"], str) and isinstance(voice["name"], str) for voice in voices)
    assert keyed.http.get("/audio/models").json()["models"][0]["id"] == "Qwen/custom"
    assert keyed.http.get(f"{keyed.url}/health").status_code == 200


def test_cors_is_off_by_default_and_can_be_allowed(server, start):
    from qtts_openai.settings import ServerSettings

    origin = {"origin": "https://page.example"}
    assert "access-control-allow-origin" not in server.http.get("/models", headers=origin).headers
    open_to_pages = start(server=ServerSettings(cors_origins=("https://page.example",)))
    answer = open_to_pages.http.get("/models", headers=origin)
    assert answer.headers["access-control-allow-origin"] == "https://page.example"
