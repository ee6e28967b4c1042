"""Design, Clone, Mix and Voices in the page."""

import zipfile

import numpy as np
import pytest
import soundfile

from qtts_openai.http.callers import ANONYMOUS
from qtts_openai.settings import AuthSettings, CloningSettings, VoiceSettings
from qtts_openai.voices.archive import read_archive
from qtts_openai.voices.store import VoiceStore
from tests.api.conftest import BASE, CUSTOM, DESIGN
from tests.api.voices.test_voice_store import upload
from tests.page.conftest import speak, wait_for_take

pytestmark = pytest.mark.page


def test_a_mix_speaks_and_becomes_a_voice(studio, watched):
    page = watched.open(studio.url, "mix")
    for name, share in (("vivian", 2), ("serena", 0), ("ryan", 1)):
        page.locator(f"#mix-{name}").fill(str(share))
    assert page.inner_text("#expression") == "vivian(2)+ryan(1)"
    speak(page, "#hear-mix")
    wait_for_take(page)
    page.click("#use-mix")
    assert page.is_checked("[name=voice][value='vivian(2)+ryan(1)']")
    assert not watched.errors


def test_a_voice_is_designed_and_kept(studio, watched):
    page = watched.open(studio.url, "design")
    page.fill("#design-text", "Good evening.")
    page.click("#make-three")
    page.wait_for_function("() => takes.length === 3")
    assert len(set(page.evaluate("takes.map((take) => take.request.seed)"))) == 3
    page.fill("#keep-2", "Night host")
    page.locator("#candidates .card").nth(1).get_by_role("button", name="Keep").click()
    page.wait_for_selector("text=Kept as Night host")
    page.click("#tab-speak")
    assert page.is_checked("[name=voice][value='Night host']")
    page.click("#tab-voices")
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Delete Night host").click()
    page.wait_for_selector("#no-voices", state="visible")
    assert not watched.errors


def test_a_voice_is_cloned_from_a_file(studio, watched, voiced_file):
    page = watched.open(studio.url, "clone")
    page.set_input_files("#file", voiced_file)
    page.wait_for_selector("#checks [data-kind=good]")
    page.fill("#clone-text", "Hello.")
    speak(page, "#try-clone")
    wait_for_take(page)
    page.fill("#clone-name", "Me")
    page.click("#keep-clone")
    page.wait_for_selector("#clone .error >> text=Say who is speaking")
    page.fill("#speaker-name", "Ada")
    page.check("#agree")
    page.click("#keep-clone")
    page.wait_for_selector("text=Kept as Me")
    kept = studio.http.get("/audio/voices/Me").json()
    assert kept["type"] == "audio_sample" and kept["duration"] > 3
    studio.http.delete("/audio/voices/Me")
    assert not watched.errors


@pytest.mark.parametrize(
    ("wave", "words"),
    [
        (np.full(4800, 0.2), "Too short"),
        (np.full(24000 * 5, 0.001), "Very quiet"),
        (np.sign(np.sin(np.arange(24000 * 5) / 20)), "Clipped"),
    ],
)
def test_a_bad_recording_is_told_before_it_is_sent(studio, watched, tmp_path, wave, words):
    page = watched.open(studio.url, "clone")
    soundfile.write(tmp_path / "bad.wav", wave, 24000)
    page.set_input_files("#file", tmp_path / "bad.wav")
    page.wait_for_function(
        "(words) => document.querySelector('#checks').innerText.includes(words)", arg=words
    )
    assert not any("/v1/audio/speech" in url for url in watched.requests)


def test_the_microphone_records(studio, watched):
    page = watched.open(studio.url, "clone")
    page.click("#record")
    page.wait_for_function("() => document.querySelector('#mic-level').value > 0.01")
    page.wait_for_timeout(1500)
    page.click("#record")
    page.wait_for_selector("#checks [data-kind]")
    assert page.evaluate("sample.samples.length") > 24000
    assert not watched.errors


def test_the_ends_of_a_recording_are_cut_and_what_is_left_is_sent(studio, watched, voiced_file):
    page = watched.open(studio.url, "clone")
    page.set_input_files("#file", voiced_file)
    page.wait_for_selector("#checks [data-kind=good]")
    assert page.evaluate("trimmed().length / RATE") == pytest.approx(4, abs=0.1)
    page.locator("#trim-from").fill("0.5")
    assert page.inner_text("output[for=trim-from]") == "2.0 s"
    assert page.get_attribute("#trim-from", "aria-valuetext") == "2.0 s"
    page.wait_for_selector("#checks >> text=short")
    page.locator("#trim-to").fill("0.6")
    page.wait_for_selector("#checks [data-kind=bad] >> text=Too short")
    page.click("#try-clone")
    page.wait_for_selector("#clone .error >> text=Too short")
    assert not any("/v1/audio/speech" in url for url in watched.requests)


