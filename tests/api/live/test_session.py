"""What the live session itself promises, seen over its own dialect on an engine that hums."""

import asyncio
import json
import time
from typing import Any

import pytest
from websockets.asyncio.client import connect as connect_async
from websockets.exceptions import ConnectionClosed

from engine.config import EngineConfig
from qtts_openai.settings import LiveSettings
from tests.api.conftest import Server
from tests.api.live.test_native import LIVE, PATH, session, wait_until_idle
from tests.api.speech.test_streaming import wait_until
from tests.api.voices.test_routing import clip

SENTENCE = "The quick brown fox jumps over the lazy dog near the river. "


def spoken_ids(server: Server) -> tuple[int, ...]:
    return tuple(i for stream in server.engine.streams for i in stream.prompt.text)


def test_no_more_is_sent_ahead_than_the_setting_says(start) -> None:
    server = start(live=LiveSettings(ahead_s=1.0))
    with session(server, LIVE) as client:
        began, sent_s = time.monotonic(), 0.0  # before the server's clock, whoever is late
        client.send("input.text", text=SENTENCE)
        client.send("input.done")
        while (
            not isinstance(message := client.receive(), dict) or message["type"] != "session.done"
        ):
            if isinstance(message, bytes):
                sent_s += len(message) / 48_000
                assert sent_s <= 1.0 + (time.monotonic() - began) + 0.7
        assert sent_s > 1.7, "there was something to hold back"


def test_a_client_that_does_not_read_is_let_go(start) -> None:
    server = start(live=LiveSettings(ahead_s=3600, send_timeout_s=0.2))
    with session(server, LIVE, max_queue=1) as client:
        client.send("input.text", text=SENTENCE * 60)
        wait_until(lambda: 'qtts_live_sessions{dialect="native"} 0.0' in metrics(server), 30)
        wait_until_idle(server)
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                client.socket.recv(timeout=10)
    assert closed.value.rcvd is None or closed.value.rcvd.code == 1011


def metrics(server: Server) -> str:
    return server.http.get("../metrics").text


def test_a_long_turn_is_cut_at_sentences_and_keeps_its_voice(start) -> None:
    server = start(live=LiveSettings(cut_after_s=5))
    with session(server, LIVE) as client:
        for _ in range(5):
            client.send("input.text", text=SENTENCE)
        client.send("input.done")
        told, _ = client.until("session.done")
    submitted = server.engine.submitted
    assert len(submitted) > 1 and len({params.seed for _, _, params, _ in submitted}) == 1
    texts = [stream.prompt.text for stream in server.engine.streams]
    assert all(ids[-1] == texts[0][-1] for ids in texts), "each ends with the mark"
    assert [m["type"] for m in told].count("audio.start") == 1, "one utterance for its listener"


