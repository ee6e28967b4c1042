"""Signed answers: read back by C2PA's reader, and false where one byte differs."""

import base64
import io
import json
import time
from typing import get_args

import httpx
import pytest
import soundfile

from qtts_openai.__main__ import main
from qtts_openai.provenance.policy import Signing
from qtts_openai.schemas import AudioFormat, SpeechRequest
from qtts_openai.settings import AuthSettings, ProvenanceSettings, SettingsError
from tests.api.test_speech import assert_envelope, read_events

pytestmark = pytest.mark.provenance

FORMATS = get_args(AudioFormat)
SIGNED = ("mp3", "wav", "flac")
TEXT = "A secret sentence."


def examine(data: bytes, keys, statement: bytes | None = None) -> dict[str, str]:
    from qtts_openai.provenance.verifying import examine

    found = examine(data, statement, (keys / "root.pem").read_bytes())
    return {finding.what: finding.verdict for finding in found.findings}


def manifest(server, answer) -> httpx.Response:
    return server.http.get(f"/audio/speech/{answer.headers['x-request-id']}/manifest")


@pytest.mark.parametrize("audio_format", SIGNED)
def test_a_whole_file_holds_a_manifest(server, keys, audio_format):
    data = server.speak(input=TEXT, response_format=audio_format, stream=False).content
    assert examine(data, keys) == {"mark": "present", "c2pa": "valid"}
    assert len(soundfile.read(io.BytesIO(data))[0]) > 5000
    for at in (len(data) // 2, len(data) * 3 // 5):
        changed = bytearray(data)
        changed[at] ^= 1
        assert examine(bytes(changed), keys)["c2pa"] == "invalid"


@pytest.mark.parametrize("audio_format", SIGNED)
def test_what_the_manifest_says(server, audio_format):
    import c2pa

    answer = server.speak(input=TEXT, response_format=audio_format, stream=False)
    with c2pa.Reader(answer.headers["content-type"], io.BytesIO(answer.content)) as reader:
        active = reader.get_active_manifest()
    said = json.dumps(active)
    created = active["assertions"][0]["data"]["actions"][0]
    assert created["action"] == "c2pa.created"
    assert created["digitalSourceType"].endswith("trainedAlgorithmicMedia")
    assert created["softwareAgent"]["name"] == "Qwen/custom"
    assert "org.qtts.settings" in said and "qtts-openai" in said
    assert TEXT not in said and "alloy" not in said and "anonymous" not in said


@pytest.mark.parametrize("sse", [False, True])
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("audio_format", FORMATS)
def test_every_answer_has_a_statement(server, keys, audio_format, stream, sse):
    fields = {"stream_format": "sse"} if sse else {"stream": stream}
    answer = server.speak(input=TEXT, response_format=audio_format, **fields)
    data = answer.content
    if sse:
        deltas = read_events(answer.text)[:-1]
        data = b"".join(base64.b64decode(event["audio"]) for event in deltas)
    found = manifest(server, answer)
    assert found.headers["content-type"].startswith("application/jose+json")
    assert examine(data, keys, found.content)["statement"] == "valid"
    assert examine(data + b"\0", keys, found.content)["statement"] == "invalid"
    payload = found.json()["payload"]
    said = json.loads(base64.urlsafe_b64decode(payload + "=="))
    assert said["num_bytes"] == len(data) and said["model"] == "Qwen/custom"
    assert abs(said["created_at"] - time.time()) < 60
    assert not {"input", "voice", "text"} & said.keys()


@pytest.mark.parametrize("field", ["payload", "signature", "protected"])
def test_a_changed_statement_is_invalid(server, keys, field):
    answer = server.speak(response_format="opus")
    statement = manifest(server, answer).json()
    text = statement[field]
    statement[field] = text[:30] + ("A" if text[30] != "A" else "B") + text[31:]
    found = examine(answer.content, keys, json.dumps(statement).encode())
    assert found["statement"] == "invalid"
    for bad in (b"", b"{}", b"[]", b'{"payload": 1}', b"\xff"):
        assert examine(answer.content, keys, bad)["statement"] == "invalid"


def test_a_stranger_to_the_root_is_untrusted(server, tmp_path):
    from qtts_openai.provenance.keys import create_keys

    create_keys(tmp_path / "other", "Somebody")
    answer = server.speak(stream=False)
    found = examine(answer.content, tmp_path / "other", manifest(server, answer).content)
    assert found == {"mark": "present", "c2pa": "untrusted", "statement": "untrusted"}


@pytest.mark.parametrize("kind", ["wav", "mp3"])
def test_text_that_comes_line_by_line_has_a_statement(server, keys, kind):
    lines = [{"model": "tts-1", "voice": "alloy", "response_format": kind}, {"text": "Hello you."}]
    content = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    headers = {"content-type": "application/x-ndjson"}
    answer = server.http.post("/audio/speech", content=content, headers=headers)
    found = examine(answer.content, keys, manifest(server, answer).content)
    assert found["statement"] == "valid" and answer.headers["x-synthetic-speech"]


def test_a_manifest_is_its_callers(start, provenance, tmp_path):
    (tmp_path / "keys").write_text("one: key-one\ntwo: key-two\n")
    auth = AuthSettings(keys_file=str(tmp_path / "keys"))
    server = start(provenance=provenance(), auth=auth)
    server.http.headers["authorization"] = "Bearer key-one"
    server.http.headers["x-request-id"] = "ab:c"
    answer = server.speak(response_format="opus")
    del server.http.headers["x-request-id"]
    assert manifest(server, answer).status_code == 200
    server.http.headers["authorization"] = "Bearer key-two"
    assert_envelope(manifest(server, answer), 404, "request_id", "manifest_not_found")
    del server.http.headers["authorization"]
    assert manifest(server, answer).status_code == 401


def test_manifests_are_bounded_in_number_and_time():
    from qtts_openai.provenance.signing import Statements

    now = 0.0
    kept = Statements(2, 10.0, lambda: now)
    for at, name in enumerate("abca"):
        now = float(at)
        kept.put("me", name, name.encode())
    assert [kept.get("me", name) for name in "abc"] == [b"a", None, b"c"]
    assert kept.get("you", "a") is None
    now = 12.5
    assert (kept.get("me", "c"), kept.get("me", "a")) == (None, b"a")
    now = 13.0
    assert kept.get("me", "a") is None and len(kept) == 0


def test_a_broken_answer_has_no_statement(server):
    from engine import FinishReason

    server.engine.end_reason = FinishReason.ERROR
    with pytest.raises(httpx.RemoteProtocolError):
        server.http.headers["x-request-id"] = "broken-1"
        server.speak(response_format="pcm")
    del server.http.headers["x-request-id"]
    found = server.http.get("/audio/speech/broken-1/manifest")
    assert_envelope(found, 404, "request_id", "manifest_not_found")


def test_where_it_is_off_there_is_none(start):
    answer = (server := start()).speak()
    assert_envelope(manifest(server, answer), 404, "request_id", "manifest_not_found")
    assert server.http.get("/audio/speech/x/other").status_code == 404


def test_the_digest_tells_settings_apart_and_no_texts():
    from qtts_openai.provenance.signing import digest_of

    base = SpeechRequest(input="One.", voice="alloy")
    assert digest_of("m", base) == digest_of("m", SpeechRequest(input="Two.", voice="ash"))
    assert digest_of("m", base) != digest_of("m", SpeechRequest(input="One.", speed=2.0))
    assert digest_of("m", base) != digest_of("n", base)


# ---- keys and commands ----


def test_keys_are_private_and_never_replaced(keys):
    from qtts_openai.provenance.keys import create_keys

    assert (keys / "key.pem").stat().st_mode & 0o077 == 0
    before = (keys / "key.pem").read_bytes()
    with pytest.raises(FileExistsError):
        create_keys(keys, "Example")
    assert (keys / "key.pem").read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"key": None}, "provenance.key"),
        ({"certificate": None}, "provenance.certificate"),
        ({"key": "/nowhere/key.pem"}, "provenance.key"),
        ({"certificate": "/nowhere/c.pem"}, "provenance.certificate"),
        ({"certificate": "key.pem"}, "provenance.certificate"),
        ({"key": "root.pem"}, "provenance.key"),
        ({"certificate": "root.pem"}, "provenance.certificate"),
    ],
    ids=str,
)
def test_keys_that_cannot_sign_keep_the_server_from_starting(keys, changes, key):
    paths = {"certificate": "certificate.pem", "key": "key.pem", **changes}
    full = {name: value and str(keys / value) for name, value in paths.items()}
    with pytest.raises(SettingsError) as error:
        Signing(ProvenanceSettings(c2pa=True, **full))
    assert error.value.key == key


