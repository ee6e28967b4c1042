"""DashScope's SDK for Qwen-TTS realtime, unmodified: both modes, a cancel, the end. URL -> what
each gave.
"""

import base64
import json
import sys
import threading
import time
from typing import Any

import dashscope
from dashscope.audio.qwen_tts_realtime import QwenTtsRealtime, QwenTtsRealtimeCallback

STALL_S = 13.0
TOKENS = ["Hello", " there,", " my", " dear", " friend,", " how", " are", " you", " today?"]


class Ear(QwenTtsRealtimeCallback):
    def __init__(self) -> None:
        self.news = threading.Condition()
        self.told: list[str] = []
        self.num_bytes, self.code = 0, None

    def on_event(self, response: dict[str, Any]) -> None:
        with self.news:
            self.told.append(response["type"])
            self.num_bytes += len(base64.b64decode(response.get("delta", "")))
            self.news.notify_all()

    def on_close(self, close_status_code: int, close_msg: str) -> None:
        self.code = close_status_code

    def wait(self, kind: str, count: int = 1) -> None:
        with self.news:
            assert self.news.wait_for(lambda: self.told.count(kind) >= count, 60), self.told


def main(url: str) -> None:
    dashscope.api_key = "none"
    address = url.replace("http", "ws", 1).replace("/v1", "/api-ws/v1/realtime")
    found = {}
    for mode in ("server_commit", "commit"):
        ear = Ear()
        client = QwenTtsRealtime(model="qwen3-tts-flash-realtime", callback=ear, url=address)
        client.connect()
        client.update_session(voice="Cherry", mode=mode)
        ear.wait("session.updated")
        for number, token in enumerate(TOKENS):
            client.append_text(token)
            time.sleep(STALL_S if number == 5 and mode == "server_commit" else 0.05)
        if mode == "server_commit":
            ear.wait("response.audio.delta")  # before the end of the text
            client.cancel_response()
            ear.wait("response.done")
            client.append_text("".join(TOKENS))
        else:
            client.commit()
            ear.wait("response.done")
        client.finish()
        ear.wait("session.finished")
        time.sleep(0.5)
        ended = ear.told.count("response.done")
        found[mode] = {"bytes": ear.num_bytes, "ended": ended, "code": ear.code}
    print(json.dumps(found))


main(sys.argv[1])
