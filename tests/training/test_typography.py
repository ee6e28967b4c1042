# ruff: noqa: RUF001
"""Texts in other clothes still point at the sound they stand for."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from training.typography import dress

TEXTS = st.text("aBz '.,?!-9", min_size=1, max_size=60).map(lambda text: f"It's, and {text}")


@given(text=TEXTS, seed=st.integers(0, 1000))
def test_every_letter_is_found_again_in_order(text: str, seed: int) -> None:
    dressed, offsets = dress(text, np.random.default_rng(seed))
    data = dressed.encode()
    assert len(offsets) == len(text) + 1 and offsets[-1] == len(data)
    assert (np.diff(offsets) >= 0).all()
    for char, start, end in zip(text, offsets[:-1], offsets[1:], strict=True):
        piece = data[start:end].decode()
        if char.isalnum() and "&" not in dressed:
            assert char.casefold() in piece.casefold()


def test_all_kinds_of_marks_come_up() -> None:
    rng = np.random.default_rng(0)
    seen = "".join(dress("Don't go, and stay. It is all right.", rng)[0] for _ in range(300))
    assert all(mark in seen for mark in "’“”—…&*`\n();") and "DON" in seen
