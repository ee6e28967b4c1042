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
from typing import Any, Literal

import msgspec

from engine import EMBEDDED, FRAME_S, ModelSpec
from qtts_openai.errors import ApiError
from qtts_openai.http.admin import read_key
from qtts_openai.http.auth import KeyRing
from qtts_openai.http.origins import is_loopback
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
_OFFLINE = {"HF_HUB_OFFLINE": "1"}
_PLAN = [sys.executable, "-m", "engine.what_fits"]
_GPU = [sys.executable, "-m", "engine.check_gpu"]
_ONE_EMBEDDED = ModelSpec("embedded", "embedded")


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


def check_gpu(path: str | None) -> list[Finding]:
    """Every kernel and graph beside plain torch: the models are loaded, those that are here."""
    try:
        settings = load_settings(path)
    except SettingsError as error:
        return [Finding("error", "settings", str(error))]
    return list(_kernels(settings))


def _kernels(settings: Settings) -> Findings:
    here = [spec for spec in settings.specs() if _is_here(spec)] or [_ONE_EMBEDDED]
    found = _ask(_GPU, settings, here)
    if found["error"]:
        yield Finding("error", "gpu", found["error"])
        return
    yield Finding("ok", "gpu", found["gpu"])
    for one, fault in zip(found["checks"], found["faults"], strict=True):
        slower = one["seconds"] > one["plain_seconds"]
        level: Level = "error" if fault else "warning" if slower else "ok"
        times = f"{one['seconds'] * 1e6:8.0f} us, plain {one['plain_seconds'] * 1e6:8.0f}"
        said = fault or f"{times}, largest difference {one['difference']:.1e}"
        yield Finding(level, "kernel", f"{one['name']:48} {said}")


def _ask(command: list[str], settings: Settings, models: list[ModelSpec]) -> Any:
    """The last line of a process that may import torch."""
    asked = msgspec.json.encode({"config": settings.engine, "models": models})
    run = subprocess.run(command, input=asked, capture_output=True, env=os.environ | _OFFLINE)
    if run.returncode:
        last = (run.stderr.decode().strip().splitlines() or ["no reason"])[-1]
        return {"error": f"torch cannot be used: {last}", "gpus": [], "workers": []}
    return json.loads(run.stdout.splitlines()[-1])


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
    elif is_loopback(settings.server.host):
        yield Finding("ok", "keys", "none: everybody on this machine may use the server")
    else:
        yield Finding("warning", "keys", "none: everybody who reaches it may use the server")


def _models(settings: Settings) -> Findings:
    for model in settings.models:
        yield _model(model)


def _model(model: ModelSettings) -> Finding:
    if model.checkpoint in EMBEDDED:
        return Finding("ok", "models", f"{model.id}: comes with qtts")
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
    kept = _hub_folder(model.checkpoint, model.revision)
    if kept is not None:
        return Finding("ok", "models", f"{model.id}: {kept}")
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        return Finding("error", "models", f"{model.id}: not here, and HF_HUB_OFFLINE is set")
    return Finding("warning", "models", f"{model.id}: would be downloaded from the Hub")


def _hub_folder(checkpoint: str, revision: str | None) -> Path | None:
    """Where a checkpoint is that was downloaded before."""
    from huggingface_hub import try_to_load_from_cache

    kept = try_to_load_from_cache(checkpoint, "config.json", revision=revision)
    return Path(kept).parent if isinstance(kept, str) else None


def _devices(settings: Settings) -> Findings:
    here = [spec for spec in settings.specs() if _is_here(spec)]
    found = _ask(_PLAN, settings, here)
    for name, free, total in found["gpus"]:
        yield Finding("ok", "devices", f"{name}: {free / GIB:.1f} of {total / GIB:.1f} GiB free")
    if found["error"]:
        yield Finding("error", "devices", found["error"])
    for worker, fit in enumerate(found["workers"]):
        yield Finding("ok", "devices", f"worker {worker} on {fit['device']}, {fit['dtype']}")
        if len(here) == len(settings.models):
            yield Finding("ok", "memory", _memory(fit))
    if len(here) < len(settings.models):
        yield Finding("warning", "memory", "not known before all models are here")


def _is_here(spec: ModelSpec) -> bool:
    """Embedded, a folder, or downloaded before."""
    if spec.checkpoint in EMBEDDED or Path(spec.checkpoint).expanduser().is_dir():
        return True
    if spec.checkpoint.startswith(("/", ".", "~")):
        return False
    return _hub_folder(spec.checkpoint, spec.revision) is not None


def _memory(fit: dict[str, Any]) -> str:
    minutes = fit["num_positions"] * FRAME_S / 60
    return (
        f"of {fit['free_bytes'] / GIB:.1f} GiB that can be had: weights "
        f"{fit['weight_bytes'] / GIB:.2f}, KV cache {fit['kv_bytes'] / GIB:.2f}; {fit['num_rows']} "
        f"utterances at once, {minutes:.0f} minutes of prompts and speech in all"
    )


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
