"""What a process gives up before it reads a hostile file. Needs no privilege; cannot be undone.

limits          memory, CPU seconds, no bytes written to files, no new descriptor, no new process
syscall filter  (seccomp, Linux on x86-64 and arm64) memory, clocks, and read and write of what is
                open; all other calls fail with EPERM: no file, no socket, no signal to others

Where the filter cannot be set the limits still let nothing be opened or connected.
"""

import ctypes
import os
import platform
import resource
import struct
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_SECCOMP = 22
_PR_SET_NO_NEW_PRIVS = 38
_FILTER_MODE = 2

# Classic BPF over struct seccomp_data {int nr; u32 arch; ...}.
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_NR, _ARCH = 0, 4
_ALLOW, _KILL, _EPERM = 0x7FFF0000, 0x80000000, 0x00050001

# machine -> (AUDIT_ARCH_*, numbers of the system calls that stay)
_ALLOWED = {
    "x86_64": (
        0xC000003E,
        {
            "read": 0, "write": 1, "close": 3, "fstat": 5, "lseek": 8, "mmap": 9, "mprotect": 10,
            "munmap": 11, "brk": 12, "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15,
            "sched_yield": 24, "mremap": 25, "madvise": 28, "nanosleep": 35, "getpid": 39,
            "exit": 60, "gettid": 186, "futex": 202, "sched_getaffinity": 204,
            "restart_syscall": 219, "clock_gettime": 228, "clock_nanosleep": 230,
            "exit_group": 231, "getrandom": 318,
        },
    ),
    "aarch64": (
        0xC00000B7,
        {
            "close": 57, "lseek": 62, "read": 63, "write": 64, "fstat": 80, "exit": 93,
            "exit_group": 94, "futex": 98, "nanosleep": 101, "clock_gettime": 113,
            "clock_nanosleep": 115, "sched_getaffinity": 123, "sched_yield": 124,
            "restart_syscall": 128, "rt_sigaction": 134, "rt_sigprocmask": 135,
            "rt_sigreturn": 139, "getpid": 172, "gettid": 178, "brk": 214, "munmap": 215,
            "mremap": 216, "mmap": 222, "mprotect": 226, "madvise": 233, "getrandom": 278,
        },
    ),
}  # fmt: skip


class _Program(ctypes.Structure):
    """struct sock_fprog"""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent(pid: int) -> None:
    """`pid` is the parent's: it may have died before this was called."""
    _libc.prctl(_PR_SET_PDEATHSIG, 9, 0, 0, 0)
    if os.getppid() != pid:
        os._exit(1)


def enter(*, memory_bytes: int, cpu_s: int) -> bool:
    """Gives up all that decoding does not need; `memory_bytes` come on top of what is mapped.

    False where there is no syscall filter; the limits hold all the same.
    """
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    for limit, value in (
        (resource.RLIMIT_AS, mapped + memory_bytes),
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_NOFILE, 0),
    ):
        resource.setrlimit(limit, (value, value))
    return _filter_syscalls()


def _filter_syscalls() -> bool:
    if platform.machine() not in _ALLOWED:
        return False
    program = _program(*_ALLOWED[platform.machine()])
    code = ctypes.create_string_buffer(program, len(program))
    wanted = _Program(len(program) // 8, ctypes.addressof(code))
    return bool(
        _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
        and _libc.prctl(_PR_SET_SECCOMP, _FILTER_MODE, ctypes.byref(wanted), 0, 0) == 0
    )


def _program(arch: int, allowed: dict[str, int]) -> bytes:
    numbers = sorted(allowed.values())
    last = len(numbers) - 1
    return b"".join(
        [
            _instruction(_LOAD, _ARCH),
            _instruction(_JUMP_IF_EQUAL, arch, 1, 0),
            _instruction(_RETURN, _KILL),
            _instruction(_LOAD, _NR),
            *(
                _instruction(_JUMP_IF_EQUAL, number, last - place + 1, 0)
                for place, number in enumerate(numbers)
            ),
            _instruction(_RETURN, _EPERM),
            _instruction(_RETURN, _ALLOW),
        ]
    )


def _instruction(code: int, operand: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, operand)
