"""Packed weights in a file, so that the next start reads them instead of making them.

$QTTS_CACHE names a directory; unset, nothing is kept. A file is named by what it was made from: the
checkpoint, the form of its weights, and LAYOUT. The layout is the same for every CPU. Its pages are
mapped, not read: they come when the first frame asks for them, and several workers share them.
"""

import hashlib
import json
import logging
import os
import tempfile
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

log = logging.getLogger(__name__)

LAYOUT = 2  # of native/decoder.py
SAMPLE_BYTES = 4096


def cache_file(weights: Path, form: str) -> Path | None:
    """Where `weights` (a safetensors file) lie packed in this form, or would lie."""
    folder = os.environ.get("QTTS_CACHE")
    if not folder:
        return None
    return Path(folder).expanduser() / f"{fingerprint(weights)}-{form}-{LAYOUT}.safetensors"


def fingerprint(weights: Path) -> str:
    """Of size, time, header and the beginning of every tensor: all gigabytes would take seconds."""
    stat, found = weights.stat(), hashlib.sha256()
    found.update(f"{stat.st_size} {stat.st_mtime_ns}".encode())
    with weights.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = file.read(size)
        found.update(header)
        for name, tensor in json.loads(header).items():
            if name != "__metadata__":
                file.seek(8 + size + tensor["data_offsets"][0])
                found.update(file.read(SAMPLE_BYTES))
    return found.hexdigest()[:32]


def read(path: Path) -> dict[str, Tensor]:
    """Tensors by name, mapped; empty if there is no such file or it is broken."""
    if not path.is_file():
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        log.warning("%s cannot be read (%s): packing anew", path, error)
        return {}


def write(path: Path, tensors: dict[str, Tensor]) -> None:
    """Whole or not at all; what cannot be written is a warning."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp") as staging:
            save_file(tensors, staging.name)
            os.link(staging.name, path)
    except FileExistsError:
        pass  # another worker was faster
    except (SafetensorError, OSError) as error:
        log.warning("packed weights cannot be kept in %s: %s", path, error)
