"""The documents speak of files that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted(
    [*ROOT.glob("docs/*.md"), *(ROOT / f"{n}.md" for n in ("CONTRIBUTING", "README"))]
)
# A file in the text or the target of a link; folders end in a slash.
NAMED = re.compile(r"`([\w./-]+(?:\.(?:py|yaml|toml|md)|/))`|\]\(([\w./-]+)(?:#[\w-]*)?\)")
# Of a user's own, in examples.
THEIRS = {"qtts.yaml"}


def named(document: Path) -> set[str]:
    return {one or other for one, other in NAMED.findall(document.read_text("utf-8"))} - THEIRS


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_file_that_is_named_exists(document):
    lost = {
        name
        for name in named(document)
        if not any((start / name).exists() for start in (ROOT, document.parent))
    }
    assert not lost


def test_the_test_sees_names():
    assert {"engine/core.py", "../benchmarks/RESULTS.md"} <= named(ROOT / "docs/architecture.md")


def test_every_folder_of_the_packages_is_in_the_table():
    text = (ROOT / "docs/architecture.md").read_text("utf-8")
    folders = [
        path.parent
        for name in ("engine", "qtts_openai")
        for path in ROOT.glob(f"{name}/**/__init__.py")
    ]
    missing = [f for f in folders if f"`{f.relative_to(ROOT)}/`" not in text]
    assert not missing
