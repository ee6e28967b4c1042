"""What the page to try voices with needs no browser to show; tests/page has the rest."""

import base64
import hashlib
import re
import shutil
import subprocess

import httpx
import pytest

from qtts_openai.settings import ServerSettings


@pytest.fixture(scope="module")
def answer(shared_servers) -> httpx.Response:
    return httpx.get(f"{shared_servers['custom'].url}/")


def test_it_is_served_under_both_paths(server, answer):
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    studio = httpx.get(f"{server.url}/studio")
    assert studio.content == answer.content and studio.headers["content-security-policy"]
    assert httpx.head(f"{server.url}/").status_code == 200


def test_the_policy_lets_nothing_run_but_its_own_script_and_style(answer):
    policy = dict(
        rule.split(" ", 1) for rule in answer.headers["content-security-policy"].split("; ")
    )
    assert policy["default-src"] == "'none'" and policy["connect-src"] == "'self'"
    for tag in ("script", "style"):
        blocks = re.findall(f"<{tag}[^>]*>(.*?)</{tag}>", answer.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(blocks[0].encode()).digest()).decode()
        assert len(blocks) == 1 and policy[f"{tag}-src"] == f"'sha256-{digest}'"
    assert not re.search(r"<[^>]*\s(?:style|on\w+)=", answer.text.split("<script>")[0])


def test_it_asks_no_other_host_and_nothing_by_an_absolute_path(answer):
    urls = set(re.findall(r"(?:https?:)?//[\w.-]+\.[a-z]{2,}[^\s\"'`<]*", answer.text))
    assert urls <= {"http://www.w3.org/2000/svg"}, "but for the name of SVG"
    assert not re.search(r"""(?:src|href)=["']?/|(?:getJson|call|postJson)\(.?/""", answer.text)


def test_it_is_light(answer):
    assert len(answer.content) <= 150_000


def test_it_can_be_turned_off(start):
    url = start(server=ServerSettings(page=False)).url
    assert {httpx.get(f"{url}{path}").status_code for path in ("/", "/studio")} == {404}


def test_it_needs_no_key_but_its_requests_do(start, monkeypatch):
    monkeypatch.setenv("QTTS_API_KEYS", "secret-key")
    url = start().url
    assert httpx.get(f"{url}/").status_code == 200
    assert httpx.get(f"{url}/v1/models").status_code == 401


def test_its_own_requests_pass_the_checks_of_host_and_origin(server):
    body = {"model": "tts-1", "voice": "alloy", "input": "Hi."}
    for origin, status in ((server.url, 200), ("https://evil.example", 403)):
        answer = httpx.post(
            f"{server.url}/v1/audio/speech", json=body, headers={"origin": origin}, timeout=20
        )
        assert answer.status_code == status


BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def test_a_browser_fills_it_from_the_api(shared_servers, tmp_path):
    """Where a browser is found: its script runs and what it shows came from the server."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("no Chromium is installed; make page has the rest")
    flags = ("--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=10000")
    done = subprocess.run(
        [found, *flags, f"--user-data-dir={tmp_path}", "--dump-dom", shared_servers["custom"].url],
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert re.search(r'<input[^>]*name="voice"[^>]*value="vivian"', done.stdout), done.stderr[
        -2000:
    ]