def test_a_turn_that_nears_the_frame_budget_is_cut_at_a_sentence(start) -> None:
    budget = 400
    settings = LiveSettings(cut_after_s=3600, ahead_s=3600)
    server = start(engine=EngineConfig(open_text_frames=budget), live=settings)
    with session(server, LIVE) as client:
        for _ in range(40):
            client.send("input.text", text=SENTENCE)
        client.send("input.done")
        client.until("session.done")
    texts = [stream.prompt.text for stream in server.engine.streams]
    assert len(texts) > 1 and all(len(ids) < budget // 2 for ids in texts)
    assert all(ids[-1] == texts[0][-1] for ids in texts), "each ends with the mark"
    server.engine.behave()
    body = {"model": "tts-1", "voice": "alloy", "input": SENTENCE.strip(), "stream": False}
    assert server.http.post("/audio/speech", json=body).status_code == 200
    (whole,) = (stream.prompt.text for stream in server.engine.streams)
    assert sum(map(len, texts)) >= 40 * len(whole), "nothing is lost"


def test_a_clone_with_transcript_is_spoken_in_sentences(trio: Server) -> None:
    clone = {"model": "base", "ref_audio": clip(), "ref_text": "what was said"}
    with session(trio) as client:
        client.send("session.config", **clone, response_format="pcm", stream_audio=True, voice=None)
        configured = client.receive()
        assert configured["type"] == "session.configured" and configured["live"] is False
        client.send("input.text", text="One sentence. Another ")
        assert client.until("audio.start")
        client.send("input.text", text="one.")
        client.send("input.done")
        assert client.until("session.done")[1]
    prompts = [prompt for _, prompt, _, _ in trio.engine.submitted]
    assert len(prompts) == 2 and not any(prompt.text_open for prompt in prompts)


def test_open_text_holds_half_of_the_rows_at_most(server: Server) -> None:
    server.engine.num_rows = 4
    with session(server, LIVE) as one, session(server, LIVE) as two, session(server, LIVE) as three:
        for client in (one, two):
            client.send("input.text", text="Hello there my friend ")
            client.until("audio.start")
        three.send("input.text", text="Hello there my friend ")
        time.sleep(0.4)
        assert len(server.engine.submitted) == 2
        three.send("input.done")  # whole now, and no row waits for it
        assert three.until("session.done")[1]
        one.send("input.done")
        assert one.until("session.done")[1]


@pytest.mark.parametrize("after", [1, 3])
def test_text_that_came_too_late_is_spoken_all_the_same(server: Server, after: int) -> None:
    words = SENTENCE.split()
    with session(server, LIVE) as client:
        for word in words:
            client.send("input.text", text=f"{word} ")
        client.send("input.done")
        client.until("session.done")
    whole = spoken_ids(server)
    server.engine.behave()
    server.engine.stall_after = after
    with session(server, LIVE) as client:
        for word in words:
            client.send("input.text", text=f"{word} ")
            time.sleep(0.01)
        client.send("input.done")
        client.until("session.done")
    assert len(server.engine.submitted) > 1 and spoken_ids(server) == whole


def test_sockets_without_text_and_clients_that_vanish(server: Server) -> None:
    """200 of each: they take no row, and leave none."""
    url = server.url.replace("http", "ws") + PATH

    async def visit() -> None:
        sockets = []
        config = json.dumps({"type": "session.config", **LIVE})
        for _ in range(200):
            sockets.append(await connect_async(url))
            await sockets[-1].send(config)
        for socket in sockets:
            assert json.loads(await socket.recv())["type"] == "session.configured"
        assert server.engine.submitted == []
        text = json.dumps({"type": "input.text", "text": "Hello there my fri"})
        await asyncio.gather(*(socket.send(text) for socket in sockets))
        await sockets[0].recv()
        for socket in sockets:
            socket.transport.abort()

    asyncio.run(visit())
    wait_until(lambda: 'qtts_live_sessions{dialect="native"} 0.0' in metrics(server), 30)
    wait_until_idle(server)
    server.engine.num_rows = 2  # none of the places for open text is taken
    with session(server, LIVE) as client:
        client.send("input.text", text="Hello there my friend ")
        assert client.until("audio.start")


def test_a_drain_waits_for_speech_and_ends_idle_sessions(start) -> None:
    server = start()
    server.engine.chunk_delay_s = 0.02
    app: Any = server.uvicorn.app
    with session(server, LIVE) as idle, session(server, LIVE) as busy:
        busy.send("input.text", text=SENTENCE)
        busy.until("audio.start")
        assert server.uvicorn.num_answers() == 1
        app.state.draining = True
        assert idle.close_code() == 1012
        busy.send("input.done")
        assert busy.until("session.done")[1] and busy.close_code() == 1012
    assert server.uvicorn.num_answers() == 0


def test_text_that_is_all_there_is_spoken_as_any_other(start) -> None:
    """The first piece comes while it is spoken; what is whole by its turn is no live text."""
    server = start(live=LiveSettings(ahead_s=3600))
    server.engine.chunk_delay_s = 0.02
    with session(server, LIVE) as client:
        client.send("input.text", text="Hello there my friend ")
        client.until("audio.start")
        for _ in range(4):
            client.send("input.text", text=SENTENCE * 10)
        client.send("input.done")
        client.until("session.done")
        client.send("input.text", text="A short one.")
        client.send("input.done")
        client.until("session.done")
    open_first, *whole = [prompt for _, prompt, _, _ in server.engine.submitted]
    assert open_first.text_open and open_first.streaming_text and len(whole) > 1
    assert not any(prompt.text_open or prompt.streaming_text for prompt in whole[:-1])
