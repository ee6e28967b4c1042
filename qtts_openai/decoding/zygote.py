"""The process that children are forked from: the libraries are loaded once, each file gets a child.

    server --control socket--> zygote          one message per file, with that file's socket
    server ====file's socket=== child          a line that says what is wanted, bytes of the file;
                                               two bytes of greeting, a line of answer, samples

A child ends when its file's socket is closed at the server's end, whatever it is doing. All of them
end with the zygote, and the zygote ends when the control socket is closed. It never looks at a file
itself. Started by `client` as `python -P -m qtts_openai.decoding.zygote`, control socket on 0.
"""

import gc
import importlib
import io
import json
import os
import select
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import av
import msgspec

from qtts_openai.decoding import sandbox
from qtts_openai.decoding.decoder import RefusedError, decode, warm_up

TAKEN = b"."  # the zygote's only byte to a file's socket
# A child's first byte, from behind its filter of system calls; or there is none.
HELLO, HELLO_WITHOUT_FILTER = b"+", b"-"
MAX_LINE = 1000
READ_BYTES = 1 << 18
_JOB_FD = 3


class Zygote:
    def __init__(self, control: socket.socket) -> None:
        self.control = control
        self.jobs: dict[int, socket.socket] = {}  # by pid of the child
        self.wakeup, wakeup = socket.socketpair()
        self.wakeup.setblocking(False)
        wakeup.setblocking(False)
        self._wakeup_end = wakeup
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wakeup.fileno(), warn_on_full_buffer=False)

    def run(self) -> None:
        """Until the server closes the control socket."""
        while True:
            poll = select.poll()
            poll.register(self.control, select.POLLIN)
            poll.register(self.wakeup, select.POLLIN)
            for job in self.jobs.values():
                poll.register(job, 0)  # POLLHUP comes unasked: the server has closed its end
            ready = dict(poll.poll())
            self._kill({fd for fd, events in ready.items() if events & select.POLLHUP})
            if self.wakeup.fileno() in ready:
                self.wakeup.recv(1000)
            self._reap()
            if self.control.fileno() in ready and not self._accept():
                return

    def _accept(self) -> bool:
        message, fds, _, _ = socket.recv_fds(self.control, 1, 1)
        if not message:
            return False
        if not fds:  # no descriptor was free: the server reads the end of the socket
            return True
        job = socket.socket(fileno=fds[0])
        zygote = os.getpid()
        try:
            job.send(TAKEN)
            pid = os.fork()
        except OSError:
            job.close()  # the server takes it for a child that died
            return True
        if pid == 0:
            _be_child(job.fileno(), zygote)
        self.jobs[pid] = job
        return True

    def _kill(self, hung_up: set[int]) -> None:
        for pid, job in self.jobs.items():
            if job.fileno() in hung_up:
                os.kill(pid, signal.SIGKILL)

    def _reap(self) -> None:
        while self.jobs:
            pid, _ = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            # The last end on this side: the server reads what the child wrote, then the end.
            self.jobs.pop(pid).close()


def _be_child(job: int, zygote: int) -> NoReturn:
    status = 1
    try:
        sandbox.die_with_parent(zygote)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        # Where memory is short, the kernel takes this process before any other.
        Path("/proc/self/oom_score_adj").write_text("1000")
        os.dup2(job, _JOB_FD)
        os.closerange(_JOB_FD + 1, os.sysconf("SC_OPEN_MAX"))
        # What libraries print about a file is no line for the server's log.
        nowhere = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(nowhere, fd)
        os.close(nowhere)
        _serve(_JOB_FD)
        status = 0
    finally:
        os._exit(status)


def _serve(fd: int) -> None:
    """Reads a job, gives everything else up, reads the file and answers."""
    line = b""
    while not line.endswith(b"\n") and len(line) < MAX_LINE:
        line += os.read(fd, 1)
    job = json.loads(line)
    work = _loaded(job["function"]) if job["function"] else _decode
    filtered = sandbox.enter(memory_bytes=job["memory_bytes"], cpu_s=job["cpu_s"])
    _write(fd, HELLO if filtered else HELLO_WITHOUT_FILTER)
    parts = [_read(fd, num_bytes) for num_bytes in job["parts"]]
    try:
        answer = work(job, parts)
    except RefusedError as error:
        answer = json.dumps({"refused": str(error)}).encode() + b"\n"
    _write(fd, answer)


def _decode(job: dict[str, Any], parts: list[bytes]) -> bytes:
    samples = decode(parts[0], job["rate_hz"], job["min_s"], job["max_s"]).tobytes()
    return json.dumps({"num_bytes": len(samples)}).encode() + b"\n" + samples


def _loaded(function: str) -> Callable[[dict[str, Any], list[bytes]], bytes]:
    """Few files need more than decoding, so that only their children load what that takes."""
    module, _, name = function.partition(":")
    answer = getattr(importlib.import_module(module), name)

    def work(job: dict[str, Any], parts: list[bytes]) -> bytes:
        try:
            return msgspec.json.encode(answer(*parts)) + b"\n"
        except ValueError as error:
            raise RefusedError(str(error)) from error

    return work


def _read(fd: int, num_bytes: int) -> bytes:
    data = io.BytesIO()
    while data.tell() < num_bytes:
        part = os.read(fd, min(num_bytes - data.tell(), READ_BYTES))
        if not part:
            raise EOFError
        data.write(part)
    return data.getvalue()


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(5)  # listeners come first
    av.logging.set_level(av.logging.PANIC)
    control = socket.socket(fileno=0)
    warm_up()
    gc.collect()
    gc.freeze()  # children share these pages as long as none of them writes there
    control.send(b"+")
    Zygote(control).run()


if __name__ == "__main__":
    main()
