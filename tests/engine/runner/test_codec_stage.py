"""What the codec stage learns of its codecs before anybody speaks."""

from types import SimpleNamespace

import pytest

from engine.runner.codec_stage import CodecStage
from engine.scheduler.codec_schedule import DRY_CHUNK

CALL_S, FRAME_S, COLD_S = 0.02, 0.008, 0.5


class Codec:
    """Decodes nothing, for so many seconds."""

    def __init__(self) -> None:
        self.rows, self.started, self.sizes, self.now = [None] * 4, [], [], 0.0
        self.decoder = SimpleNamespace(config=SimpleNamespace(num_quantizers=16))

    def start(self, row: int) -> None:
        self.started.append(row)

    def decode(self, rows: list[int], frames: list[list[list[int]]]) -> SimpleNamespace:
        [codes] = frames
        is_new = len(codes) not in self.sizes
        self.sizes.append(len(codes))
        self.now += CALL_S + FRAME_S * len(codes) + COLD_S * is_new
        return SimpleNamespace(result=lambda: [b""])


def test_one_frame_and_a_few_are_timed_when_they_are_warm() -> None:
    codec = Codec()
    stage = CodecStage({"a": codec, "b": codec}, (1, 2, 4), clock=lambda: codec.now)
    stage.time_chunks()
    assert set(codec.started) == {3}, "the row that no stream has"
    assert codec.sizes == [1, 1, DRY_CHUNK, DRY_CHUNK], "models share a codec"
    assert stage.schedule.few_s == pytest.approx(CALL_S + FRAME_S)
    assert stage.schedule.many_s == pytest.approx(CALL_S / DRY_CHUNK + FRAME_S)
