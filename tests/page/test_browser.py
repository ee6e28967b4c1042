"""The page as a user has it: clicks, keys, sound, and what a screen reader would find wrong."""

import re
import subprocess
import sys
import time

import msgspec
import pytest

from qtts_openai.settings import Settings, VoiceSettings
from tests.api.conftest import BASE, CUSTOM, DESIGN
from tests.api.voices.test_voice_store import upload
from tests.page.conftest import HEARD, only_if_idle, speak, wait_for_take

pytestmark = pytest.mark.page

TABS = ("speak", "design", "clone", "mix", "voices", "live", "server")
LONG = "This goes on for quite a while, one sentence after the other. " * 20


def test_one_click_is_heard(studio, watched):
    page = watched.open(studio.url)
    speak(page)
    wait_for_take(page)
    assert re.fullmatch(r"[\d.]+ m?s", page.inner_text("#first"))
    take = page.evaluate("({...takes[0], samples: takes[0].seconds})")
    assert take["isWhole"] and take["samples"] > 1 and take["rtf"] > 0
    assert page.evaluate("takes[0].columns.some((one) => one.peak > 0.1)"), "the wave was drawn"
    page.wait_for_function("() => dock.player.isOver")
    assert not watched.errors
    assert all(url.startswith((studio.url, "data:")) for url in watched.requests)


def test_audio_starts_with_the_first_piece_alone(start, watched):
    server = start()
    server.engine.hang_after = 1
    page = watched.open(server.url)
    page.click("#say")
    page.wait_for_function("() => dock.player?.position() > 0")  # its end may be missed, this not
    assert page.evaluate("dock.take.pieces.length") == 1
    page.keyboard.press("Escape")


def test_audio_starts_at_once_when_its_first_byte_is_there(start, watched):
    page = watched.open(start().url)
    paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    lags = []
    for number in (1, 2, 3):
        speak(page)
        wait_for_take(page, number)
        lags.append(page.evaluate("takes[0].firstAudioMs - takes[0].firstByteMs"))
    figures = f"first paint {paint:.0f} ms, first byte to sound {min(lags):.0f} ms"
    only_if_idle(figures)
    assert min(lags) < 60 and paint < 500, figures


def test_the_word_that_is_heard_is_marked(start, watched):
    page = watched.open(start().url)
    page.fill("#text", "One two three four five six.")
    speak(page)
    page.wait_for_function("() => document.querySelector('#words .now')")
    wait_for_take(page)
    assert page.inner_text("#words").split() == ["One", "two", "three", "four", "five", "six."]
    starts = page.evaluate("takes[0].words.map((word) => word.start)")
    assert starts == sorted(starts) and starts[-1] < page.evaluate("takes[0].seconds")
    page.wait_for_function("() => dock.player.isOver && !document.querySelector('#words .now')")
    assert not watched.errors


def test_stop_ends_the_sound_and_the_work(studio, watched):
    page = watched.open(studio.url)
    page.fill("#text", LONG)
    speak(page)
    page.keyboard.press("Escape")
    page.wait_for_function("() => sound.level() < 0.001")
    assert "cut short" in page.inner_text("#takes li")
    deadline = time.monotonic() + 20
    running = 'qtts_engine_num_running{worker="0"} 0.0'
    while running not in studio.http.get(f"{studio.url}/metrics").text:
        assert time.monotonic() < deadline, "the engine goes on"
        time.sleep(0.2)
    assert not watched.errors


def test_a_long_text_is_cut_into_requests_and_tells_how_far_it_is(start, watched):
    page = watched.open(start().url)
    page.fill("#text", "A sentence of some words. " * 200)
    assert "in 2 parts" in page.inner_text("#count")
    page.click("#say")
    wait_for_take(page)
    spoken = [url for url in watched.requests if url.endswith("/v1/audio/speech")]
    assert len(spoken) == 2 and page.evaluate("takes[0].isWhole")
    assert page.evaluate("takes[0].request.input.length") == 26 * 200


def test_the_format_and_code_are_what_is_on_the_screen(start, watched):
    page = watched.open(start().url)
    page.fill("#text", 'Say "it\'s" now')
    page.fill("#style", "Calm")
    page.click("[data-code=speak] summary")
    code = {}
    for language in ("curl", "Python", "JavaScript"):
        page.locator("[data-code=speak]").get_by_role("button", name=language).click()
        code[language] = page.inner_text("[data-code=speak] pre")
    assert "it'\\''s" in code["curl"] and '"instructions":"Calm"' in code["curl"]
    compile(code["Python"], "copied", "exec")
    assert (
        'instructions="Calm"' in code["Python"] and '"instructions": "Calm"' in code["JavaScript"]
    )
    page.select_option("#format", "mp3")
    page.click("#say")
    wait_for_take(page)
    with page.expect_download() as download:
        page.locator("#takes").get_by_role("button", name="Download").click()
    assert download.value.suggested_filename == "qtts-1.mp3"


