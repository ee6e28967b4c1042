"""`qtts check`: what `qtts serve` would do with these settings on this machine, without loading a
model. Each finding is ok, a warning, or an error that keeps the server from starting or from doing
what is configured.
"""

import asyncio
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import msgspec

from qtts_openai.errors import ApiError
from qtts_openai.http.admin import read_key
from qtts_openai.http.auth import KeyRing
from qtts_openai.http.rate_limit import rate_store
from qtts_openai.http.rate_store import Change
from qtts_openai.http.server import listen
from qtts_openai.settings import ModelSettings, Settings, SettingsError
from qtts_openai.settings_file import load_settings
from qtts_openai.voices.object_store import Bucket

Level = Literal["ok", "warning", "error"]
GIB = 1 << 30
FEW_FILES = 4096

# torch is the engine's, so it is asked in a process of its own.
_DEVICES = """
import json, torch
cuda = torch.cuda
gpus = [(cuda.get_device_name(i), *cuda.mem_get_info(i)) for i in range(cuda.device_count())]
print(json.dumps({"torch": torch.__version__, "gpus": gpus}))
"""


class Finding(msgspec.Struct, frozen=True):
    level: Level
    what: str
    said: str

    def line(self) -> str:
        return f"{self.level:8} {self.what:12} {self.said}"


Findings = Iterator[Finding]


def check(path: str | None) -> list[Finding]:
    try:
        settings = load_settings(path)
    except SettingsError as error:
        return [Finding("error", "settings", str(error))]
    found = [Finding("ok", "settings", f"{len(settings.models)} models")]
    parts = (_ports, _keys, _models, _devices, _limits, _voices, _files)
    for part in parts:
        found += _checked(part, settings)
    return found


def _checked(part: Callable[[Settings], Findings], settings: Settings) -> list[Finding]:
    try:
        return list(part(settings))
    except (SettingsError, ApiError, OSError) as error:
        return [Finding("error", part.__name__.strip("_"), str(error))]


def _ports(settings: Settings) -> Findings:
    server = settings.server
    with listen(server):
        yield Finding("ok", "ports", f"would listen on {server.host}:{server.port}")
    if server.admin_port:
        read_key(server)
        with listen(
            msgspec.structs.replace(server, host=server.admin_host, port=server.admin_port)
        ):
            where = f"{server.admin_host}:{server.admin_port}"
            yield Finding("ok", "ports", f"would take POST /admin/drain on {where}")


def _keys(settings: Settings) -> Findings:
    keys = KeyRing(settings.auth)
    if not keys.is_open:
        yield Finding("ok", "keys", "clients need a key")
    elif settings.server.host in ("127.0.0.1", "::1", "localhost"):
        yield Finding("ok", "keys", "none: everybody on this machine may use the server")
    else:
        yield Finding("warning", "keys", "none: everybody who reaches it may use the server")


def _models(settings: Settings) -> Findings:
    for model in settings.models:
        yield _model(model)


def _model(model: ModelSettings) -> Finding:
    if model.checkpoint == "embedded":
        return Finding("ok", "models", f"{model.id}: the embedded voice")
    folder = Path(model.checkpoint)
    if not folder.is_dir():
        if model.checkpoint.startswith(("/", ".", "~")):
            return Finding("error", "models", f"{model.id}: there is no folder {folder}")
        return _hub_model(model)
    weights = list(folder.glob("*.safetensors"))
    missing = [name for name in ("config.json",) if not (folder / name).is_file()]
    missing += [] if weights else ["*.safetensors"]
    if missing:
        said = f"{model.id}: {folder} lacks {', '.join(missing)}"
        return Finding("error", "models", said)
    size = sum(file.stat().st_size for file in weights)
    return Finding("ok", "models", f"{model.id}: {size / GIB:.2f} GiB of weights in {folder}")


def _hub_model(model: ModelSettings) -> Finding:
    from huggingface_hub import try_to_load_from_cache

    kept = try_to_load_from_cache(model.checkpoint, "config.json", revision=model.revision)
    if isinstance(kept, str):
        return Finding("ok", "models", f"{model.id}: {Path(kept).parent}")
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        return Finding("error", "models", f"{model.id}: not here, and HF_HUB_OFFLINE is set")
    return Finding("warning", "models", f"{model.id}: would be downloaded from the Hub")


def _devices(settings: Settings) -> Findings:
    run = subprocess.run([sys.executable, "-c", _DEVICES], capture_output=True, text=True)
    if run.returncode:
        last = (run.stderr.strip().splitlines() or ["no reason"])[-1]
        yield Finding("error", "devices", f"torch cannot be used: {last}")
        return
    found = json.loads(run.stdout.splitlines()[-1])
    wanted, workers = settings.engine.device, settings.engine.data_parallel_size
    for name, free, total in found["gpus"]:
        yield Finding("ok", "devices", f"{name}: {free / GIB:.1f} of {total / GIB:.1f} GiB free")
    if wanted == "cuda" and not found["gpus"]:
        yield Finding(
            "error", "devices", f"engine.device is cuda; torch {found['torch']} sees none"
        )
    elif found["gpus"] and wanted != "cpu" and workers > len(found["gpus"]):
        said = f"engine.data_parallel_size is {workers}; {len(found['gpus'])} GPUs are visible"
        yield Finding("error", "devices", said)
    elif not found["gpus"]:
        pages = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        said = f"{workers} workers on {os.cpu_count()} CPUs, {pages / GIB:.1f} GiB unused"
        yield Finding("ok", "devices", said)


def _limits(settings: Settings) -> Findings:
    failed: list[int] = []
    where = settings.limits.store.rpartition("@")[2]

    async def ask() -> None:
        store = rate_store(settings.limits, failed.append)
        await store.ask(Change(who="qtts check", lease="check", firm=True))
        await store.close()

    if settings.limits.store != "memory":
        asyncio.run(ask())
        said = f"{where} does not answer: limits would not be held" if failed else where
        yield Finding("error" if failed else "ok", "limits", said)


def _voices(settings: Settings) -> Findings:
    voices = settings.voices
    if voices.object_store is not None:
        number = len(Bucket(voices.object_store).index().entries)
        yield Finding("ok", "voices", f"{number} records in {voices.object_store}")
        return
    folder = Path(voices.directory).resolve()
    there = next(one for one in (folder, *folder.parents) if one.exists())
    is_usable = there.is_dir() and os.access(there, os.W_OK | os.X_OK)
    said = f"{folder}" if is_usable else f"{there} cannot be written to"
    yield Finding("ok" if is_usable else "error", "voices", said)


def _files(settings: Settings) -> Findings:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    level: Level = "ok" if soft >= FEW_FILES else "warning"
    yield Finding(level, "files", f"{soft} may be open at once; a connection is one")
