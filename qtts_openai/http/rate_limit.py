"""Limits per source (a key, or an address where there are no keys): answers at once, characters per
minute.

Shown in OpenAI's headers: x-ratelimit-*-requests are answers at once, x-ratelimit-*-tokens are
characters. Characters are a bucket that refills all the time, so no minute boundary lets two
minutes' worth through; a request larger than the bucket passes when the bucket is full and leaves
a debt. The items of a batch are answers, too.
"""

import secrets
from collections.abc import Callable
from typing import Any

from qtts_openai.errors import ApiError, retry_headers
from qtts_openai.http.rate_store import Change, MemoryStore, RateStore, Standing, wait_s
from qtts_openai.http.redis_store import RedisStore
from qtts_openai.settings import Limits

# When an answer ends cannot be known; this is when to ask again.
_BUSY_RETRY_S = 1.0


class Lease:
    """The right to one answer of `num_chars`. `release` is idempotent; `refund` is for requests
    that were refused before anything was spoken.
    """

    def __init__(self, limiter: "Limiter", who: str) -> None:
        self._limiter = limiter
        self._who = who
        self._id = secrets.token_hex(8)
        self._num_chars = 0
        self._num_open = 0
        self._standing: Standing | None = None

    async def begin(self, num_chars: int) -> None:
        await self._ask(places=1, num_chars=num_chars)

    @property
    def headers(self) -> dict[str, str]:
        return self._limiter.headers(self._standing)

    async def settle(self, num_chars: int) -> None:
        """What is to be spoken is known now. A 429 where it is more than the source has left."""
        await self._ask(num_chars=num_chars, returned=self._num_chars)

    def charge(self, change: int) -> None:
        """Another number of characters for an answer that was promised already."""
        self._tell(num_chars=change)

    async def extend(self) -> bool:
        """Whether one more answer may run at once under this lease."""
        try:
            await self._ask(places=1)
        except ApiError:
            return False
        return True

    def shrink(self) -> None:
        """One answer less; the first one stays until the release."""
        if self._num_open > 1:
            self._tell(places=-1)

    def release(self) -> None:
        if self._num_open > 0:
            self._tell(places=-self._num_open)

    def refund(self) -> None:
        self.charge(-self._num_chars)
        self.release()

    async def _ask(self, **fields: Any) -> None:
        change = Change(who=self._who, lease=self._id, **fields)
        # Noted before it is known: a release meanwhile gives back what may just have been given.
        self._num_open += change.places
        standing = await self._limiter.store.ask(change)
        self._standing = standing or self._standing
        if standing is not None and standing.refused:
            self._num_open -= change.places
            raise self._limiter.refusal(standing, change)
        self._num_chars += change.num_chars - change.returned

    def _tell(self, **fields: Any) -> None:
        change = Change(who=self._who, lease=self._id, firm=True, **fields)
        self._num_open += change.places
        self._num_chars += change.num_chars
        self._standing = self._limiter.store.tell(change) or self._standing


def rate_store(limits: Limits, failed: Callable[[int], None]) -> RateStore:
    """The one that the settings name; SettingsError where it cannot be had here."""
    if limits.store == "memory":
        return MemoryStore(limits)
    return RedisStore(limits.store, limits, failed)


class Limiter:
    def __init__(self, limits: Limits, store: RateStore | None = None) -> None:
        self.limits = limits
        self.store = store or MemoryStore(limits)

    async def acquire(self, who: str, num_chars: int) -> Lease:
        """Raises a 429 with Retry-After."""
        lease = Lease(self, who)
        try:
            await lease.begin(num_chars)
        except BaseException:
            lease.release()
            raise
        return lease

    def refusal(self, standing: Standing, change: Change) -> ApiError:
        most, per_minute = self.limits.max_concurrent_per_key, self.limits.chars_per_minute
        if standing.refused == "requests":
            message, after_s = f"This key already has {most} answers under way.", _BUSY_RETRY_S
        else:
            message = f"This key may have {per_minute} characters a minute spoken."
            needed = min(change.num_chars, per_minute) - change.returned
            after_s = wait_s(standing.level, needed, per_minute)
        headers = {**self.headers(standing), **retry_headers(after_s)}
        return ApiError(429, message, code="rate_limit_exceeded", headers=headers)

    def headers(self, standing: Standing | None) -> dict[str, str]:
        headers: dict[str, str] = {}
        if standing is None:
            return headers
        if most := self.limits.max_concurrent_per_key:
            left = max(0, most - standing.num_open)
            headers |= _named("requests", most, left, 0.0 if left else _BUSY_RETRY_S)
        if per_minute := self.limits.chars_per_minute:
            full_in_s = wait_s(standing.level, per_minute, per_minute)
            headers |= _named("tokens", per_minute, max(0, int(standing.level)), full_in_s)
        return headers


def _named(kind: str, limit: int, remaining: int, reset_s: float) -> dict[str, str]:
    return {
        f"x-ratelimit-limit-{kind}": str(limit),
        f"x-ratelimit-remaining-{kind}": str(remaining),
        f"x-ratelimit-reset-{kind}": f"{reset_s:.3f}s",
    }
