"""The expected length of a text is of the right order for every script."""

import pytest

from engine import FRAME_S
from qtts_openai.text.duration_estimate import expected_frames


@pytest.mark.parametrize(
    ("text", "shortest_s", "longest_s"),
    [
        ("Good morning. The train to Boston leaves at nine fifteen.", 2.5, 5.5),
        ("1次", 0.4, 1.5),
        ("今天天气很好,我们去公园散步吧。", 2.5, 6.0),
        ("Доброе утро, поезд отправляется в девять.", 2.0, 5.0),
        ("Call 555-0123 at 9:15.", 3.0, 8.0),
        ("おはようございます", 1.0, 3.5),
    ],
)
def test_seconds(text: str, shortest_s: float, longest_s: float) -> None:
    assert shortest_s < expected_frames(text) * FRAME_S < longest_s


def test_more_text_takes_longer() -> None:
    assert expected_frames("") == 0
    assert expected_frames("hello hello") == pytest.approx(2 * expected_frames("hello"))