def run(code: str, folder, *command: str) -> None:
    done = subprocess.run([*command, code], cwd=folder, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("tab", "of_python"), [("speak", "speech.wav"), ("live", "speech.pcm")])
def test_the_code_that_is_copied_speaks(start, watched, tmp_path, tab, of_python):
    page = watched.open(start().url)
    if tab == "live":
        page.click("#tab-live")
        page.wait_for_selector("#live-note >> text=Connected")
        page.fill("#live-text", 'He said "it\'s"')
    else:
        page.fill("#text", 'He said "it\'s"')
    box = page.locator(f"[data-code={tab}]")
    box.locator("summary").click()
    for language, command, file in (
        ("curl", ("bash", "-c"), "speech.wav"),
        ("Python", (sys.executable, "-c"), of_python),
    ):
        box.get_by_role("button", name=language).click()
        run(box.locator("pre").inner_text(), tmp_path, *command)
        assert (tmp_path / file).stat().st_size > 10_000
        (tmp_path / file).unlink()
    box.get_by_role("button", name="JavaScript").click()
    (tmp_path / "speech.mjs").write_text(box.locator("pre").inner_text())
    run("speech.mjs", tmp_path, "node", "--check")


def test_recent_errors_are_shown_without_texts(start, watched):
    server = start()
    page = watched.open(server.url)
    page.click("#tab-server")
    page.wait_for_selector("#no-errors[data-read]", state="attached")
    server.speak(input="Some secret words.", voice="nobody")
    page.wait_for_selector("#errors >> text=400 for POST /v1/audio/speech")
    assert re.search(r"\d:\d\d.* · 400 for POST .* · 1 time", page.inner_text("#errors"))
    assert "secret" not in page.inner_text("#server") and "nobody" not in page.inner_text("#errors")


def test_two_takes_are_compared(start, watched):
    page = watched.open(start().url)
    for number in (1, 2):
        page.click("#say")
        wait_for_take(page, number)
    page.get_by_role("button", name="A take 1").click()
    page.get_by_role("button", name="B take 2").click()
    page.click("#play-a")
    page.wait_for_function(HEARD)
    page.click("#swap")
    assert page.inner_text("#now").startswith("#2")
    assert not watched.errors


def test_voices_are_found_and_kept_as_favourites(start, watched):
    page = watched.open(start().url)
    page.fill("#find", "ryan")
    assert page.locator(".voice").count() < 5
    page.get_by_role("button", name="Favourite: ryan").click()
    page.fill("#find", "")
    page.click("#only-stars")
    assert page.locator(".voice").count() == 1
    page.check("[name=voice][value=ryan]")
    page.reload()
    page.wait_for_selector("[name=voice][value=ryan]:checked")


def test_what_was_typed_survives_a_reload(start, watched):
    page = watched.open(start().url)
    page.fill("#text", "Not lost.")
    page.select_option("#format", "flac")
    page.reload()
    assert page.input_value("#text") == "Not lost." and page.input_value("#format") == "flac"


def test_an_error_is_told_at_its_field(start, watched):
    page = watched.open(start().url)
    page.click("#advanced summary")
    page.fill("#temperature", "99")
    page.click("#advanced summary")
    page.click("#say")
    error = page.locator("[data-param=temperature] .error")
    error.wait_for(state="visible")
    assert re.fullmatch(r"At most \d.*\.", error.inner_text().removeprefix("⚠ "))
    assert page.get_attribute("#temperature", "aria-invalid") == "true"
    assert page.evaluate("document.activeElement.id") == "temperature"
    page.fill("#temperature", "hot")
    page.click("#say")
    page.wait_for_function("() => document.body.innerText.includes('A number, or nothing.')")


def test_a_missing_family_is_told_in_words(start, watched):
    page = watched.open(start().url, "clone")
    told = page.inner_text("[data-needs=Base]")
    assert "cannot clone voices" in told and "config.yaml" in told
    lines = page.inner_text("[data-needs=Base] pre")
    (model,) = msgspec.yaml.decode(f"models:\n{lines}", type=Settings).models
    assert model.checkpoint == "Qwen/Qwen3-TTS-12Hz-1.7B-Base", "it can be pasted as it stands"
    assert page.is_disabled("#record")
    page.click("#tab-design")
    assert page.is_disabled("#make-three")


