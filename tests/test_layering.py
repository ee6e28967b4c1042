"""Who may import whom: docs/architecture.md draws it, this holds it."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def modules(package: str) -> dict[str, Path]:
    files = sorted((ROOT / package).rglob("*.py"))
    return {".".join(f.relative_to(ROOT).with_suffix("").parts): f for f in files}


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


def parts(names: set[str]) -> set[str]:
    return {n.split(".")[1] for n in names}


def test_http_side_sees_only_the_engine_root():
    inner = {m.removesuffix(".__init__") for m in modules("engine")} - {"engine"}
    assert importers("qtts_openai", *inner) == set()
    assert importers("qtts_openai", "torch") == set()


def test_engine_knows_no_http():
    assert importers("engine", "qtts_openai", "litestar", "uvicorn") == set()


def test_nets_know_no_scheduling():
    seen = importers("engine", "engine.sequence", "engine.scheduler", "engine.core")
    assert parts(seen) & {"layers", "models"} == set()


def test_scheduling_knows_no_torch():
    assert parts(importers("engine", "torch")) & {"sequence", "block_manager", "scheduler"} == set()


def test_only_our_talker_sees_scheduler_and_runners():
    runners = importers("engine", "engine.talker_runner", "engine.codec_runner")
    assert runners & importers("engine", "engine.scheduler") <= {"engine.native_talker"}


def test_the_core_sees_the_talkers_seam_only():
    behind = ("engine.native_talker", "engine.scheduler", "engine.block_manager")
    assert "engine.core" not in importers("engine", *behind, "engine.talker_runner")


def test_only_the_client_is_async():
    assert importers("engine", "asyncio") <= {"engine.client"}


def test_litestar_stays_at_the_edge():
    # auth is a guard; forms and batch read a request's body before there is one of our own.
    edge = {"routes", "app", "errors", "streaming", "auth", "callers", "forms", "batch"}
    assert parts(importers("qtts_openai", "litestar")) <= edge


def test_what_parses_hostile_audio_stays_in_its_process():
    assert importers("qtts_openai", "soundfile") == {"qtts_openai.decoding.decoder"}
    in_child = {"qtts_openai.decoding.decoder", "qtts_openai.decoding.zygote"}
    assert importers("qtts_openai", "av") == in_child | {"qtts_openai.encoders"}
    assert importers("qtts_openai", *in_child) == {"qtts_openai.decoding.zygote"}


def test_app_does_not_load_torch():
    code = "import qtts_openai.app, sys; assert not {'torch', 'soundfile'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
