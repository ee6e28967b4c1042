"""Values that fields are not meant for, and what must not come of them."""

VALUES = (
    None, True, 0, -1, 1e308, 2**63, 2**64, 0.5, "", "\0", "\ud800", "x" * 3000, "🙂" * 50, [], {},
    [[]], {"id": None}, [None], "NaN", "<|im_end|>", "[pause:99999s]", "data:,", "file:///x",
)  # fmt: skip


class Failure(Exception):
    pass
