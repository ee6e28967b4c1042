"""What a process may still take, by /proc and /sys of machines and containers of every kind."""

from pathlib import Path

import pytest

from engine.loader.host_memory import available_bytes

MIB = 1 << 20


def host(root: Path, *, free: int, available: int, cgroup: str = "") -> Path:
    (root / "proc/self").mkdir(parents=True)
    meminfo = (
        f"MemTotal: 64000000 kB\nMemFree: {free >> 10} kB\nMemAvailable: {available >> 10} kB\n"
    )
    (root / "proc/meminfo").write_text(meminfo)
    (root / "proc/self/cgroup").write_text(cgroup)
    return root


def group(path: Path, **files: object) -> None:
    path.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (path / name.replace("__", ".")).write_text(f"{value}\n")


def v2(path: Path, limit: object, use: int, file_cache: int = 0) -> None:
    stat = f"anon {use - file_cache}\nactive_file {file_cache // 4}\n"
    stat += f"inactive_file {file_cache - file_cache // 4}"
    group(path, memory__max=limit, memory__current=use, memory__stat=stat)


def test_files_that_the_kernel_keeps_count_as_free(tmp_path: Path) -> None:
    """A machine that has read its checkpoints has little MemFree and lots to give."""
    root = host(tmp_path, free=200 * MIB, available=16_000 * MIB)
    assert available_bytes(root) == 16_000 * MIB


def test_a_container_has_its_own_limit(tmp_path: Path) -> None:
    """--memory 4g on a big host: the limit less the use, files not counted."""
    root = host(tmp_path, free=60_000 * MIB, available=60_000 * MIB, cgroup="0::/\n")
    v2(root / "sys/fs/cgroup", 4096 * MIB, use=3000 * MIB, file_cache=2000 * MIB)
    assert available_bytes(root) == 3096 * MIB


def test_the_tightest_of_nested_groups_counts(tmp_path: Path) -> None:
    cgroup = "0::/system.slice/qtts.service\n"
    root = host(tmp_path, free=60_000 * MIB, available=60_000 * MIB, cgroup=cgroup)
    mount = root / "sys/fs/cgroup"
    v2(mount / "system.slice/qtts.service", "max", use=100 * MIB)
    v2(mount / "system.slice", 2048 * MIB, use=1000 * MIB)
    assert available_bytes(root) == 1048 * MIB


@pytest.mark.parametrize("path", ["/", "/docker/4f2a"])
def test_groups_of_the_first_version(tmp_path: Path, path: str) -> None:
    """Docker shows a container's group as the mount, under the host's path."""
    cgroup = f"12:pids:{path}\n5:cpu,memory:{path}\n0::{path}\n"
    root = host(tmp_path, free=60_000 * MIB, available=60_000 * MIB, cgroup=cgroup)
    group(
        root / "sys/fs/cgroup/memory",
        memory__limit_in_bytes=1024 * MIB,
        memory__usage_in_bytes=900 * MIB,
        memory__stat=f"cache 1\ntotal_active_file {100 * MIB}\ntotal_inactive_file {200 * MIB}",
    )
    assert available_bytes(root) == 424 * MIB


def test_without_limits_and_without_groups(tmp_path: Path) -> None:
    root = host(tmp_path / "a", free=MIB, available=500 * MIB, cgroup="0::/a\n")
    assert available_bytes(root) == 500 * MIB
    v2(root / "sys/fs/cgroup/a", "max", use=100 * MIB)
    assert available_bytes(root) == 500 * MIB
    (root / "proc/self/cgroup").unlink()
    assert available_bytes(root) == 500 * MIB


def test_here_it_is_a_number() -> None:
    assert available_bytes() > 0
    assert available_bytes(Path("/nowhere")) > 0, "a machine that is not Linux"
