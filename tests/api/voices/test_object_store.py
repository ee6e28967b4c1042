"""Voices in a bucket: moto's S3 server on 127.0.0.1, two stores that are two servers."""

import hashlib
import json
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest

from engine import ReferenceAudio
from qtts_openai.errors import ApiError
from qtts_openai.http.callers import ANONYMOUS
from qtts_openai.settings import SettingsError
from qtts_openai.voices import object_store as module
from qtts_openai.voices.object_store import Bucket
from qtts_openai.voices.store import VoiceStore
from tests.api.voices.test_store_on_disk import (
    SAMPLE,
    add,
    assert_whole,
    describe,
    listed,
    race_for_a_name_and_the_last_place,
    race_for_a_new_name,
)
from tests.api.voices.test_voice_store import CLIP, CONSENT

pytestmark = pytest.mark.process
ROOT = Path(__file__).parents[3]
# One request after the other: moto looks at If-Match and writes in two steps, so of two writers at
# once both may win, which no bucket allows. What a server of threads loses is not ours.
MOTO = """
import sys
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple

app = DomainDispatcherApplication(create_backend_app)
run_simple("127.0.0.1", int(sys.argv[1]), app, threaded=False)
"""


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    pytest.importorskip("moto.server")
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    command = [sys.executable, "-c", MOTO, str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            with suppress(httpx.TransportError):
                httpx.get(url)
                break
            time.sleep(0.1)
        yield url
    finally:
        process.kill()
        process.wait(10)


@pytest.fixture
def bucket(s3, monkeypatch) -> str:
    environment = {
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_REGION": "us-east-1",
    }
    for name, value in (environment | {"AWS_ENDPOINT_URL": s3}).items():
        monkeypatch.setenv(name, value)
    name = f"b{random.randrange(10**9)}"
    httpx.put(f"{s3}/{name}").raise_for_status()
    return f"s3://{name}/some/prefix"


def store_in(bucket: str, max_voices: int = 10) -> VoiceStore:
    return VoiceStore(Path("unused"), max_voices, object_store=bucket)


def objects(store: VoiceStore) -> set[str]:
    import obstore

    return {one["path"] for page in obstore.list(store.database.objects) for one in page}


def test_what_one_server_makes_the_other_has_on_a_miss_at_once(bucket):
    first, second = store_in(bucket), store_in(bucket)
    assert listed(second) == []
    voice = add(first)
    assert second.find("a", ANONYMOUS) == voice and second.find(voice.id, ANONYMOUS) == voice
    assert second.reference(voice) == SAMPLE
    second.delete_voice("a", ANONYMOUS)
    assert first.find("a", ANONYMOUS) is None or listed(first) == [voice.id]
    with pytest.raises(ApiError) as caught:
        first.reference(voice)
    assert caught.value.status == 400, "deleted, not damaged"
    assert objects(first) == {"records.json"}


def test_lists_are_fresh_after_a_moment_and_kept_until_then(bucket, monkeypatch):
    monkeypatch.setattr(module, "FRESH_S", 60.0)
    first, second = store_in(bucket), store_in(bucket)
    voice = add(first)
    assert second.find("a", ANONYMOUS) == voice and listed(second) == [voice.id]
    fetched = []
    fetch = Bucket._fetch
    monkeypatch.setattr(Bucket, "_fetch", lambda *a: fetched.append(1) or fetch(*a))
    for _ in range(20):
        assert second.find("a", ANONYMOUS) == voice
    assert not fetched
    first.delete_voice("a", ANONYMOUS)
    monkeypatch.setattr(module, "FRESH_S", 0.0)
    assert listed(second) == [] and second.find("a", ANONYMOUS) is None


def test_of_many_at_once_one_gets_the_name_and_the_last_place(bucket):
    race_for_a_name_and_the_last_place([store_in(bucket, 1) for _ in range(6)])


def test_a_new_name_is_seen_by_the_other_at_once_and_taken_once(bucket):
    first, second = store_in(bucket), store_in(bucket)
    voice = add(first)
    assert second.find("a", ANONYMOUS) == voice
    renamed = first.rename_voice("a", "b", ANONYMOUS)
    assert second.find("b", ANONYMOUS) == renamed and second.reference(renamed) == SAMPLE
    assert second.find("a", ANONYMOUS) is None and renamed.id == voice.id
    first.delete_voice("b", ANONYMOUS)
    race_for_a_new_name([store_in(bucket) for _ in range(6)])


def test_no_change_of_many_at_once_is_lost(bucket):
    stores = [store_in(bucket, 100) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        voices = list(pool.map(lambda i: add(stores[i % 4], f"v{i}"), range(24)))
    fresh = store_in(bucket)
    assert sorted(listed(fresh)) == sorted(voice.id for voice in voices)
    assert_whole(fresh)


def test_the_first_utterance_stays_where_two_servers_make_one(bucket, monkeypatch):
    first, second = store_in(bucket), store_in(bucket)
    voice = describe(first)
    other = ReferenceAudio(hashlib.sha256(b"1234").hexdigest(), b"1234")
    kept = first.keep_utterance(voice, SAMPLE, "words")
    assert kept is not None and second.keep_utterance(voice, other, "others") == kept
    assert second.reference(kept) == SAMPLE
    late = describe(first, "late")

    def slow(store, audio):
        return store.keep_utterance(late, audio, "words")

    replace = Bucket._replace
    monkeypatch.setattr(Bucket, "_replace", lambda *a: (time.sleep(0.2), replace(*a)))
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(slow, (first, second), (SAMPLE, other)))
    assert results[0] == results[1] and second.reference(results[0]) in (SAMPLE, other)


def test_withdrawing_a_consent_is_one_change(bucket):
    first, second = store_in(bucket), store_in(bucket)
    consent = first.add_consent("Anna", "en", b"recording", None)
    voice = first.new_voice("a", None, type="prompt", prompt="x", consent=consent.id)
    second.add(voice)
    with pytest.raises(ApiError) as caught:
        first.delete_consent(consent.id, ANONYMOUS, cascade=False)
    assert caught.value.status == 409
    first.delete_consent(consent.id, ANONYMOUS, cascade=True)
    with pytest.raises(ApiError):
        second.rename_consent(consent.id, "Otto", ANONYMOUS)
    assert store_in(bucket).visible(ANONYMOUS)[0].disabled


def test_a_start_removes_old_bytes_of_no_record_and_leaves_young_ones(bucket, monkeypatch):
    import obstore

    store = store_in(bucket)
    add(store)
    obstore.put(store.database.objects, "voices/voice_1.bin", b"orphan")
    assert "voices/voice_1.bin" in objects(store_in(bucket))
    monkeypatch.setattr(module, "ORPHANS_AFTER_S", -1)
    again = store_in(bucket)
    assert "voices/voice_1.bin" not in objects(again) and len(objects(again)) == 2
    assert_whole(again)


def test_a_bucket_that_cannot_be_reached_keeps_nothing_from_starting(monkeypatch, bucket, caplog):
    monkeypatch.setattr(module, "_RETRIES", {"max_retries": 0})
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    store = store_in(bucket)
    assert "cannot be used" in caplog.text
    with pytest.raises(ApiError) as caught:
        add(store)
    assert caught.value.status == 507 and caught.value.code == "storage_failed"
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"qtts-openai\[objects\]"):
        store_in(bucket)


