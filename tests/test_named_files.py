"""Python files that documents, docstrings and comments name are there."""

import re
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
