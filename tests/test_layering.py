"""Who may import whom, as one table of folders; docs/architecture.md draws it."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SEAM = {"protocol", "config", "errors"}

# Folder -> the folders and root modules of its package that it may import.
ENGINE = {
    "scheduler": SEAM,
    "layers": SEAM,
    "models": SEAM | {"layers"},
    "compare": {"protocol"},
    "kernels": SEAM | {"layers", "models", "compare"},
    "native": SEAM | {"layers", "models"},
    "loader": SEAM | {"layers", "models", "native"},
    "runner": SEAM
    | {"talker_engine", "scheduler", "loader", "models", "layers", "kernels", "compare"},
    "backends": SEAM
    | {"talker_engine", "scheduler", "loader", "models", "layers", "kernels", "runner"},
    "dummy": SEAM | {"models"},
    "benchmark": SEAM
    | {
        "core",
        "scheduler",
        "engine_plan",
        "startup",
        "loader",
        "runner",
        "models",
        "layers",
        "dummy",
    },
    "config": set(),
    "errors": set(),
    "protocol": {"config"},
    "speech_stream": SEAM,
    "spawn": set(),
    "worker_process": SEAM | {"speech_stream", "spawn"},
    "client": SEAM | {"speech_stream", "worker_process"},
    "__init__": SEAM | {"client", "spawn", "speech_stream"},
    "talker_engine": SEAM | {"runner", "scheduler"},
    "input_processor": SEAM | {"loader", "models", "runner", "scheduler"},
    "core": SEAM | {"talker_engine", "input_processor", "loader", "runner", "scheduler"},
    "engine_plan": SEAM | {"loader", "layers"},
    "warm_up": SEAM | {"core", "models"},
    "accelerate": SEAM | {"compare", "core", "kernels", "models", "runner", "warm_up"},
    "startup": SEAM
    | {"accelerate", "core", "talker_engine", "backends", "engine_plan", "warm_up"}
    | {"loader", "runner", "models", "layers"},
    "check_gpu": SEAM | {"startup", "what_fits"},
    "watermark": {"protocol"},
    "what_fits": SEAM | {"startup", "engine_plan", "loader", "models"},
    "worker": SEAM | {"core", "startup"},
}
BASE = {"answers", "errors", "schemas", "settings"}
HTTP_SIDE = {
    "answers": set(),
    "errors": {"answers"},
    "schemas": {"answers", "errors"},
    "settings": {"errors", "schemas"},
    "http": BASE | {"decoding"},
    "decoding": set(),
    "text": BASE,
    "voices": BASE | {"text", "decoding", "http"},
    "provenance": BASE | {"decoding"},
    "speech": BASE | {"text", "voices", "http", "decoding", "provenance"},
    "settings_file": {"settings"},
    "settings_check": BASE | {"voices"},
    "state": BASE
    | {"settings_check", "http", "decoding", "text", "voices", "speech", "provenance"},
    "live": BASE | {"state", "http", "text", "voices", "speech", "provenance"},
    "routes": BASE
    | {"state", "live", "http", "decoding", "text", "voices", "speech", "provenance"},
    "app": BASE | {"state", "http", "routes"},
    "load": BASE,
    "check": BASE | {"settings_file", "http", "voices"},
    "cli": BASE
    | {"settings_file", "check", "app", "state", "http", "voices", "speech", "provenance"},
    "ray_serve": BASE | {"settings_file", "app", "http"},
    "commands": BASE | {"cli", "load", "settings_file", "provenance"},
    "__main__": BASE | {"commands"},
    "__init__": set(),
}


@cache
def modules(package: str) -> dict[str, Path]:
    files = sorted((ROOT / package).rglob("*.py"))
    return {".".join(f.relative_to(ROOT).with_suffix("").parts): f for f in files}


@cache
def imports(path: Path) -> set[str]:
    """Every module named in an import, at any depth; `from a import b` gives "a" and "a.b"."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}: imports are absolute"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def importers(package: str, *targets: str) -> set[str]:
    """Modules of `package` that import one of `targets` or something inside it."""

    def hits(name: str) -> bool:
        return any(name == t or name.startswith(f"{t}.") for t in targets)

    return {m for m, path in modules(package).items() if any(map(hits, imports(path)))}