# ---- two servers, each a process ----


def begin(settings: dict[str, object], tokenizer: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "tests.api.fake_server", str(tokenizer), json.dumps(settings)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


@pytest.fixture(params=["directory", "bucket"])
def pair(request, tokenizer_dir, tmp_path) -> Iterator[list[httpx.Client]]:
    voices: dict[str, object] = {"directory": str(tmp_path), "max_voices": 1000}
    if request.param == "bucket":
        voices["object_store"] = request.getfixturevalue("bucket")
    processes = [begin({"voices": voices}, tokenizer_dir) for _ in range(2)]
    try:
        urls = [process.stdout.readline().strip() for process in processes]
        with ExitStack() as stack:
            clients = (httpx.Client(base_url=f"{url}/v1/audio", timeout=30) for url in urls)
            yield [stack.enter_context(client) for client in clients]
    finally:
        for process in processes:
            process.kill()
            process.communicate(timeout=10)


class Mixed:
    """Creates, deletes and speeches; each voice is made by one server and used by the other."""

    def __init__(self, pair: list[httpx.Client]) -> None:
        self.pair = pair
        self.alive: set[str] = set()

    def run(self, number: int) -> None:
        one, other = self.pair[number % 2], self.pair[(number + 1) % 2]
        files = {"audio_sample": ("a.wav", CLIP, "audio/wav")}
        made = one.post("/voices", data={"name": f"v{number}", "consent": CONSENT}, files=files)
        assert made.status_code == 200, made.text
        id_ = made.json()["id"]
        spoken = other.post("/speech", json={"model": "tts-1", "voice": id_, "input": "Hi."})
        assert spoken.status_code == 200, f"lost: {spoken.text}"
        if number % 3:
            self.alive.add(id_)
            return
        assert other.delete(f"/voices/{id_}").status_code == 200
        again = one.delete(f"/voices/{id_}")
        assert again.status_code == 404, "a ghost"


@pytest.mark.parametrize(
    "count", [12, pytest.param(334, marks=[pytest.mark.attack, pytest.mark.slow])]
)
def test_two_servers_lose_no_voice_and_keep_no_ghost(pair, count):
    mixed = Mixed(pair)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(mixed.run, range(count)))
    time.sleep(module.FRESH_S + 0.1)
    for client in pair:
        listing = client.get("/voices").json()["voices"]
        stored = {voice["id"] for voice in listing if voice["id"].startswith("voice_")}
        assert stored == mixed.alive