def test_with_keys_it_asks_for_one_and_keeps_it_in_the_tab(start, watched, monkeypatch):
    monkeypatch.setenv("QTTS_API_KEYS", "secret-key")
    page = watched.page
    page.goto(start().url)
    for key in ("wrong-key", "secret-key"):
        page.wait_for_selector("#ask-key[open]")
        page.fill("#key", key)
        page.keyboard.press("Enter")
        if key == "wrong-key":
            page.wait_for_selector("#ask-key .error >> text=not known")
    page.wait_for_selector("[name=voice]:checked")
    assert page.evaluate("sessionStorage.getItem('qtts.key')") == "secret-key"
    assert "secret" not in page.evaluate("JSON.stringify({...localStorage})")
    page.click("#say")
    wait_for_take(page)


def test_a_lost_connection_is_told_and_mended(start, watched):
    server = start()
    page = watched.open(server.url)
    page.context.set_offline(True)
    page.click("#say")
    page.wait_for_selector("#banner >> text=connection to the server is lost")
    page.context.set_offline(False)
    wait_for_take(page)
    assert page.is_hidden("#banner")


def test_speech_that_breaks_off_is_told_and_kept(start, watched):
    server = start()
    page = watched.open(server.url)
    server.engine.fail_after = 2
    page.click("#say")
    page.wait_for_selector("#speak .panel-error >> text=broke off")
    assert "cut short" in page.inner_text("#takes li")


def test_it_works_below_a_prefix(start, watched):
    server = start()
    page = watched.page
    page.route(
        f"{server.url}/voice/**",
        lambda route: route.continue_(url=route.request.url.replace("/voice/", "/", 1)),
    )
    page.goto(f"{server.url}/voice/studio")
    page.wait_for_selector("[name=voice]:checked")
    page.click("#say")
    wait_for_take(page)
    paths = [url.removeprefix(server.url) for url in watched.requests]
    assert all(path.startswith(("/voice/", "data:")) for path in paths), paths


def test_the_keyboard_alone_will_do(start, watched):
    page = watched.open(start().url)
    page.focus("#tab-speak")
    for key, tab in (("ArrowRight", "design"), ("End", "server"), ("ArrowRight", "speak")):
        page.keyboard.press(key)
        assert page.evaluate("document.activeElement.id") == f"tab-{tab}"
        assert page.is_visible(f"#{tab}")
    page.focus("#text")
    page.keyboard.press("Control+Enter")
    wait_for_take(page)
    page.focus("[name=voice]:checked")
    page.keyboard.press("ArrowDown")
    assert page.input_value("[name=voice]:checked") == page.evaluate("view.voice")


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 360)])
def test_axe_finds_nothing_serious(start, watched, axe, tmp_path, voiced_file, scheme, width):
    """On every tab, with all on it that can be there."""
    server = start(models=(CUSTOM, DESIGN, BASE), voices=VoiceSettings(directory=str(tmp_path)))
    upload(server, "Ada")
    page = watched.page
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    page.set_viewport_size({"width": width, "height": 800})
    watched.open(server.url)
    page.click("#say")
    wait_for_take(page)
    page.click("#tab-design")
    page.click("#make-three")
    wait_for_take(page, 4)
    page.click("#tab-clone")
    page.set_input_files("#file", voiced_file)
    page.wait_for_selector("#checks [data-kind]")
    page.click("#keep-clone")  # an error
    page.click("#tab-voices")
    page.get_by_role("button", name="Rename Ada").click()
    page.evaluate(axe)
    found = []
    for tab in TABS:
        page.click(f"#tab-{tab}")
        for summary in page.locator(f"#{tab} summary").all():
            summary.click()
        report = page.evaluate("axe.run()")
        found += [
            (tab, one["id"], one["nodes"][0]["html"][:120])
            for one in report["violations"]
            if one["impact"] in ("serious", "critical")
        ]
    assert not found, found
    assert page.evaluate("document.documentElement.scrollWidth") == width, "nothing sticks out"


def test_axe_finds_nothing_serious_where_models_are_missing(start, watched, axe):
    page = watched.open(start().url)
    page.evaluate(axe)
    for tab in ("design", "clone"):
        page.click(f"#tab-{tab}")
        report = page.evaluate("axe.run()")
        assert not [one["id"] for one in report["violations"] if one["impact"] == "serious"]
