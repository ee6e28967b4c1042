"""POST /v1/audio/verify where nothing is signed; tests/provenance has the rest."""

import importlib.util
import json

import pytest

from qtts_openai.__main__ import main
from qtts_openai.provenance.verifying import EXIT_STATUS
from qtts_openai.settings import Limits, ProvenanceSettings
from tests.api.speech.test_marks import WITH_A_PLACE
from tests.api.test_speech import assert_envelope

HAS_EXTRA = importlib.util.find_spec("c2pa") is not None


def verify(server, data: bytes, **files):
    files = {"file": data, **files}
    return server.http.post(
        "/audio/verify", files={name: ("x", sent) for name, sent in files.items()}
    )


@pytest.mark.parametrize("audio_format", ["mp3", "opus", "flac", "wav", "aac", "pcm"])
def test_the_route_and_the_command_find_the_mark(server, tmp_path, capsys, audio_format):
    data = server.speak(response_format=audio_format, stream=False).content
    answer = verify(server, data)
    found = answer.json()
    is_marked = audio_format in WITH_A_PLACE
    assert found["verdict"] == ("right" if is_marked else "nothing")
    assert found["findings"][0]["verdict"] == ("present" if is_marked else "absent")
    (tmp_path / "x").write_bytes(data)
    if is_marked:
        assert main(["verify", str(tmp_path / "x"), "--json"]) == 0
    else:
        with pytest.raises(SystemExit) as status:
            main(["verify", str(tmp_path / "x"), "--json"])
        assert status.value.code == EXIT_STATUS["nothing"] == 3
    assert json.loads(capsys.readouterr().out) == found


@pytest.mark.parametrize("data", [b"", b"x", b"ID3" + b"\xff" * 5000, b"RIFF" + b"\0" * 99])
def test_any_bytes_get_an_answer(server, data):
    found = verify(server, data, manifest=b"{}").json()
    assert found["verdict"] in ("nothing", "wrong")
    assert [one["what"] for one in found["findings"]] == ["mark", "c2pa", "statement"]
    if HAS_EXTRA:
        assert found["findings"][2]["verdict"] == "invalid"
    else:
        assert found["findings"][2]["verdict"] == "unchecked"


def test_what_cannot_be_examined_is_a_400_that_names_the_field(server):
    missing = server.http.post("/audio/verify", files={"manifest": ("m", b"{}")})
    assert_envelope(missing, 400, "file", "missing_required_parameter")
    as_text = server.http.post("/audio/verify", data={"file": "abc"}, files={"a": b""})
    assert_envelope(as_text, 400, "file")
    assert_envelope(verify(server, b"x", manifest=b"\xff\xfe"), 400, "manifest")
    assert_envelope(verify(server, b"x", root=b"junk"), 400, "root")
    broken = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    if HAS_EXTRA:
        assert_envelope(verify(server, b"x", root=broken), 400, "root")
    assert server.http.post("/audio/verify", json={"file": "x"}).status_code == 400


def test_the_body_is_bounded(start):
    server = start(limits=Limits(max_body_bytes=300_000))
    assert verify(server, b"x" * 250_000).status_code == 200
    assert_envelope(verify(server, b"x" * 400_000), 413, code="body_too_large")


def test_a_server_trusts_the_last_of_its_own_certificates(tmp_path):
    from qtts_openai.routes.verify import _own_root

    begin, end = "-----BEGIN CERTIFICATE-----\n", "-----END CERTIFICATE-----\n"
    path = tmp_path / "c.pem"
    path.write_text(f"{begin}AA\n{end}{begin}BB\n{end}")
    assert _own_root(str(path)) == f"{begin}BB\n{end}"
    assert _own_root(ProvenanceSettings().certificate) == ""
