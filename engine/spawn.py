"""Starts a worker process, which imports torch and then waits on its socket for a Start message.

The imports are half of what a start takes. So a command that will need a worker calls
`spawn_early` before its own imports, and the first WorkerProcess to start uses that process.
"""

import os
import socket
import subprocess
import sys
from typing import NamedTuple

# A worker has no use for these, so it does not get them: then it cannot leak them either.
SECRET_VARIABLES = ("QTTS_API_KEYS",)


class Spawned(NamedTuple):
    """`socket` is this process's end of a socket pair; the worker ends when it is closed."""

    process: "subprocess.Popen[bytes]"
    socket: socket.socket


_early: list[Spawned] = []


def spawn() -> Spawned:
    ours, theirs = socket.socketpair()
    try:
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "engine.worker", str(theirs.fileno())],
                pass_fds=[theirs.fileno()], env=worker_environment(), start_new_session=True,
            )  # fmt: skip
    except BaseException:
        ours.close()
        raise
    return Spawned(process, ours)


def spawn_early() -> None:
    """Start a process for the next call of `spawned`. If that fails, `spawned` tries again, and
    raises the error.
    """
    try:
        _early.append(spawn())
    except OSError:
        return


def spawned() -> Spawned:
    """The process that `spawn_early` started, if it still runs, else a new one."""
    while _early:
        early = _early.pop()
        if early.process.poll() is None:
            return early
        early.socket.close()
    return spawn()


def worker_environment() -> dict[str, str]:
    """What a worker inherits."""
    environment = {name: v for name, v in os.environ.items() if name not in SECRET_VARIABLES}
    # How long OpenMP's threads spin before they sleep: for ever would starve the other processes on
    # these cores, not at all would cost a wake-up in every operator (see benchmarks/RESULTS.md).
    environment.setdefault("GOMP_SPINCOUNT", "5000")
    return environment
