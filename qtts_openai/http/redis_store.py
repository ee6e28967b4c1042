"""Limits counted in a Redis (or a server that speaks its protocol) that several servers share.

One script decides whether a change is within the limits and makes it. A server renews its leases
every few seconds, so those of a server that died expire. If Redis cannot be reached, requests are
let through, with a warning in the log and a metric: limits are not worth an outage.
"""

import asyncio
import hashlib
import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from typing import Any

import msgspec

from qtts_openai.http.rate_store import Change, Standing
from qtts_openai.settings import Limits, SettingsError

logger = logging.getLogger(__name__)

PASSWORD_VARIABLE = "QTTS_REDIS_PASSWORD"
LEASE_S = 30.0
RENEW_S = LEASE_S / 3
# A Redis that does not answer for so long is left alone for a while.
TIMEOUT_S = 0.5
PAUSE_S = 1.0
_WARN_EVERY_S = 10.0
_MOST_AT_ONCE = 200

# One hash for each source: `level` of its bucket `at` a time in ms, and "<answers> <end>" by lease.
# Redis has the only clock. Returns what was refused, the level and the answers under way.
SCRIPT = """
local lease, places, absolute = ARGV[1], tonumber(ARGV[2]), ARGV[3] == "1"
local chars, returned, firm = tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6] == "1"
local most, per_minute, lease_ms = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local clock = redis.call("TIME")
local now = clock[1] * 1000 + clock[2] / 1000
local level, at, open, mine = per_minute, now, 0, 0
local kept = redis.call("HGETALL", KEYS[1])
for i = 1, #kept, 2 do
  local field, value = kept[i], kept[i + 1]
  if field == "level" then level = tonumber(value)
  elseif field == "at" then at = tonumber(value)
  else
    local number, ends = string.match(value, "(%d+) (%d+)")
    if tonumber(ends) <= now then redis.call("HDEL", KEYS[1], field)
    else
      open = open + tonumber(number)
      if field == lease then mine = tonumber(number) end
    end
  end
end
level = math.min(per_minute, level + math.max(0, now - at) * per_minute / 60000)
if not firm then
  if most > 0 and places > 0 and open + places > most then
    return {"requests", tostring(level), open}
  end
  if per_minute > 0 and chars > 0 and level + returned < math.min(chars, per_minute) then
    return {"tokens", tostring(level), open}
  end
end
local now_mine = math.max(0, absolute and places or mine + places)
if now_mine == 0 then redis.call("HDEL", KEYS[1], lease)
elseif now_mine ~= mine or absolute then
  local ends = string.format("%d %d", now_mine, now + lease_ms)
  redis.call("HSET", KEYS[1], lease, ends)
end
open = open - mine + now_mine
level = level + returned - chars
redis.call("HSET", KEYS[1], "level", string.format("%.3f", level), "at", string.format("%.3f", now))
local full_ms = per_minute > 0 and (per_minute - level) * 60000 / per_minute or 0
redis.call("PEXPIRE", KEYS[1], math.ceil(math.max(full_ms, lease_ms) + 1000))
return {"", tostring(level), open}
"""

Waiting = tuple[Change, "asyncio.Future[Standing | None] | None"]
Key = tuple[str, str]


