"""Hosts and origins of a server without keys."""

import pytest

from qtts_openai.errors import ApiError
from qtts_openai.http.bounds import plain_path
from qtts_openai.http.origins import OriginPolicy
from qtts_openai.settings import Limits, ServerSettings, SettingsError
from qtts_openai.settings_file import parse_settings

HOST = "127.0.0.1:8000"


def passes(policy: OriginPolicy, method="POST", host=HOST, origin=None) -> bool:
    try:
        policy.check(method, host, origin)
    except ApiError as error:
        assert error.status == 403 and "server." in error.message
        return False
    return True


@pytest.mark.parametrize(
    ("origin", "ok"),
    [
        (None, True),
        ("http://127.0.0.1:8000", True),
        ("HTTP://127.0.0.1:8000", True),
        ("app://obsidian.md", True),
        ("tauri://localhost", True),
        ("chrome-extension://abcdef", True),
        ("null", False),
        ("file://", False),
        ("", False),
        ("https://evil.example", False),
        ("http://127.0.0.1:8001", False),
        ("http://localhost:8000", False),
        ("https://127.0.0.1:8000.evil.example", False),
    ],
)
def test_origins_of_a_post(origin, ok):
    policy = OriginPolicy(ServerSettings(), is_keyless=True)
    assert passes(policy, origin=origin) is ok
    assert passes(policy, "DELETE", origin=origin) is ok
    assert passes(policy, "GET", origin=origin), "the browser keeps the answer to itself"
    assert passes(OriginPolicy(ServerSettings(), is_keyless=False), origin=origin)


def test_default_ports_and_allowed_origins():
    policy = OriginPolicy(ServerSettings(cors_origins=("https://page.example/",)), True)
    assert passes(policy, origin="https://page.example")
    assert not passes(policy, origin="https://page.example.org")
    open_policy = OriginPolicy(ServerSettings(host="0.0.0.0"), True)
    assert passes(open_policy, host="tts.example.com", origin="https://tts.example.com")
    assert passes(open_policy, host="tts.example.com:443", origin="https://tts.example.com")
    assert not passes(open_policy, host="tts.example.com", origin="http://tts.example.com:81")
    assert passes(
        OriginPolicy(ServerSettings(cors_origins=("*",)), True), origin="https://any.example"
    )


@pytest.mark.parametrize(
    ("host", "ok"),
    [
        (None, True),
        ("127.0.0.1:8000", True),
        ("[::1]:8000", True),
        ("192.168.1.5", True),
        ("localhost:8000", True),
        ("app.localhost", True),
        ("qtts:8000", True),
        ("LOCALHOST.", True),
        ("evil.example", False),
        ("evil.example:8000", False),
        ("127.0.0.1.evil.example", False),
        ("[::1", True),
    ],
)
def test_hosts_of_a_keyless_loopback_server(host, ok):
    assert passes(OriginPolicy(ServerSettings(), True), "GET", host) is ok
    assert passes(OriginPolicy(ServerSettings(), False), "GET", host)
    assert passes(OriginPolicy(ServerSettings(host="0.0.0.0"), True), "GET", host)


def test_hosts_that_are_named():
    named = ServerSettings(host="0.0.0.0", allowed_hosts=("tts.example.com", "*.example.org"))
    policy = OriginPolicy(named, is_keyless=False)
    for host in ("tts.example.com", "TTS.example.com:443", "a.example.org", "a.b.example.org"):
        assert passes(policy, "GET", host), host
    for host in ("example.com", "example.org", "xexample.org", "evil.example"):
        assert not passes(policy, "GET", host), host
    assert passes(OriginPolicy(ServerSettings(allowed_hosts=("*",)), True), "GET", "evil.example")


def test_on_the_wire(server, start, monkeypatch):
    body = {"model": "tts-1", "voice": "alloy", "input": "Hi."}
    evil = {"origin": "https://evil.example", "content-type": "text/plain"}
    for path in ("/audio/speech", "/audio/voices"):
        answer = server.http.post(path, json=body, headers=evil)
        assert answer.status_code == 403 and answer.json()["error"]["code"] == "origin_not_allowed"
        assert answer.headers["x-request-id"]
    assert server.http.delete("/audio/voices/x", headers=evil).status_code == 403
    rebound = server.http.get("/audio/voices", headers={"host": "evil.example"})
    assert rebound.status_code == 403
    monkeypatch.setenv("QTTS_API_KEYS", "key")
    keyed = start()
    headers = {**evil, "authorization": "Bearer key"}
    assert keyed.http.post("/audio/speech", json=body, headers=headers).status_code == 200


# M11: forwarded addresses


def test_forwarded_addresses_are_believed_from_named_proxies_only(start):
    limits = Limits(chars_per_minute=30)

    def statuses(server) -> list[int]:
        return [
            server.http.post(
                "/audio/speech",
                json={"model": "tts-1", "voice": "alloy", "input": "x" * 20},
                headers={"x-forwarded-for": f"203.0.113.{i}"},
            ).status_code
            for i in range(4)
        ]

    assert 429 in statuses(start(limits=limits))
    trusting = start(server=ServerSettings(trusted_proxies=("127.0.0.0/8",)), limits=limits)
    assert statuses(trusting) == [200] * 4
    with pytest.raises(SettingsError, match=r"server\.trusted_proxies"):
        parse_settings("server: {trusted_proxies: [proxy.example]}")


def test_paths_as_the_router_reads_them():
    assert plain_path("//v1//audio/speech/") == "/v1/audio/speech"
    assert plain_path("/") == plain_path("//") == "/"