def test_verify_says_it_in_words_and_as_json(server, keys, tmp_path, capsys):
    answer = server.speak(stream=False)
    file, statement = tmp_path / "x.mp3", tmp_path / "x.json"
    file.write_bytes(answer.content)
    statement.write_bytes(manifest(server, answer).content)
    command = ["verify", str(file), "--manifest", str(statement), "--root", str(keys / "root.pem")]
    assert main(command) == 0
    assert "c2pa       valid" in capsys.readouterr().out
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["findings"]
    assert [one["what"] for one in found][:3] == ["mark", "c2pa", "statement"]
    file.write_bytes(answer.content[:-1] + b"!")
    with pytest.raises(SystemExit) as status:
        main(command)
    assert status.value.code == 4
    file.write_bytes(b"nothing")
    with pytest.raises(SystemExit) as status:
        main(["verify", str(file)])
    assert status.value.code == 3


def test_keys_create(tmp_path, capsys):
    assert main(["keys", "create", str(tmp_path / "k"), "--organisation", "Me"]) == 0
    assert len(capsys.readouterr().out.split()) == 3
    assert main(["keys", "create", str(tmp_path / "k")]) == 1


# ---- over HTTP ----


def verify(server, data: bytes, **files) -> dict:
    files = {name: ("x", sent) for name, sent in {"file": data, **files}.items()}
    answer = server.http.post("/audio/verify", files=files)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    verdicts = {one["what"]: one["verdict"] for one in found["findings"]}
    return {"verdict": found["verdict"], **verdicts}