@pytest.fixture
def strict(start, tmp_path):
    """All cloning needs a recorded consent."""
    settings = {"models": (CUSTOM, DESIGN, BASE), "voices": VoiceSettings(directory=str(tmp_path))}
    return start(cloning=CloningSettings(require_consent="all"), **settings)


def test_a_consent_is_recorded_where_the_server_asks_for_one(strict, watched, voiced_file):
    page = watched.open(strict.url, "clone")
    page.set_input_files("#file", voiced_file)
    page.wait_for_selector("#checks [data-kind=good]")
    page.click("#try-clone")
    page.wait_for_selector("#clone .error >> text=record the sentence above")
    page.fill("#speaker-name", "Ada")
    page.check("#agree")
    page.click("#record-consent")
    page.wait_for_function("() => document.querySelector('#mic-level').value > 0.01")
    page.wait_for_timeout(1500)
    page.click("#record-consent")
    page.wait_for_selector("#consent-state >> text=recorded")
    page.click("#try-clone")
    wait_for_take(page)
    page.fill("#clone-name", "Me")
    page.click("#keep-clone")
    page.wait_for_selector("text=Kept as Me")
    (consent,) = strict.http.get("/audio/voice_consents").json()["data"]
    assert strict.http.get("/audio/voices/Me").json()["consent"] == consent["id"]


@pytest.fixture
def keeping(start, tmp_path):
    """A server with two kept voices, one of them from a recording."""
    settings = {"models": (CUSTOM, DESIGN, BASE), "voices": VoiceSettings(directory=str(tmp_path))}
    server = start(**settings)
    assert upload(server, "Ada").status_code == 200
    fields = {"name": "Calm", "prompt": "A calm, low voice."}
    assert server.http.post("/audio/voices", json=fields).status_code == 200
    return server


def names_in(page) -> list[str]:
    return page.locator("#kept tbody th").all_inner_texts()


def test_a_kept_voice_is_renamed_by_keyboard(keeping, watched):
    page = watched.open(keeping.url)
    page.get_by_role("button", name="Favourite: Ada").click()
    page.check("[name=voice][value=Ada]")
    page.click("#tab-voices")
    assert names_in(page) == ["Ada", "Calm"]
    page.get_by_role("button", name="Rename Ada").press("Enter")
    page.keyboard.type("calm")  # over the old name, which is selected
    page.keyboard.press("Enter")
    error = page.locator("#kept .error")
    error.get_by_text("already").wait_for()
    field = page.get_by_label("New name of Ada")
    assert field.get_attribute("aria-invalid") == "true" and field.input_value() == "calm"
    field.fill("Ada L.")
    page.keyboard.press("Enter")
    page.wait_for_selector("#voices-done >> text=Ada is called Ada L. now.")
    assert names_in(page) == ["Ada L.", "Calm"]
    assert page.evaluate("document.activeElement.ariaLabel") == "Rename Ada L."
    page.click("#tab-speak")
    assert page.is_checked("[name=voice][value='Ada L.']")
    star = page.get_by_role("button", name="Favourite: Ada L.")
    assert star.get_attribute("aria-pressed") == "true"
    assert keeping.http.get("/audio/voices/Ada%20L.").json()["type"] == "audio_sample"


def test_a_kept_voice_is_exported_with_its_recording(keeping, watched, tmp_path):
    page = watched.open(keeping.url, "voices")
    with page.expect_download() as download:
        page.get_by_role("button", name="Export Ada").click()
    assert download.value.suggested_filename == "Ada.zip"
    download.value.save_as(tmp_path / "Ada.zip")
    there = VoiceStore(tmp_path / "there", 10)
    read_archive(there, tmp_path / "Ada.zip", [])
    (voice,) = there.visible(ANONYMOUS)
    assert voice.name == "Ada" and there.reference(voice) is not None
    assert zipfile.is_zipfile(tmp_path / "Ada.zip") and not watched.errors


def test_the_operators_voice_is_neither_renamed_nor_exported(start, watched, tmp_path, monkeypatch):
    monkeypatch.setenv("QTTS_API_KEYS", "anna: key-a, admin: key-r")
    server = start(
        models=(CUSTOM, DESIGN),
        voices=VoiceSettings(directory=str(tmp_path)),
        auth=AuthSettings(admin_keys=("admin",)),
    )
    fields = {"name": "Ours", "prompt": "A calm, low voice.", "shared": True}
    made = server.http.post("/audio/voices", json=fields, headers={"authorization": "Bearer key-r"})
    assert made.status_code == 200
    watched.page.add_init_script("sessionStorage.setItem('qtts.key', 'key-a')")
    page = watched.open(server.url, "voices")
    page.get_by_role("button", name="Export Ours").click()
    page.wait_for_selector("#voices .panel-error >> text=belongs to the operator")
    page.get_by_role("button", name="Rename Ours").click()
    page.get_by_label("New name of Ours").fill("Mine")
    page.keyboard.press("Enter")
    page.wait_for_selector("#kept .error >> text=belongs to the operator")
    page.get_by_role("button", name="Cancel").click()
    assert names_in(page) == ["Ours"]
