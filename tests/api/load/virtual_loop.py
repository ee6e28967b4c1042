"""An event loop whose clock goes on only while everybody waits: delays are exact, and take no time.

Bytes between sockets of one process arrive at once; a while of the machine's own time is allowed
for it.
"""

import asyncio
import selectors

GRACE_S = 0.01


class _Selector(selectors.DefaultSelector):
    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout <= 0:
            return super().select(timeout)
        ready = super().select(GRACE_S)
        if not ready:
            self.now += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._clock = _Selector()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now
