"""What a figure must be quoted with (machine, versions), and how a document is written."""

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any


def describe(*packages: str) -> dict[str, Any]:
    """`packages`: distributions whose versions matter; one that is not installed is null."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "cpu": _cpu(),
            "cores": _cores(),
            "load_1min": round(os.getloadavg()[0], 2),
            "gpus": _gpus(),
            "system": f"{platform.system()} {platform.machine()}",
        },
        "versions": {
            "python": platform.python_version(),
            **{name: _version(name) for name in packages},
        },
    }


def as_line(document: dict[str, Any]) -> str:
    """One line of JSON; floats with six digits, which is more than any clock here is worth."""
    return json.dumps(_rounded(document), ensure_ascii=False)


def _rounded(node: Any) -> Any:
    match node:
        case float():
            return float(f"{node:.6g}")
        case dict():
            return {key: _rounded(value) for key, value in node.items()}
        case list() | tuple():
            return [_rounded(value) for value in node]
    return node


def _cores() -> int:
    """Those this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _gpus() -> list[str]:
    """Name, memory and driver of each GPU that nvidia-smi knows."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return answer.stdout.strip().splitlines()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
