"""Voices and consents in one file: out and in again, and what an archive cannot do."""

import hashlib
import json
import shutil
import zipfile
from pathlib import Path

import pytest

from qtts_openai.__main__ import main
from qtts_openai.errors import ApiError
from qtts_openai.http.callers import ANONYMOUS
from qtts_openai.voices.archive import read_archive, write_archive
from qtts_openai.voices.store import VoiceStore

SAMPLE = b"\0\0\x80\x3e" * 12_000


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """full: the store of the fixture of that name; mine: one with a voice; all.zip: the former."""
    folder = tmp_path_factory.mktemp("made")
    write_archive(_full(folder / "full"), folder / "all.zip", [])
    mine = VoiceStore(folder / "mine", 10)
    mine.add(mine.new_voice("Mine", None, type="prompt", prompt="x", seed=1))
    return folder


@pytest.fixture
def full(made, tmp_path) -> VoiceStore:
    """A consent with a voice, a described voice, and one whose consent was withdrawn."""
    return VoiceStore(shutil.copytree(made / "full", tmp_path / "full"), 10)


@pytest.fixture
def archive(made, tmp_path) -> Path:
    return Path(shutil.copy(made / "all.zip", tmp_path / "a.zip"))


def _full(folder: Path) -> VoiceStore:
    store = VoiceStore(folder, 10)
    key = hashlib.sha256(SAMPLE).hexdigest()
    for name in ("Ada", "Gone"):
        consent = store.add_consent(f"{name} L.", "en", b"her voice", None)
        fields = {"type": "audio_sample", "reference_key": key, "consent": consent.id}
        store.add(store.new_voice(name, None, **fields), SAMPLE)
    store.delete_consent(consent.id, ANONYMOUS, cascade=True)
    store.add(store.new_voice("Calm", "key-1", type="prompt", prompt="A calm voice", seed=3))
    return store


def everything(store: VoiceStore) -> list:
    return [(one, kind.data(one)) for kind in (store.voices, store.consents) for one in kind.all()]


def test_all_comes_back_and_twice_does_no_harm(full, tmp_path):
    path, other = tmp_path / "a.zip", VoiceStore(tmp_path / "other", 10)
    written = write_archive(full, path, [])
    assert (len(written.voices), len(written.consents)) == (3, 1)
    assert path.stat().st_mode & 0o077 == 0
    new = read_archive(other, path, [])
    assert (len(new.voices), len(new.consents)) == (3, 1)
    assert everything(other) == everything(full)
    again = read_archive(other, path, [])
    assert not again.voices and not again.consents and everything(other) == everything(full)


def test_one_voice_goes_with_its_consent(full, tmp_path):
    path = tmp_path / "a.zip"
    written = write_archive(full, path, ["ada"])
    assert [one.record.name for one in written.voices + written.consents] == ["Ada", "Ada L."]
    with pytest.raises(ApiError, match="nobody"):
        write_archive(full, tmp_path / "b.zip", ["ada", "nobody"])
    assert not list(tmp_path.glob("b.zip*"))


def test_a_withdrawn_consent_does_not_come_back(full, tmp_path):
    path = tmp_path / "a.zip"
    write_archive(full, path, ["ada"])
    (consent,) = full.consents.all()
    full.delete_consent(consent.id, ANONYMOUS, cascade=True)
    before = everything(full)
    with pytest.raises(ApiError, match="withdrawn"):
        read_archive(full, path, [])
    assert everything(full) == before


def rewritten(path: Path, change) -> Path:
    """The archive with other members: `change(members)`, names to bytes."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def in_index(change):
    def apply(members: dict) -> None:
        index = json.loads(members["records.json"])
        change(index)
        members["records.json"] = json.dumps(index).encode()

    return apply


def named(name: str):
    return in_index(lambda index: index["voices"][0]["record"].update(id=name))


def without_data(members: dict) -> None:
    del members[next(name for name in members if "voice" in name)]


def with_other_data(members: dict) -> None:
    members[next(name for name in members if "voice" in name)] = SAMPLE + b"\0\0\0\0"


def as_a_bomb(members: dict) -> None:
    members[next(name for name in members if "cons" in name)] = bytes((64 << 20) + 1)


@pytest.mark.parametrize(
    "change",
    [
        named("../../../etc/passwd"),
        named("voice_../../../../../../x"),
        named("/tmp/voice_012345678901234567890123"),
        named("voice_0123456789abcdef01234567\n"),
        in_index(lambda index: index["voices"].append(index["voices"][0])),
        in_index(lambda index: index["voices"][0]["record"].update(name="a\nb")),
        in_index(lambda index: index["voices"][0]["record"].update(name="alloy")),
        in_index(lambda index: index["voices"][1]["record"].update(name="ADA", owner=None)),
        in_index(lambda index: index["voices"][0].update(sha256=None)),
        in_index(lambda index: index["voices"][0]["record"].update(type="x")),
        in_index(lambda index: index["consents"].clear()),
        in_index(lambda index: index.update(format="other")),
        in_index(lambda index: index["consents"][0]["record"].update(id="voice_" + "0" * 24)),
        without_data,
        with_other_data,
        as_a_bomb,
        lambda members: members.clear(),
        lambda members: members.update({"records.json": b"\xff{"}),
    ],
    ids=range(18),
)
def test_a_bad_archive_changes_nothing(made, archive, tmp_path, change):
    other = VoiceStore(shutil.copytree(made / "mine", tmp_path / "other"), 10)
    before = everything(other)
    with pytest.raises(ApiError):
        read_archive(other, rewritten(archive, change), ["alloy"])
    assert everything(other) == before
    left = [p.name for p in (tmp_path / "other").rglob("*") if p.suffix in (".bin", ".part")]
    assert not left and not (tmp_path / "etc").exists()


@pytest.mark.parametrize("cut", [0, 1, 100, -30])
def test_a_torn_archive_is_none(archive, tmp_path, cut):
    archive.write_bytes(archive.read_bytes()[:cut])
    with pytest.raises(ApiError, match="no archive"):
        read_archive(VoiceStore(tmp_path / "other", 10), archive, [])


def test_names_and_numbers_of_the_store_hold(archive, tmp_path):
    small, other = VoiceStore(tmp_path / "small", 1), VoiceStore(tmp_path / "other", 10)
    with pytest.raises(ApiError, match="max_voices"):
        read_archive(small, archive, [])
    other.add(other.new_voice("ada", None, type="prompt", prompt="x", seed=1))
    with pytest.raises(ApiError, match="another voice"):
        read_archive(other, archive, [])
    assert not small.voices.all() and len(other.voices.all()) == 1


def test_the_commands(full, tmp_path, capsys):
    for name in ("full", "new"):
        text = f"voices: {{directory: {tmp_path / name}}}\naudit: {{path: {tmp_path}/{name}.log}}\n"
        (tmp_path / f"{name}.yaml").write_text(text)
    file = str(tmp_path / "v.zip")
    assert main(["voices", "--config", str(tmp_path / "full.yaml"), "export", file]) == 0
    assert main(["voices", "import", file, "--config", str(tmp_path / "new.yaml")]) == 0
    assert capsys.readouterr().out.endswith("new here: 3 voices, 1 consents\n")
    assert everything(VoiceStore(tmp_path / "new", 10)) == everything(full)
    line = json.loads((tmp_path / "new.log").read_text())
    assert line["event"] == "voice.imported" and len(line["voices"]) == 3
    assert main(["voices", "import", str(tmp_path / "none.zip")]) == 1
