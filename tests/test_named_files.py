"""What files name is there: other files in prose, modules and their names in imports."""

import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILES = [
    f
    for f in ROOT.glob("*/**/*.py")
    if not f.relative_to(ROOT).parts[0].startswith(".")
    and "site-packages" not in f.parts  # of rivals that benchmarks.versus installed
]
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


OURS = r"(?:engine|qtts_openai|benchmarks|training|tests|scripts)\b"
# By patterns: to parse all files takes seconds. __version__ may stand in a `try`.
IMPORT = re.compile(r"^ *from ([\w.]+) import (?:\(([^)]*)\)|(.*))$", re.MULTILINE)
BOUND = re.compile(
    r"^(?: {4}(?=__))?(?:(?:async )?def |class |import )?(\w+(?:, \w+)*)(?=[(:\[ ]|$)", re.MULTILINE
)


def imported(text: str) -> Iterator[tuple[str, str, str]]:
    """(module, name, name here) of every `from module import name as name_here`."""
    for module, several, one in IMPORT.findall(text):
        for part in re.sub(r"#.*", "", several or one).split(","):
            if (words := part.split()) and words != ["*"]:
                yield module, words[0], words[-1]


@cache
def defined(module: str) -> set[str]:
    """Names that a module binds, and the modules in its folder."""
    folder = ROOT.joinpath(*module.split("."))
    inside = {file.stem for file in folder.glob("*.py")}
    inside |= {file.parent.name for file in folder.glob("*/__init__.py")}
    file = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
    text = file.read_text("utf-8") if file.exists() else ""
    inside |= {here for *_, here in imported(text)}
    return inside.union(*(names.split(", ") for names in BOUND.findall(text)))


def test_every_import_of_ours_is_there():
    """Also of what no other test imports: training/, benchmarks/, tools for GPUs."""
    lost = {
        (str(f.relative_to(ROOT)), module, name)
        for f in FILES
        for module, name, _ in imported(f.read_text("utf-8"))
        if re.match(OURS, module) and name not in defined(module)
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