class RedisStore:
    """`failed` is called for each change that Redis was not told. Changes are sent in order, as
    many together as wait.
    """

    def __init__(
        self, url: str, limits: Limits, failed: Callable[[int], None] = lambda num: None
    ) -> None:
        self._redis = _client(url)
        self._where = url.rpartition("@")[2]
        self._limits, self._failed = limits, failed
        self._waiting: list[Waiting] = []
        self._open: dict[Key, int] = {}
        self._wake = asyncio.Event()
        self._is_closing = False
        self._worker: asyncio.Task[None] | None = None
        self._renewed = self._away_until = self._warned = float("-inf")

    async def ask(self, change: Change) -> Standing | None:
        answer: asyncio.Future[Standing | None] = asyncio.get_running_loop().create_future()
        self._put(change, answer)
        return await answer

    def tell(self, change: Change) -> None:
        self._put(change, None)

    async def close(self) -> None:
        """Tell what waits, so that no lease outlives the server."""
        self._is_closing = True
        self._wake.set()
        if self._worker is not None:
            await self._worker
        await self._redis.aclose()

    def _put(self, change: Change, answer: "asyncio.Future[Standing | None] | None") -> None:
        if not self._limits.max_concurrent_per_key:
            change = msgspec.structs.replace(change, places=0)
        self._waiting.append((change, answer))
        self._wake.set()
        if self._worker is None:
            self._worker = asyncio.create_task(self._work(), name="rate-store")

    async def _work(self) -> None:
        while self._waiting or not self._is_closing:
            self._wake.clear()
            if not self._waiting:
                await self._rest()
            now, self._waiting = self._waiting[:_MOST_AT_ONCE], self._waiting[_MOST_AT_ONCE:]
            await self._settle(now)

    async def _rest(self) -> None:
        """Until something is to be told, or leases are to be renewed."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), RENEW_S if self._open else None)

    async def _settle(self, items: list[Waiting]) -> None:
        standings: list[Standing | None] = [None] * len(items)
        if time.monotonic() >= self._away_until:
            standings = await self._send([change for change, _ in items])
        elif items:
            self._failed(len(items))
        for (change, answer), standing in zip(items, standings, strict=True):
            self._note(change, standing)
            if answer is not None and not answer.done():
                answer.set_result(standing)

    async def _send(self, changes: list[Change]) -> list[Standing | None]:
        from redis.exceptions import RedisError

        renewals = self._renewals()
        calls = [self._arguments(change, absolute=True) for change in renewals]
        calls += [self._arguments(change) for change in changes]
        if not calls:
            return []
        try:
            async with self._redis.pipeline(transaction=False) as pipe:
                for call in calls:
                    pipe.eval(SCRIPT, 1, *call)
                answers = await pipe.execute()
        except (RedisError, OSError, TimeoutError) as error:
            self._give_up(error, len(changes))
            return [None] * len(changes)
        return [
            Standing(float(level), open_, refused.decode())
            for refused, level, open_ in answers[len(renewals) :]
        ]

    def _renewals(self) -> list[Change]:
        now = time.monotonic()
        if now < self._renewed + RENEW_S:
            return []
        self._renewed = now
        return [
            Change(who=who, lease=lease, places=places, firm=True)
            for (who, lease), places in self._open.items()
        ]

    def _arguments(self, change: Change, *, absolute: bool = False) -> list[Any]:
        source = hashlib.sha256(change.who.encode()).hexdigest()[:32]
        limits = self._limits
        return [
            f"qtts:limits:{source}",
            change.lease,
            change.places,
            int(absolute),
            change.num_chars,
            change.returned,
            int(change.firm),
            limits.max_concurrent_per_key,
            limits.chars_per_minute,
            int(LEASE_S * 1000),
        ]

    def _note(self, change: Change, standing: Standing | None) -> None:
        """Also what Redis was not told: the next renewal tells it."""
        if standing is not None and standing.refused:
            return
        key = change.who, change.lease
        places = max(0, self._open.pop(key, 0) + change.places)
        if places:
            self._open[key] = places

    def _give_up(self, error: Exception, num_changes: int) -> None:
        now = time.monotonic()
        self._failed(num_changes)
        self._away_until, self._renewed = now + PAUSE_S, float("-inf")
        if now >= self._warned + _WARN_EVERY_S:
            self._warned = now
            logger.warning(
                "limits are not held: the Redis at %s failed: %s", self._where, error or "timeout"
            )


def check_installed(url: str) -> None:
    if find_spec("redis") is None:
        raise SettingsError(f"{url.split(':')[0]}:// needs: pip install 'qtts-openai[redis]'")


def _client(url: str) -> Any:
    check_installed(url)
    from redis.asyncio import Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    password = os.environ.get(PASSWORD_VARIABLE)
    secret: dict[str, Any] = {"password": password} if password else {}
    try:
        return Redis.from_url(
            url,
            **secret,
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
            # Once more at once: a connection that was idle may have been closed.
            retry=Retry(NoBackoff(), 1),
        )
    except ValueError as error:
        raise SettingsError(str(error), "limits.store") from error
