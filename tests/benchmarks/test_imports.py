"""Programs that no test runs still name what is there."""

import ast
import importlib
import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = [
    f for folder in ("benchmarks", "training", "scripts") for f in (ROOT / folder).rglob("*.py")
]
OURS = ("engine", "qtts_openai", "benchmarks", "tests")


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_what_is_imported_of_ours_is_there(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if not isinstance(node, ast.ImportFrom) or (node.module or "").split(".")[0] not in OURS:
            continue
        try:
            module = importlib.import_module(str(node.module))
        except ModuleNotFoundError as error:
            assert str(error.name).split(".")[0] not in OURS, error
            continue  # an extra that is not installed
        for name in (alias.name for alias in node.names):
            inside = f"{node.module}.{name}"
            assert hasattr(module, name) or importlib.util.find_spec(inside), f"{file}: {inside}"
