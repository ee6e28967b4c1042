"""What files name is there: other files in prose, modules and their names in imports."""

import ast
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILES = [f for f in ROOT.glob("*/**/*.py") if not f.relative_to(ROOT).parts[0].startswith(".")]
PATHS = [f"/{f.relative_to(ROOT)}" for f in FILES]
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
NAMED = re.compile(r"(?<![\w./*<{])((?:\w+/)*\w+\.py)\b")
FOREIGN = {"torch/version.py", "version.py", "torch/__init__.py", "setup.py"}


def missing(text: str) -> set[str]:
    named = set(NAMED.findall(text)) - FOREIGN
    return {name for name in named if not any(path.endswith("/" + name) for path in PATHS)}


def test_every_file_named_is_there():
    lost = {str(f.relative_to(ROOT)): missing(f.read_text("utf-8")) for f in DOCUMENTS + FILES}
    assert {file: names for file, names in lost.items() if names} == {}


OURS = {"engine", "qtts_openai", "benchmarks", "training", "tests", "scripts"}


def imported(path: Path) -> Iterator[tuple[str, str]]:
    """(module, name) of every `from module import name` of our packages."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in OURS:
            names = (alias.name for alias in node.names if alias.name != "*")
            yield from ((node.module or "", name) for name in names)


@cache
def has(module: str, name: str) -> bool:
    folder = ROOT.joinpath(*module.split("."))
    if (folder / f"{name}.py").exists() or (folder / name / "__init__.py").exists():
        return True
    file = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
    return file.exists() and bool(re.search(rf"\b{name}\b", file.read_text("utf-8")))


def test_every_import_of_ours_is_there():
    """Also of what no other test imports: training/, benchmarks/, tools for GPUs."""
    lost = {
        (str(f.relative_to(ROOT)), *pair) for f in FILES for pair in imported(f) if not has(*pair)
    }
    assert not lost


def test_a_wheel_holds_every_data_file():
    """Those that tests read lie in the checkout, so only an installation would miss one."""
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]
    for package, patterns in tool["setuptools"]["package-data"].items():
        folder = ROOT / package
        # Python, and what was compiled for this machine alone.
        others = {".py", ".pyc", ".so"}
        there = {f for f in folder.rglob("*") if f.is_file() and f.suffix not in others}
        assert there and there <= {f for p in patterns for f in folder.glob(p)}
