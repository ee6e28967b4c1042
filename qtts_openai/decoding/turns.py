"""Turns: a few at a time, one of a caller, the others wait in order and for a bounded time."""

import asyncio
import weakref
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from contextvars import ContextVar

# Whose request is being served. Routes set it, each in its request's own context.
current_caller: ContextVar[str] = ContextVar("current_caller", default="")


class BusyError(Exception):
    """Too many wait already, or this one waited too long."""


class Turns:
    def __init__(self, *, max_at_once: int, max_waiting: int, max_wait_s: float) -> None:
        self.max_waiting = max_waiting
        self.max_wait_s = max_wait_s
        self.num_waiting = 0
        self._places = asyncio.Semaphore(max_at_once)
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    @asynccontextmanager
    async def take(self) -> AsyncGenerator[None]:
        """The caller's own turn first, so that nobody queues twice for a place. BusyError."""
        lock = self._locks.setdefault(current_caller.get(), asyncio.Lock())
        if self.num_waiting >= self.max_waiting:
            raise BusyError
        self.num_waiting += 1
        try:
            async with asyncio.timeout(self.max_wait_s):
                await self._acquire(lock)
        except TimeoutError:
            raise BusyError from None
        finally:
            self.num_waiting -= 1
        try:
            yield
        finally:
            self._places.release()
            lock.release()

    async def _acquire(self, lock: asyncio.Lock) -> None:
        await lock.acquire()
        try:
            await self._places.acquire()
        except BaseException:
            lock.release()
            raise
