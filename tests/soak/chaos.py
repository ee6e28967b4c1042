"""What goes wrong while people call: each trouble is begun, kept for a moment, ended, and lasts
until the server speaks again.
"""

import asyncio
import os
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from tests.attack.conftest import Victim
from tests.soak.ledger import Troubles

BACK_S = 60.0
DISK = "8m"
DAY_S = 86_400.0


class Chaos:
    """`disk`: where the voices are, if it is a small one of its own; `clock`: the file that the
    server's time of day is shifted by, if it can be.
    """

    def __init__(
        self, victim: Victim, troubles: Troubles, disk: Path | None, clock: Path | None
    ) -> None:
        self.victim, self.troubles = victim, troubles
        self._disk, self._clock = disk, clock
        self.kinds: list[Callable] = [self.worker_killed, self.worker_stopped, self.decoder_killed]
        self.kinds += [self.disk_full] if disk else []
        self.kinds += [self.clock_jumps] if clock else []
        self.worst_s = 0.0

    async def one(self, number: int) -> None:
        await self.kinds[number % len(self.kinds)]()

    async def worker_killed(self) -> None:
        with self.troubles.during("worker: kill -9") as trouble:
            os.kill(self.victim.worker(), signal.SIGKILL)
            await self.back(trouble.began)

    async def worker_stopped(self) -> None:
        """It hangs: nobody but the watchdog can tell."""
        with self.troubles.during("worker: SIGSTOP") as trouble:
            os.kill(self.victim.worker(), signal.SIGSTOP)
            await self.back(trouble.began)

    async def decoder_killed(self) -> None:
        """The process that reads others' audio, and what it has forked."""
        with self.troubles.during("decoder: kill -9") as trouble:
            for process in children(self.victim.process.pid):
                if b"zygote" in process.read_bytes():
                    os.kill(int(process.parent.name), signal.SIGKILL)
            await self.back(trouble.began)

    async def disk_full(self) -> None:
        assert self._disk is not None
        with self.troubles.during("disk full") as trouble:
            filler = self._disk / "filler"
            with suppress(OSError), filler.open("wb", 0) as file:
                while True:
                    file.write(bytes(4096))
            await self.back(trouble.began)
            await asyncio.sleep(3)
            filler.unlink()

    async def clock_jumps(self) -> None:
        """A day ahead, two back, and right again: no excuse for anything."""
        assert self._clock is not None
        for offset_s in (DAY_S, -DAY_S, 0.0):
            with self._clock.open("r+b", 0) as file:  # never shorter: the server has it mapped
                file.write(struct.pack("<d", offset_s))
            await asyncio.sleep(1)

    async def back(self, since: float) -> None:
        """Until a new utterance is spoken."""
        body = {"model": "tts-1", "voice": "alloy", "input": "Hi.", "max_new_tokens": 2}
        async with httpx.AsyncClient(base_url=self.victim.url, trust_env=False) as client:
            while time.monotonic() < since + BACK_S:
                with suppress(httpx.HTTPError):
                    answer = await client.post("/v1/audio/speech", json=body, timeout=20)
                    if answer.status_code == 200:
                        return
                await asyncio.sleep(0.1)
        raise AssertionError(f"not back after {BACK_S} s: {self.victim.log.read_text()[-3000:]}")


def children(pid: int) -> Iterator[Path]:
    """Their command lines."""
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        yield Path(f"/proc/{child}/cmdline")


@contextmanager
def small_disk(directory: Path) -> Iterator[Path | None]:
    """None where none can be mounted."""
    disk = directory / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        yield None
        return
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def shifted_clock(directory: Path) -> tuple[Path | None, dict[str, str]]:
    """The file to write seconds into, and the environment of a server that reads it; None without
    a C compiler.
    """
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None, {}
    library, clock = directory / "clock.so", directory / "clock"
    source = Path(__file__).with_name("clock.c")
    command = [compiler, "-shared", "-fPIC", "-O2", str(source), "-o", str(library), "-ldl"]
    subprocess.run(command, check=True)
    clock.write_bytes(struct.pack("<d", 0.0))
    return clock, {"LD_PRELOAD": str(library), "SOAK_CLOCK": str(clock)}
