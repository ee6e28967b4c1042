"""Where limits are counted: in this process, or in a Redis that several servers share.

A source has a bucket of characters that refills all the time, and leases, each with a number of
answers under way. Every question is one `Change`, decided and done in one step.
"""

import heapq
import time
from typing import Literal, Protocol

import msgspec

from qtts_openai.settings import Limits

# Beyond so many sources the one that is nearest to a full bucket is forgotten.
MAX_BUCKETS = 10_000

Refused = Literal["", "requests", "tokens"]


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """`places`: answers more or less under the lease. `num_chars` are taken and `returned` given
    back before. Only a `firm` one is never refused: it tells of what has happened.
    """

    who: str
    lease: str
    places: int = 0
    num_chars: int = 0
    returned: int = 0
    firm: bool = False


class Standing(msgspec.Struct, frozen=True):
    """A source after a change, or as it was where that was refused. `level` is what its bucket
    holds: a debt is below 0.
    """

    level: float = 0.0
    num_open: int = 0
    refused: Refused = ""


class RateStore(Protocol):
    async def ask(self, change: Change) -> Standing | None:
        """None: the store cannot tell, so the answer is given."""

    def tell(self, change: Change) -> Standing | None:
        """Done now, or soon by a store that is elsewhere (None then)."""

    async def close(self) -> None: ...


def wait_s(level: float, needed: float, per_minute: int) -> float:
    """Seconds until so much is in a bucket."""
    return max(0.0, needed - level) * 60 / per_minute if per_minute else 0.0


class Bucket:
    def __init__(self, capacity: int, now: float) -> None:
        self.capacity = capacity
        self.level = float(capacity)
        self.at = now
        self.num_open = 0

    def refill(self, now: float) -> None:
        self.level = min(self.capacity, self.level + (now - self.at) * self.capacity / 60)
        self.at = now

    def wait_s(self, needed: float) -> float:
        """Seconds from `at` until so much is in it."""
        return wait_s(self.level, needed, self.capacity)

    def standing(self, refused: Refused = "") -> Standing:
        return Standing(self.level, self.num_open, refused)


class MemoryStore:
    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._is_off = not (limits.max_concurrent_per_key or limits.chars_per_minute)
        self._buckets: dict[str, Bucket] = {}
        # One entry for each bucket: when it can be forgotten, or an earlier time.
        self._by_end: list[tuple[float, str]] = []

    async def ask(self, change: Change) -> Standing:
        return self.tell(change)

    def tell(self, change: Change) -> Standing:
        bucket = self._bucket(change.who)
        refused = "" if change.firm else self._refused(bucket, change)
        if not refused:
            bucket.level += change.returned - change.num_chars
            bucket.num_open += change.places
        return bucket.standing(refused)

    def _refused(self, bucket: Bucket, change: Change) -> Refused:
        most = self.limits.max_concurrent_per_key
        if most and change.places > 0 and bucket.num_open + change.places > most:
            return "requests"
        needed = min(change.num_chars, bucket.capacity) - change.returned
        return "tokens" if change.num_chars and bucket.wait_s(needed) > 0 else ""

    async def close(self) -> None:
        pass

    def _bucket(self, who: str) -> Bucket:
        now = time.monotonic()
        self._forget(now)
        bucket = self._buckets.get(who)
        if bucket is None:
            bucket = Bucket(self.limits.chars_per_minute, now)
            if not self._is_off:
                self._buckets[who] = bucket
                heapq.heappush(self._by_end, (now + 1, who))
        bucket.refill(now)
        return bucket

    def _forget(self, now: float) -> None:
        """Drop buckets that are full, and beyond the bound those that are nearest to it, so that
        the largest debts are kept. A few at each call, which is as many as can come in between.
        """
        for _ in range(4):
            is_over = len(self._buckets) >= MAX_BUCKETS
            if not self._by_end or (self._by_end[0][0] > now and not is_over):
                return
            noted, who = self._by_end[0]
            bucket = self._buckets[who]
            end = bucket.at + bucket.wait_s(bucket.capacity)
            if bucket.num_open or end > max(noted, now):
                heapq.heapreplace(self._by_end, (max(end, now + 1), who))
            else:
                heapq.heappop(self._by_end)
                del self._buckets[who]
