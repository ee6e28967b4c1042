"""Three things that a new user wants, without reading anything: how many clicks, how long."""

import time

import pytest

from tests.page.conftest import only_if_idle

pytestmark = pytest.mark.page

PARAGRAPH = (
    "It was late, and the rain had stopped. She looked out over the empty street and smiled."
)


class Newcomer:
    """Clicks and types what is seen; counts it."""

    def __init__(self, page) -> None:
        self.page, self.num_clicks, self.began = page, 0, time.monotonic()

    def click(self, role: str, name: str) -> None:
        self.page.get_by_role(role, name=name).locator("visible=true").first.click()
        self.num_clicks += 1

    def write(self, label: str, text: str) -> None:
        self.page.get_by_label(label).locator("visible=true").first.fill(text)
        self.num_clicks += 1

    def hears(self) -> None:
        self.page.wait_for_function("() => sound.level() > 0.01")

    def is_done(self, task: str, most_clicks: int) -> None:
        seconds = time.monotonic() - self.began
        assert self.num_clicks <= most_clicks, self.num_clicks
        only_if_idle(f"{task}: {self.num_clicks} clicks and fields, {seconds:.1f} s")
        assert seconds < 60


def test_a_paragraph_in_another_voice(studio, watched):
    newcomer = Newcomer(watched.open(studio.url))
    newcomer.write("Text", PARAGRAPH)
    newcomer.click("radio", "ryan")
    newcomer.click("button", "Speak")
    newcomer.hears()
    watched.page.wait_for_function("() => takes[0]?.isWhole && takes[0].request.voice === 'ryan'")
    newcomer.is_done("a paragraph in another voice", most_clicks=3)


def test_a_voice_is_designed_and_kept(studio, watched):
    newcomer = Newcomer(watched.open(studio.url))
    newcomer.click("tab", "Design")
    newcomer.write("Description", "A cheerful old sailor with a rough voice.")
    newcomer.click("button", "Make three voices")
    watched.page.wait_for_function("() => takes.length === 3")
    newcomer.click("button", "Play")
    newcomer.hears()
    newcomer.write("Keep under the name", "Sailor")
    newcomer.click("button", "Keep")
    watched.page.wait_for_selector("text=Kept as Sailor")
    assert studio.http.delete("/audio/voices/Sailor").status_code == 200
    newcomer.is_done("a voice designed and kept", most_clicks=6)


def test_a_voice_is_cloned_from_a_file(studio, watched, voiced_file):
    newcomer = Newcomer(watched.open(studio.url))
    newcomer.click("tab", "Clone")
    watched.page.get_by_label("or choose an audio file").set_input_files(voiced_file)
    newcomer.write("Name of the person speaking", "Ada")
    newcomer.click("checkbox", "This person has said so")
    newcomer.click("button", "Hear it")
    newcomer.hears()
    newcomer.write("Keep under the name", "Ada's voice")
    newcomer.click("button", "Keep this voice")
    watched.page.wait_for_selector("text=Kept as Ada's voice")
    assert studio.http.delete("/audio/voices/Ada's voice").status_code == 200
    newcomer.is_done("a voice cloned from a file (and the choice of it)", most_clicks=6)


def test_the_embedded_voice_alone_says_what_it_cannot(start, watched):
    page = watched.open(start().url)
    for tab, words in (("Design", "cannot make voices from a description"), ("Clone", "clone")):
        page.get_by_role("tab", name=tab).click()
        note = page.locator(".note:visible", has_text="This server cannot").first
        assert words in note.inner_text() and "config.yaml" in note.inner_text()
    assert page.get_by_role("button", name="Keep this voice").is_disabled()
