"""Turns: a few at a time, one of a caller, the others wait in order and for a bounded time."""

import asyncio
import weakref
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar

# Whose request is being served. Routes set it, each in its request's own context.
current_caller: ContextVar[str] = ContextVar("current_caller", default="")


class BusyError(Exception):
    """Too many wait already, or this one waited too long."""


class Turns:
    """`max_waiting` in all, and a third of that of a caller: a batch of the greatest size fits."""

    def __init__(self, *, max_at_once: int, max_wait_s: float, max_waiting: int = 120) -> None:
        self.max_waiting = max_waiting
        self.max_wait_s = max_wait_s
        self.num_waiting: Counter[str] = Counter()
        self._places = asyncio.Semaphore(max_at_once)
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    @asynccontextmanager
    async def take(self) -> AsyncGenerator[None]:
        """The caller's own turn first, so that no caller queues twice for a place. BusyError."""
        caller = current_caller.get()
        lock = self._locks.setdefault(caller, asyncio.Lock())
        with self._waiting(caller):
            try:
                async with asyncio.timeout(self.max_wait_s):
                    await self._acquire(lock)
            except TimeoutError:
                raise BusyError from None
        try:
            yield
        finally:
            self._places.release()
            lock.release()

    @contextmanager
    def _waiting(self, caller: str) -> Iterator[None]:
        waiting = self.num_waiting
        if waiting.total() >= self.max_waiting or waiting[caller] >= self.max_waiting // 3:
            raise BusyError
        waiting[caller] += 1
        try:
            yield
        finally:
            waiting[caller] -= 1
            if not waiting[caller]:
                del waiting[caller]

    async def _acquire(self, lock: asyncio.Lock) -> None:
        await lock.acquire()
        try:
            await self._places.acquire()
        except BaseException:
            lock.release()
            raise
