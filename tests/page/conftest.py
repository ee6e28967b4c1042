"""A browser of the distribution, and a server with all three families behind the page."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

pytest.importorskip("playwright", reason="make page installs it")

from playwright.sync_api import Browser, Page, sync_playwright

from engine import EngineClient, EngineConfig
from qtts_openai.settings import ModelSettings, Settings, VoiceSettings
from tests.api.conftest import Server, decoding_process, serving, start, tokenizer_dir

__all__ = ["decoding_process", "start", "tokenizer_dir"]

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
)
HEARD = "() => sound.level() > 0.01"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
AXE = Path(sys.prefix) / "page/node_modules/axe-core/axe.min.js"


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.fail("install your distribution's chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def axe() -> str:
    assert AXE.exists(), "make page installs axe-core"
    return AXE.read_text("utf-8")


@pytest.fixture(scope="session")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The embedded voice, and tiny random checkpoints of the other families."""
    from engine.dummy.checkpoint import write_random_checkpoint  # imports torch

    folder = tmp_path_factory.mktemp("studio")
    models = [ModelSettings(id="qtts-embedded", checkpoint="embedded", aliases=("tts-1",))]
    for name, model_type in (("design", "voice_design"), ("base", "base")):
        path = folder / name
        write_random_checkpoint(path, model_type=model_type, shape="tiny-1b7", seed=0)
        models.append(ModelSettings(id=name, checkpoint=str(path)))
    engine = EngineConfig(
        device="cpu", threads=1, kv_cache_memory="256MB", max_num_seqs=4, guard_frames_base=20
    )
    voices = VoiceSettings(directory=str(folder / "voices"))
    settings = Settings(models=tuple(models), engine=engine, voices=voices)
    with serving(settings, EngineClient(settings.engine, settings.specs())) as server:
        yield server


def only_if_idle(figures: str) -> None:
    """Say what was measured; skip what a machine with other work cannot promise."""
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    told = f"{figures}, at a load of {load:.1f} on {cores} cores"
    print(told)
    if load > cores / 2:
        pytest.skip(f"not an idle machine: {told}")


def speak(page, button="#say") -> None:
    page.click(button)
    page.wait_for_function(HEARD)


def wait_for_take(page, number=1) -> None:
    page.wait_for_function(f"() => takes.length >= {number}")


class Watched:
    """A page, what its console said in anger, and where it sent requests."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.errors: list[str] = []
        self.requests: list[str] = []
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))

    def _hear(self, message) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(message.text)

    def open(self, url: str, tab: str = "speak") -> Page:
        self.page.goto(f"{url}/#{tab}")
        self.page.wait_for_selector("[name=voice]:checked", state="attached")
        return self.page


@pytest.fixture
def watched(browser: Browser) -> Iterator[Watched]:
    with browser.new_context(viewport={"width": 1280, "height": 1000}) as context:
        context.set_default_timeout(240_000)  # a machine may be busy
        yield Watched(context.new_page())


@pytest.fixture
def voiced_file(tmp_path):
    """Four seconds of something like a voice."""
    t = np.arange(4 * 24000) / 24000
    wave = sum(np.sin(2 * np.pi * 140 * k * t) / k for k in range(1, 12))
    path = tmp_path / "voice.wav"
    soundfile.write(path, 0.15 * wave * (0.6 + 0.4 * np.sin(6 * t)), 24000)
    return path
