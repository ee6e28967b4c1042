"""A real socket: the app on FakeEngine behind uvicorn on 127.0.0.1, in a thread."""

import asyncio
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager

import httpx
import msgspec
import pytest
import uvicorn

from engine.dummy.tokenizer import write_random_tokenizer
from qtts_openai.app import create_app
from qtts_openai.decoding.client import AudioDecoder, Zygote
from qtts_openai.http.server import Server as TransportServer
from qtts_openai.http.server import listen
from qtts_openai.settings import ModelSettings, Settings, VoiceSettings
from tests.api.fake_engine import FakeEngine, model_info

ALIASES = ("tts-1", "tts-1-hd", "gpt-4o-mini-tts")
CUSTOM = ModelSettings(id="Qwen/custom", checkpoint="unused", aliases=ALIASES)
DESIGN = ModelSettings(id="design", checkpoint="unused")
BASE = ModelSettings(id="base", checkpoint="unused")
FAMILIES = {"Qwen/custom": "custom_voice", "design": "voice_design", "base": "base"}


class Server:
    """What a test needs of a running server."""

    def __init__(self, url: str, engine: FakeEngine, uvicorn_server: uvicorn.Server) -> None:
        self.url = url
        self.base_url = f"{url}/v1"
        self.engine = engine
        self.uvicorn = uvicorn_server
        self.http = httpx.Client(base_url=self.base_url, timeout=60)

    def speak(self, **fields: object) -> httpx.Response:
        """POST /audio/speech with defaults that `...` removes."""
        body = {"model": "tts-1", "input": "Hello there, world.", "voice": "alloy", **fields}
        return self.http.post("/audio/speech", json={k: v for k, v in body.items() if v is not ...})

    def openai(self, **options: object):
        import openai  # takes seconds, which `make test-fast` need not spend

        fields = {"api_key": "none", "max_retries": 0, "timeout": 60, **options}
        return openai.OpenAI(base_url=self.base_url, **fields)


@contextmanager
def serving(settings: Settings, engine: FakeEngine) -> Iterator[Server]:
    app = create_app(settings, engine)
    listener = listen(msgspec.structs.replace(settings.server, port=0))
    ready = threading.Event()
    server = TransportServer(
        app, msgspec.structs.replace(settings.server, drain_s=5), on_ready=ready.set
    )
    thread = threading.Thread(target=asyncio.run, args=(server.serve([listener]),))
    thread.start()
    while not ready.wait(0.01) and thread.is_alive():
        pass
    assert ready.is_set(), "the server did not start"
    port = listener.getsockname()[1]
    running = Server(f"http://127.0.0.1:{port}", engine, server)
    try:
        with running.http:
            yield running
    finally:
        server.should_exit = True
        thread.join(20)


@pytest.fixture(scope="session")
def tokenizer_dir(tmp_path_factory: pytest.TempPathFactory):
    directory = tmp_path_factory.mktemp("tokenizer")
    write_random_tokenizer(directory)
    return directory


@contextmanager
def starter(tokenizer_dir) -> Iterator[Callable[..., Server]]:
    with ExitStack() as stack:

        def begin(**fields: object) -> Server:
            voices = VoiceSettings(directory=tempfile.mkdtemp(dir=tokenizer_dir.parent))
            settings = Settings(**{"models": (CUSTOM,), "voices": voices, **fields})
            infos = [model_info(m.id, tokenizer_dir, FAMILIES[m.id]) for m in settings.models]
            return stack.enter_context(serving(settings, FakeEngine(infos)))

        yield begin


@pytest.fixture(scope="session")
def decoding_process() -> Iterator[Callable[[], Awaitable[Zygote]]]:
    """`Zygote.begin` that begins one for all: a hundred servers would spend a minute on theirs."""
    begin, begun = Zygote.begin, []

    async def begin_once() -> Zygote:
        if not begun or not begun[-1].is_alive():
            begun.append(await begin())
        return begun[-1]

    yield begin_once
    for zygote in begun:
        zygote.close()


@pytest.fixture
def start(tokenizer_dir, decoding_process, monkeypatch) -> Iterator[Callable[..., Server]]:
    """start(settings...) -> Server; as many as a test wants."""
    monkeypatch.setattr(Zygote, "begin", decoding_process)
    monkeypatch.setattr(AudioDecoder, "close", lambda self: None)
    with starter(tokenizer_dir) as begin:
        yield begin


@pytest.fixture(scope="session")
def shared_servers(tokenizer_dir) -> Iterator[dict[str, Server]]:
    with starter(tokenizer_dir) as begin:
        yield {"custom": begin(), "trio": begin(models=(CUSTOM, DESIGN, BASE))}


@pytest.fixture
def server(shared_servers) -> Server:
    """CustomVoice alone, without keys."""
    shared_servers["custom"].engine.behave()
    return shared_servers["custom"]


@pytest.fixture
def trio(shared_servers) -> Server:
    """All three families."""
    shared_servers["trio"].engine.behave()
    return shared_servers["trio"]