def broken_rules(package: str, table: dict[str, set[str]]) -> list[str]:
    """Imports of the package's own modules that the table does not allow."""
    known = modules(package)
    broken = []
    for module, path in known.items():
        box = module.split(".")[1]
        assert box in table, f"{box}: say in the table whom it may import"
        for name in imports(path):
            parts = name.split(".")
            inside = parts[0] == package and len(parts) > 1 and parts[1] in table
            if inside and parts[1] != box and parts[1] not in table[box]:
                broken.append(f"{module} imports {name}")
    return broken


def test_the_engine_keeps_to_its_table():
    assert broken_rules("engine", ENGINE) == []


def test_the_http_side_keeps_to_its_table():
    assert broken_rules("qtts_openai", HTTP_SIDE) == []


def test_http_side_sees_only_the_engine_root():
    inner = {m.removesuffix(".__init__") for m in modules("engine")} - {"engine"}
    assert importers("qtts_openai", *inner) == set()
    assert importers("qtts_openai", "torch") == set()


def test_engine_knows_no_http():
    assert importers("engine", "qtts_openai", "litestar", "uvicorn") == set()


def test_scheduling_knows_no_torch():
    assert not [m for m in importers("engine", "torch") if m.startswith("engine.scheduler.")]


def test_only_our_talker_sees_the_scheduler():
    scheduler = "engine.scheduler.scheduler.Scheduler"
    assert importers("engine", scheduler) == {"engine.runner.own_talker"}
    behind = ("engine.runner.own_talker", "engine.runner.talker_runner")
    assert "engine.core" not in importers("engine", *behind)


def test_nothing_that_serves_imports_test_gear():
    gear = importers("engine", "engine.dummy", "engine.benchmark")
    assert gear and all(m.startswith(("engine.dummy.", "engine.benchmark.")) for m in gear)


def test_only_the_client_is_async():
    ends = {"engine.client", "engine.worker_process", "engine.speech_stream"}
    assert importers("engine", "asyncio") == ends


def test_litestar_stays_at_the_edge():
    edge = {
        "routes",
        "http",
        "app",
        "errors",
        "speech.response",
        "speech.trailers",
        "live.socket",
        "live.body",
    }
    seen = {m.split(".", 1)[1] for m in importers("qtts_openai", "litestar")}
    assert {m for m in seen if m not in edge and m.split(".")[0] not in edge} == set()


def test_what_parses_hostile_audio_stays_in_its_process():
    assert importers("qtts_openai", "soundfile") == {"qtts_openai.decoding.decoder"}
    in_child = {"qtts_openai.decoding.decoder", "qtts_openai.decoding.zygote"}
    assert importers("qtts_openai", "av") == in_child | {"qtts_openai.speech.stages"}
    assert importers("qtts_openai", *in_child) == {"qtts_openai.decoding.zygote"}


def test_only_the_vllm_backend_imports_vllm():
    found = importers("engine", "vllm", "transformers")
    assert found and all(m.startswith("engine.backends.vllm.") for m in found)
    # What start-up imports of it does without.
    assert not found & {"engine.backends.vllm.start", "engine.backends.vllm.options"}


def test_extras_stay_behind_their_settings():
    signers = importers("qtts_openai", "c2pa", "cryptography")
    assert signers and all(m.startswith("qtts_openai.provenance.") for m in signers)


@pytest.mark.process
def test_app_does_not_load_torch():
    heavy = "{'torch', 'soundfile', 'c2pa', 'cryptography'} & sys.modules.keys()"
    code = f"import qtts_openai.app, qtts_openai.__main__, sys; assert not {heavy}"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