@pytest.mark.parametrize("audio_format", SIGNED)
def test_the_route_reads_signatures_in_its_sandbox(server, start, keys, tmp_path, audio_format):
    from qtts_openai.provenance.keys import create_keys

    answer = server.speak(response_format=audio_format, stream=False)
    statement, data = manifest(server, answer).content, answer.content
    right = {"verdict": "right", "mark": "present", "c2pa": "valid", "statement": "valid"}
    assert verify(server, data, manifest=statement) == right  # by the server's own certificates
    changed = bytearray(data)
    changed[len(data) // 2] ^= 1
    wrong = right | {"verdict": "wrong", "c2pa": "invalid", "statement": "invalid"}
    assert verify(server, bytes(changed), manifest=statement) == wrong
    stranger = start()
    untrusted = right | {"c2pa": "untrusted", "statement": "untrusted"}
    assert verify(stranger, data, manifest=statement) == untrusted
    root = (keys / "root.pem").read_bytes()
    assert verify(stranger, data, manifest=statement, root=root) == right
    create_keys(tmp_path / "other", "Somebody")
    root = (tmp_path / "other" / "root.pem").read_bytes()
    assert verify(server, data, manifest=statement, root=root) == untrusted


def test_no_manifest_is_fetched_from_where_a_file_says(keys):
    """A file without a manifest that names one elsewhere: nobody asks for it."""
    import socket

    import c2pa

    from qtts_openai.provenance.keys import load_credentials
    from qtts_openai.speech.encoders import AudioEncoder

    encoder = AudioEncoder("wav")
    plain = encoder.with_exact_sizes(encoder.encode(b"\1\0" * 24000) + encoder.flush())
    credentials = load_credentials(str(keys / "certificate.pem"), str(keys / "key.pem"))
    chain, key = credentials.chain_pem(), credentials.key_pem()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/manifest"
        signed = io.BytesIO()
        actions = {"actions": [{"action": "c2pa.created", "digitalSourceType": "x"}]}
        made = {"assertions": [{"label": "c2pa.actions.v2", "data": actions}]}
        info = c2pa.C2paSignerInfo(b"es256", chain, key, None)
        with c2pa.Signer.from_info(info) as signer, c2pa.Builder(made) as builder:
            builder.set_no_embed()
            builder.set_remote_url(url)
            builder.sign(signer, "audio/wav", io.BytesIO(plain), signed)
        assert url.encode() in signed.getvalue()
        assert examine(signed.getvalue(), keys)["c2pa"] != "valid"
        listener.settimeout(0.2)
        with pytest.raises(TimeoutError):
            listener.accept()
