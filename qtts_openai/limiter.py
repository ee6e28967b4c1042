"""Limits per key (per address where there are no keys): answers at once, characters per minute.

Told in OpenAI's headers: x-ratelimit-*-requests are answers at once, x-ratelimit-*-tokens are
characters. Characters are a bucket that refills all the time, so no minute boundary lets two
minutes' worth through; a request larger than the bucket passes when the bucket is full.
"""

import time

from qtts_openai.errors import ApiError, retry_headers
from qtts_openai.settings import Limits

# Buckets that are full again are forgotten when there are this many.
_MAX_BUCKETS = 10_000
# When an answer ends cannot be known; this is when to ask again.
_BUSY_RETRY_S = 1.0


class Bucket:
    def __init__(self, capacity: int) -> None:
        self.level = float(capacity)
        self.at = time.monotonic()
        self.num_open = 0


class Lease:
    """The right to one answer. `release` is idempotent; `refund` is for requests that were refused
    before anything was spoken.
    """

    def __init__(self, bucket: Bucket, num_chars: int, headers: dict[str, str]) -> None:
        self.headers = headers
        self._bucket: Bucket | None = bucket
        self._num_chars = num_chars

    def release(self) -> None:
        bucket, self._bucket = self._bucket, None
        if bucket is not None:
            bucket.num_open -= 1

    def refund(self) -> None:
        if self._bucket is not None:
            self._bucket.level += self._num_chars
        self.release()


class Limiter:
    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._buckets: dict[str, Bucket] = {}

    def take(self, who: str, num_chars: int) -> Lease:
        """Raises a 429 with Retry-After."""
        bucket = self._bucket(who)
        most, per_minute = self.limits.max_concurrent_per_key, self.limits.chars_per_minute
        if most and bucket.num_open >= most:
            message = f"This key already has {most} answers under way."
            raise self._refusal(bucket, message, _BUSY_RETRY_S)
        needed = min(num_chars, per_minute)
        if per_minute and bucket.level < needed:
            wait_s = (needed - bucket.level) * 60 / per_minute
            message = f"This key may have {per_minute} characters a minute spoken."
            raise self._refusal(bucket, message, wait_s)
        bucket.level -= num_chars
        bucket.num_open += 1
        return Lease(bucket, num_chars, self._headers(bucket))

    def _bucket(self, who: str) -> Bucket:
        capacity = self.limits.chars_per_minute
        if who not in self._buckets and len(self._buckets) >= _MAX_BUCKETS:
            self._forget_idle()
        bucket = self._buckets.setdefault(who, Bucket(capacity))
        now = time.monotonic()
        bucket.level = min(capacity, bucket.level + (now - bucket.at) * capacity / 60)
        bucket.at = now
        return bucket

    def _forget_idle(self) -> None:
        before = time.monotonic() - 60
        self._buckets = {
            who: bucket
            for who, bucket in self._buckets.items()
            if bucket.num_open or bucket.at > before
        }

    def _refusal(self, bucket: Bucket, message: str, wait_s: float) -> ApiError:
        headers = {**self._headers(bucket), **retry_headers(wait_s)}
        return ApiError(429, message, code="rate_limit_exceeded", headers=headers)

    def _headers(self, bucket: Bucket) -> dict[str, str]:
        headers: dict[str, str] = {}
        if most := self.limits.max_concurrent_per_key:
            left = max(0, most - bucket.num_open)
            headers |= _named("requests", most, left, 0.0 if left else _BUSY_RETRY_S)
        if per_minute := self.limits.chars_per_minute:
            full_in_s = (per_minute - bucket.level) * 60 / per_minute
            headers |= _named("tokens", per_minute, max(0, int(bucket.level)), full_in_s)
        return headers


def _named(kind: str, limit: int, remaining: int, reset_s: float) -> dict[str, str]:
    return {
        f"x-ratelimit-limit-{kind}": str(limit),
        f"x-ratelimit-remaining-{kind}": str(remaining),
        f"x-ratelimit-reset-{kind}": f"{reset_s:.3f}s",
    }
