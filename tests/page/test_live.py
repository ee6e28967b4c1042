"""Live text in the page: what is typed is spoken, what is interrupted is told."""

import pytest
import soundfile

from tests.api.fake_engine import SPEAKERS
from tests.page.conftest import HEARD

pytestmark = pytest.mark.page


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


def test_live_takes_are_played_again_compared_and_downloaded(start, watched):
    _, page = live_page(start, watched)
    for words in ("The first of them", "Another one"):
        page.locator("#live-text").press_sequentially(words)
        page.keyboard.press("Enter")
        page.wait_for_selector(f"#said [data-state=spoken] >> text={words}")
        page.wait_for_function("() => dock.player.isOver")
    assert page.evaluate("takes.map((take) => take.request.input)") == [
        "Another one",
        "The first of them",
    ]
    page.click("#tab-speak")
    assert "Live, vivian" in page.inner_text("#takes")
    page.get_by_role("button", name="Play take 1").click()
    page.wait_for_function(HEARD)
    page.get_by_role("button", name="A take 1").click()
    page.get_by_role("button", name="B take 2").click()
    page.click("#play-b")
    page.wait_for_function("() => dock.take.number === 2")
    page.select_option("#format", "mp3")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download take 1").click()
    assert download.value.suggested_filename == "qtts-1.wav", "what was heard, not made again"
    assert soundfile.info(download.value.path()).duration > 0.5
    page.get_by_role("button", name="Load take 1", exact=True).click()
    assert page.input_value("#text") == "The first of them" and not watched.errors


def test_what_was_typed_and_not_sent_survives_a_reload(start, watched):
    _, page = live_page(start, watched)
    page.locator("#live-text").press_sequentially("Spoken words and unfini")
    page.reload()
    page.wait_for_selector("#tab-live[aria-selected=true]")
    assert page.input_value("#live-text") == "unfini"


def test_what_is_typed_while_the_server_is_away_is_spoken_when_it_is_back(start, watched):
    watched.page.add_init_script(
        "const Real = WebSocket;"
        "WebSocket = class extends Real {"
        "  constructor(url, protocols) { super(window.isAway ? `${url}-not` : url, protocols); }"
        "};"
    )
    _, page = live_page(start, watched)
    page.route("**/ready", lambda route: route.abort())
    page.evaluate("window.isAway = true; live.open.close()")
    page.wait_for_selector("#live-note >> text=begins anew")
    page.locator("#live-text").press_sequentially("Hello ")
    page.wait_for_selector("#live-note >> text=server is away")
    assert page.input_value("#live-text") == "Hello " and page.inner_text("#said").strip() == ""
    page.evaluate("window.isAway = false")
    page.unroute("**/ready")
    page.wait_for_selector("#live-note >> text=Connected")
    page.wait_for_function("() => document.activeElement.id === 'live-text'")
    page.keyboard.type("again")
    page.keyboard.press("Enter")
    page.wait_for_selector("#said [data-state=spoken] >> text=Hello again")


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
    assert page.evaluate("[takes[0].isWhole, takes[0].request.input]") == [False, text]
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
