"""Pictures of the page for docs/page/, taken of a real server that has just spoken."""

import os
from pathlib import Path

import pytest

pytestmark = pytest.mark.page

FOLDER = Path(os.environ.get("QTTS_SCREENSHOTS", Path(__file__).parents[2] / "docs/page"))
SHOTS = {
    "light": ("light", 1280, 960, "speak"),
    "dark": ("dark", 1280, 960, "speak"),
    "phone": ("light", 400, 850, "speak"),
    "design": ("light", 1280, 960, "design"),
}


@pytest.mark.parametrize("name", SHOTS)
def test_screenshot(studio, watched, name):
    scheme, width, height, tab = SHOTS[name]
    page = watched.page
    page.set_viewport_size({"width": width, "height": height})
    page.emulate_media(color_scheme=scheme)
    watched.open(studio.url)
    page.fill("#text", "Good evening, and welcome to the studio.")
    page.check("[name=voice][value=serena]")
    page.click("#say")
    page.wait_for_function("() => takes.length > 0 && dock.player.isOver")
    page.click(f"#tab-{tab}")
    if tab == "design":
        page.click("#make-three")
        page.wait_for_function("() => takes.length === 4")
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_timeout(400)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out"
    FOLDER.mkdir(parents=True, exist_ok=True)
    picture = page.screenshot(path=FOLDER / f"{name}.png")
    assert len(picture) < 250_000
