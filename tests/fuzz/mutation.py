"""Random changes to bytes, and odd values for fields; each run repeatable from its seed."""

from random import Random

# Sizes, counts and offsets at the edges of what headers can hold.
EDGES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
HEAD_BYTES = 400
# What a field of a JSON message may be that nobody means.
VALUES = (
    None, True, 0, -1, 1e308, 2**63, 2**64, 0.5, "", "\0", "\ud800", "x" * 3000, "🙂" * 50, [], {},
    [[]], {"id": None}, [None], "NaN", "<|im_end|>", "[pause:99999s]", "data:,", "file:///x",
)  # fmt: skip


def mutate(random: Random, data: bytes, others: list[bytes]) -> bytes:
    """`data` after one to eight changes; mostly its first bytes stay, which choose the parser."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 3, 5, 8))):
        random.choice(CHANGES)(random, changed, others)
    if random.random() < 0.85:
        changed[:12] = data[:12]
    return bytes(changed)


def _place(random: Random, data: bytearray) -> int:
    """Half of all changes go to where headers are."""
    size = len(data)
    if not size:
        return 0
    return random.randrange(min(size, HEAD_BYTES) if random.random() < 0.5 else size)


def _flip(random: Random, data: bytearray, others: list[bytes]) -> None:
    if data:
        data[_place(random, data)] ^= 1 << random.randrange(8)


def _byte(random: Random, data: bytearray, others: list[bytes]) -> None:
    if data:
        data[_place(random, data)] = random.randrange(256)


def _number(random: Random, data: bytearray, others: list[bytes]) -> None:
    size, order = random.choice((1, 2, 4, 8)), random.choice(("little", "big"))
    value = random.choice((*EDGES, random.getrandbits(8 * size))) & (1 << 8 * size) - 1
    at = _place(random, data)
    data[at : at + size] = value.to_bytes(size, order)


def _cut(random: Random, data: bytearray, others: list[bytes]) -> None:
    del data[_place(random, data) :]


def _delete(random: Random, data: bytearray, others: list[bytes]) -> None:
    at = _place(random, data)
    del data[at : at + random.choice((1, 4, 16, 300))]


def _repeat(random: Random, data: bytearray, others: list[bytes]) -> None:
    at, size = _place(random, data), random.choice((1, 4, 32, 1000))
    data[at:at] = bytes(data[at : at + size]) * random.choice((1, 2, 50))


def _noise(random: Random, data: bytearray, others: list[bytes]) -> None:
    at = _place(random, data)
    part = random.randbytes(random.choice((2, 16, 500)))
    data[at : at + len(part)] = part


def _splice(random: Random, data: bytearray, others: list[bytes]) -> None:
    other = random.choice(others)
    if other:
        start = random.randrange(len(other))
        data[_place(random, data) :] = other[start:]


CHANGES = (_flip, _byte, _number, _number, _cut, _delete, _repeat, _noise, _splice)
