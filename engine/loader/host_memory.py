"""How much memory this process may still take: what the host has to spare, and what the control
groups it runs in (containers, services) leave of their limits.

Files that the kernel keeps in memory count as free on both sides: it drops them on demand.
"""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

# How a control group says its limit, its use, and the parts of its use that hold files.
V2 = ("memory.max", "memory.current", ("active_file", "inactive_file"))
V1 = (
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    ("total_active_file", "total_inactive_file"),
)


def available_bytes(root: Path = Path("/")) -> int:
    """`root`: where /proc and /sys are found."""
    return min([_host_bytes(root), *_group_bytes(root)])


def _host_bytes(root: Path) -> int:
    """MemAvailable. MemFree would leave out what files are kept in, which is most of a host that
    has run for a day.
    """
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):  # not Linux
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _group_bytes(root: Path) -> Iterator[int]:
    """What each limit leaves, from this process's group up to the outermost one it can see."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            yield from _walk(root / "sys/fs/cgroup", path, *V2)
        elif "memory" in controllers.split(","):
            yield from _walk(root / "sys/fs/cgroup/memory", path, *V1)


def _walk(
    mount: Path, path: str, limit: str, use: str, file_fields: tuple[str, ...]
) -> Iterator[int]:
    """A container may see its own group as the mount itself, under a path of the host's: groups
    that are not there are passed over.
    """
    own = mount / path.lstrip("/")
    for group in (own, *own.parents):
        if not group.is_relative_to(mount):
            return
        left = _left(group, limit, use, file_fields)
        if left is not None:
            yield left


def _left(group: Path, limit: str, use: str, file_fields: tuple[str, ...]) -> int | None:
    """None where there is no limit ("max") or no such group."""
    try:
        most, used = int((group / limit).read_text()), int((group / use).read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return most - used + sum(int(stat.get(name, 0)) for name in file_fields)
    except (OSError, ValueError):
        return None


def zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """As torch.zeros, which on a CPU would write, and so take, what nobody has used yet."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    size = int(np.prod(shape)) * dtype.itemsize
    return torch.from_numpy(np.zeros(size, dtype=np.uint8)).view(dtype).view(shape)


M_MMAP_THRESHOLD = -3  # of glibc's mallopt
LOADING_BYTES, RUNNING_BYTES = 1 << 16, 1 << 25


@contextmanager
def freed_at_once() -> Iterator[None]:
    """Weights that are dropped inside go back to the system. glibc would soon take blocks of up to
    32 MB from its heap, where packed weights between them keep the holes of plain ones.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", lambda name, value: 0)
    mallopt(M_MMAP_THRESHOLD, LOADING_BYTES)
    try:
        yield
    finally:
        mallopt(M_MMAP_THRESHOLD, RUNNING_BYTES)
