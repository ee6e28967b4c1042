"""examples/agent.py: its history holds what was heard."""

import runpy
import wave
from pathlib import Path

from tests.api.conftest import Server
from tests.api.live.test_native import wait_until_idle

AGENT = Path(__file__).parents[3] / "examples" / "agent.py"


async def test_the_agent_speaks_and_falls_silent(server: Server, tmp_path: Path) -> None:
    example = runpy.run_path(str(AGENT))
    example["SCRIPT"][1:2] = [(example["SCRIPT"][1][0], 0.4)]
    example["ANSWERS"][0], example["ANSWERS"][2] = "Sunny.", "At nine."
    url = server.url.replace("http", "ws") + "/v1/audio/speech/stream"
    history = await example["main"](url, "alloy", str(tmp_path / "agent.wav"))
    assert [message["role"] for message in history] == ["user", "assistant"] * 3
    answers = [message["content"] for message in history[1::2]]
    assert (answers[0], answers[2]) == ("Sunny.", "At nine.")
    heard = answers[1].removesuffix(" ...")
    assert example["ANSWERS"][1].startswith(heard) and len(heard) < 100
    with wave.open(str(tmp_path / "agent.wav")) as file:
        assert file.getnframes() > 24_000
    wait_until_idle(server)
