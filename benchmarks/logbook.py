"""Where figures go: JSON into a folder that git ignores, and for people a dated section at the end
of RESULTS.md, whose last section is about GPUs.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from qtts_openai.load.machine import as_line

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "RESULTS.md"
FOLDER = ROOT / "benchmarks" / "results"
# What RESULTS.md says until the first entry.
NOTHING_YET = "No GPU figure exists yet. "


def stamp() -> str:
    """UTC, for names of files: no two runs on one machine share it."""
    return datetime.now(UTC).strftime("%Y-%m-%d-%H%M%S")


def write_json(file: Path, document: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(as_line(document) + "\n", "utf-8")


def append(entry: str, file: Path = RESULTS) -> None:
    text = file.read_text("utf-8").replace(NOTHING_YET, "")
    file.write_text(f"{text.rstrip()}\n\n{entry.strip()}\n", "utf-8")


def hardware(about: dict[str, Any]) -> str:
    """One phrase of machine.describe: GPUs with memory and driver (else the CPU), versions."""
    here, versions = about["machine"], about["versions"]
    names = here["gpus"] or [f"{here['cores']} cores of {here['cpu']}"]
    known = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    return f"{'; '.join(names)}; {known}"
