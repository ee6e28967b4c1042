"""A worker process that imports what it needs and waits for its Start: half of a start's time.

A command that will need one may begin it `early`, before it imports anything else itself.
"""

import os
import socket
import subprocess
import sys
from typing import NamedTuple

# What the worker, which reads no keys, must not be able to tell anybody.
SECRET_VARIABLES = ("QTTS_API_KEYS",)


class Spawned(NamedTuple):
    """`socket` is our end; the worker ends when it is closed."""

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
    """For the first that takes it. An error is left to those who cannot do without."""
    try:
        _early.append(spawn())
    except OSError:
        return


def spawned() -> Spawned:
    """The one that was begun early, if it lives, or a new one."""
    while _early:
        early = _early.pop()
        if early.process.poll() is None:
            return early
        early.socket.close()
    return spawn()


def worker_environment() -> dict[str, str]:
    """What a worker inherits."""
    environment = {name: v for name, v in os.environ.items() if name not in SECRET_VARIABLES}
    # Spin briefly: without end starves what else runs on these cores, not at all costs a wake-up in
    # every operator (figures in benchmarks/RESULTS.md).
    environment.setdefault("GOMP_SPINCOUNT", "5000")
    return environment
