"""The page as a user has it: clicks, keys, sound, and what a screen reader would find wrong."""

import re
import time

import numpy as np
import pytest
import soundfile

from tests.api.fake_engine import SPEAKERS
from tests.page.conftest import only_if_idle

pytestmark = pytest.mark.page

TABS = ("speak", "design", "clone", "mix", "voices", "server")
LONG = "This goes on for quite a while, one sentence after the other. " * 20
HEARD = "() => sound.level() > 0.01"


@pytest.fixture
def voiced_file(tmp_path):
    """Four seconds of something like a voice."""
    t = np.arange(4 * 24000) / 24000
    wave = sum(np.sin(2 * np.pi * 140 * k * t) / k for k in range(1, 12))
    path = tmp_path / "voice.wav"
    soundfile.write(path, 0.15 * wave * (0.6 + 0.4 * np.sin(6 * t)), 24000)
    return path


def speak(page, button="#say") -> None:
    page.click(button)
    page.wait_for_function(HEARD)


def wait_for_take(page, number=1) -> None:
    page.wait_for_function(f"() => takes.length >= {number}")


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
    speak(page)
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
    page.wait_for_selector("#checks li")
    assert page.evaluate("sample.samples.length") > 24000
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
    assert "temperature" in error.inner_text()
    assert page.get_attribute("#temperature", "aria-invalid") == "true"
    assert page.evaluate("document.activeElement.id") == "temperature"
    page.fill("#temperature", "hot")
    page.click("#say")
    page.wait_for_function("() => document.body.innerText.includes('A number, or nothing.')")


def test_a_missing_family_is_told_in_words(start, watched):
    page = watched.open(start().url, "clone")
    assert "cannot clone voices" in page.inner_text("[data-needs=Base]")
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


def live_page(start, watched):
    server = start()
    page = watched.open(server.url)
    page.click("#tab-live")
    page.wait_for_selector("#live-note >> text=Connected")
    return server, page


def said(page) -> list[tuple[str, str]]:
    spans = page.evaluate("[...said.children].map((one) => [one.dataset.state, one.textContent])")
    return [(state, text.strip()) for state, text in spans if text.strip()]


def test_live_text_is_spoken_while_it_is_typed(start, watched):
    server, page = live_page(start, watched)
    page.locator("#live-text").press_sequentially("One two three four five")
    page.wait_for_function(HEARD)
    assert said(page) == [("speaking", "One two three four")], "the last word may go on"
    assert server.engine.streams[0].text_open
    page.keyboard.press("Enter")
    page.wait_for_selector("#said [data-state=spoken] >> text=One two three four five")
    assert page.input_value("#live-text") == "" and not server.engine.live
    page.locator("#live-text").press_sequentially("And once more")
    page.keyboard.press("Enter")
    page.wait_for_selector("#said [data-state=spoken] >> text=And once more")
    assert page.inner_text("#n-waiting") == page.inner_text("#n-dropped") == "0"
    assert not watched.errors


def test_the_embedded_voice_reads_along(studio, watched):
    page = live_page(lambda: studio, watched)[1]
    page.locator("#live-text").press_sequentially("Good evening to all of you ")
    page.wait_for_function(HEARD)
    page.keyboard.press("Enter")
    page.wait_for_selector("#said [data-state=spoken] >> text=Good evening to all of you")
    assert page.evaluate("live.take.seconds") > 1 and not watched.errors
    page.click("#tab-server")
    page.wait_for_selector("#tiles >> text=cpu, float32")


def test_live_speech_is_interrupted_where_it_was_heard(start, watched):
    server, page = live_page(start, watched)
    text = " ".join(["nothing", "here", "is", "written", "in", "figures"] * 10)
    page.fill("#live-text", f"{text} unfinished")
    page.wait_for_function(HEARD)
    page.wait_for_timeout(1500)
    page.click("#interrupt")
    page.wait_for_function("() => sound.level() < 0.001")
    page.wait_for_selector("#said [data-state=spoken]")
    (one, heard), (other, dropped) = said(page)
    assert (one, other) == ("spoken", "dropped") and f"{heard} {dropped}" == text
    assert not server.engine.live, "the engine was told"
    assert page.input_value("#live-text") == "unfinished", "what was not sent stays"
    page.locator("#live-text").press("End")
    page.locator("#live-text").press_sequentially(" business")
    page.keyboard.press("Enter")
    page.wait_for_selector("#said [data-state=spoken] >> text=unfinished business")
    assert not watched.errors


def test_live_speech_in_another_voice_and_with_a_key(start, watched, monkeypatch):
    monkeypatch.setenv("QTTS_API_KEYS", "secret-key")
    server = start()
    page = watched.page
    page.add_init_script("sessionStorage.setItem('qtts.key', 'secret-key')")
    _, page = live_page(lambda: server, watched)
    for voice in ("ryan", "serena"):
        page.select_option("#live-voice", voice)
        page.locator("#live-text").press_sequentially(f"I am {voice}")
        page.keyboard.press("Enter")
        page.wait_for_selector(f"#said [data-state=spoken] >> text=I am {voice}")
    speakers = [prompt.speakers[0][0] for _, prompt, _, _ in server.engine.submitted]
    assert speakers == [SPEAKERS["ryan"], SPEAKERS["serena"]] and not watched.errors


def test_a_server_without_live_text_says_so(start, watched):
    page = watched.page
    page.add_init_script(
        "const Real = WebSocket;"
        "WebSocket = class extends Real { constructor(url) { super(`${url}-not`); } };"
    )
    watched.open(start().url)
    page.click("#tab-live")
    page.wait_for_selector("#live-note >> text=not available on this server")
    assert page.is_disabled("#live-text")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(start, watched, axe, scheme):
    page = watched.page
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    watched.open(start().url)
    page.click("#say")
    wait_for_take(page)
    page.evaluate(axe)
    found = []
    for tab in (*TABS, "live"):
        page.click(f"#tab-{tab}")
        report = page.evaluate("axe.run()")
        found += [
            (tab, one["id"], one["nodes"][0]["html"][:120])
            for one in report["violations"]
            if one["impact"] in ("serious", "critical")
        ]
    assert not found, found
