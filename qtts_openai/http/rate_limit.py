"""Limits per source (a key, or an address where there are no keys): answers at once, characters per
minute.

Told in OpenAI's headers: x-ratelimit-*-requests are answers at once, x-ratelimit-*-tokens are
characters. Characters are a bucket that refills all the time, so no minute boundary lets two
minutes' worth through; a request larger than the bucket passes when the bucket is full and leaves
a debt. The items of a batch are answers, too.
"""

import heapq
import time

from qtts_openai.errors import ApiError, retry_headers
from qtts_openai.settings import Limits

# Beyond so many sources the one that is nearest to a full bucket is forgotten.
MAX_BUCKETS = 10_000
# When an answer ends cannot be known; this is when to ask again.
_BUSY_RETRY_S = 1.0


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
        return max(0.0, needed - self.level) * 60 / self.capacity if self.capacity else 0.0


class Lease:
    """The right to one answer of `num_chars`. `release` is idempotent; `refund` is for requests
    that were refused before anything was spoken.
    """

    def __init__(self, limiter: "Limiter", bucket: Bucket, num_chars: int) -> None:
        self._limiter = limiter
        self._bucket = bucket
        self._num_chars = num_chars
        self._num_open = 1

    @property
    def headers(self) -> dict[str, str]:
        return self._limiter.headers(self._bucket)

    def settle(self, num_chars: int) -> None:
        """What is to be spoken is known now. A 429 where it is more than the source has left."""
        self._bucket.level += self._num_chars
        try:
            self._limiter.check_level(self._bucket, num_chars)
        except ApiError:
            self._bucket.level -= self._num_chars
            raise
        self._bucket.level -= num_chars
        self._num_chars = num_chars

    def charge(self, change: int) -> None:
        """Another number of characters for an answer that was promised already."""
        self._bucket.level -= change
        self._num_chars += change

    def extend(self) -> bool:
        """Whether one more answer may run at once under this lease."""
        if not self._limiter.has_place(self._bucket):
            return False
        self._bucket.num_open += 1
        self._num_open += 1
        return True

    def shrink(self) -> None:
        """One answer less; the first one stays until the release."""
        if self._num_open > 1:
            self._num_open -= 1
            self._bucket.num_open -= 1

    def release(self) -> None:
        self._bucket.num_open -= self._num_open
        self._num_open = 0

    def refund(self) -> None:
        self.charge(-self._num_chars)
        self.release()


class Limiter:
    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._is_off = not (limits.max_concurrent_per_key or limits.chars_per_minute)
        self._buckets: dict[str, Bucket] = {}
        # One entry for each bucket: when it can be forgotten, or an earlier time.
        self._by_end: list[tuple[float, str]] = []

    def acquire(self, who: str, num_chars: int) -> Lease:
        """Raises a 429 with Retry-After."""
        bucket = self._bucket(who)
        if not self.has_place(bucket):
            most = self.limits.max_concurrent_per_key
            message = f"This key already has {most} answers under way."
            raise self._refusal(bucket, message, _BUSY_RETRY_S)
        self.check_level(bucket, num_chars)
        bucket.level -= num_chars
        bucket.num_open += 1
        return Lease(self, bucket, num_chars)

    def has_place(self, bucket: Bucket) -> bool:
        most = self.limits.max_concurrent_per_key
        return not most or bucket.num_open < most

    def check_level(self, bucket: Bucket, num_chars: int) -> None:
        per_minute = self.limits.chars_per_minute
        wait_s = bucket.wait_s(min(num_chars, per_minute))
        if wait_s > 0:
            message = f"This key may have {per_minute} characters a minute spoken."
            raise self._refusal(bucket, message, wait_s)

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

    def _refusal(self, bucket: Bucket, message: str, wait_s: float) -> ApiError:
        headers = {**self.headers(bucket), **retry_headers(wait_s)}
        return ApiError(429, message, code="rate_limit_exceeded", headers=headers)

    def headers(self, bucket: Bucket) -> dict[str, str]:
        headers: dict[str, str] = {}
        if most := self.limits.max_concurrent_per_key:
            left = max(0, most - bucket.num_open)
            headers |= _named("requests", most, left, 0.0 if left else _BUSY_RETRY_S)
        if per_minute := self.limits.chars_per_minute:
            full_in_s = bucket.wait_s(per_minute)
            headers |= _named("tokens", per_minute, max(0, int(bucket.level)), full_in_s)
        return headers


def _named(kind: str, limit: int, remaining: int, reset_s: float) -> dict[str, str]:
    return {
        f"x-ratelimit-limit-{kind}": str(limit),
        f"x-ratelimit-remaining-{kind}": str(remaining),
        f"x-ratelimit-reset-{kind}": f"{reset_s:.3f}s",
    }
