"""Agent frameworks' own plugins over live text, unmodified (`make clients`): sound before the text
has ended, a pause of 13 s survived, a barge-in that frees the row, the next turn.
"""

import pytest

from qtts_openai.settings import LiveSettings
from tests.api.conftest import Server
from tests.api.live.test_native import wait_until_idle
from tests.api.test_clients import HOME, SCRIPTS, run

pytestmark = [pytest.mark.clients, pytest.mark.slow]
TEXT = ["Hello", "there,", "my", "dear", "friend,", "how", "are", "you", "today?"]


def drive(script: str, server: Server, kind: str) -> dict:
    interpreter = HOME / "bin" / "python"
    if not interpreter.exists():
        pytest.skip(f"no {interpreter}")
    server.engine.chunk_delay_s = 0.02
    found = run([str(interpreter), str(SCRIPTS / script), server.base_url, *kind.split()])
    wait_until_idle(server)
    # A barge-in ended one in mid-speech.
    assert any(stream.finished is None for stream in server.engine.streams)
    return found


@pytest.mark.parametrize("kind", ["baseten", "deepgram", "deepgram2", "elevenlabs"])
def test_livekit(server: Server, kind: str) -> None:
    found = drive("livekit_live_client.py", server, kind)
    whole, stalled = found["whole"], found["stalled"]
    assert whole["before_end"] and stalled["before_end"] and whole["seconds"] > 0.8
    assert stalled["seconds"] == pytest.approx(whole["seconds"], abs=0.3)
    assert 0 < found["left"]["seconds"] <= whole["seconds"]
    assert found["next"]["seconds"] == pytest.approx(whole["seconds"], abs=0.2)
    if kind in ("baseten", "elevenlabs"):
        assert whole["words"] == TEXT


@pytest.mark.parametrize("kind", ["flux", "deepgram", "elevenlabs"])
def test_pipecat(server: Server, kind: str) -> None:
    found = drive("pipecat_live_client.py", server, kind)
    whole, stalled, cut, after = (found[name] for name in ("whole", "stalled", "cut", "next"))
    assert whole["seconds"] > 0.8 and after["seconds"] == pytest.approx(whole["seconds"], abs=0.2)
    assert stalled["seconds"] == pytest.approx(whole["seconds"], abs=0.3)
    assert (
        whole["before_end"] and stalled["before_end"] and 0 < cut["seconds"] < 7 * whole["seconds"]
    )
    if kind == "elevenlabs":
        assert whole["words"] == stalled["words"] == after["words"] == TEXT
        assert (
            0 < len(cut["words"]) < 7 * len(TEXT)
            and cut["words"] == (TEXT * 9)[: len(cut["words"])]
        )


def test_dashscope(start) -> None:
    server = start(live=LiveSettings(voices={"Cherry": "nova"}))
    found = drive("dashscope_live_client.py", server, "")
    assert found["server_commit"]["ended"] == 2 and found["commit"]["ended"] == 1
    for one in found.values():
        assert one["bytes"] > 24_000 and one["code"] == 1000
