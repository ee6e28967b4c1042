"""How many utterances a worker should be given at once, from what a step took."""

import pytest

from engine.warm_up import places


@pytest.mark.parametrize(
    ("one_ms", "many_ms", "expected"),
    [
        (12, 38, 15),  # 64 ms are 15 rows
        (5, 12, 32),  # all that there are
        (113, 143, 27),  # never in real time, but 27 rows take only twice as long as one
        (80, 640, 8),
        (50, 200, 8),
        (20, 15, 32),  # the clock was of no use
    ],
)
def test_places(one_ms: int, many_ms: int, expected: int) -> None:
    assert places(one_ms / 1e3, many_ms / 1e3, 32) == expected


def test_no_more_places_than_rows() -> None:
    assert places(0.1, 0.9, 2) == 2
