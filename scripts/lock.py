"""Write constraints.txt and constraints-torch.txt: what pip resolves today for each Python given.

    .venv/bin/python scripts/lock.py python3.11 python3.12

Nothing is installed; pip is asked for its plan in a scratch venv per interpreter. Pins that differ
between interpreters get a marker. torch's own version is an input: edit constraints-torch.txt
first, then run this.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# What only torch brings. Kept apart, so that a torch that is already there keeps its versions.
TORCH_FAMILY = {"torch", "mpmath", "networkx", "setuptools", "sympy"}

HEAD = """\
# {what}
# Written by `make lock` for Python {versions}; edit pyproject.toml and run that again.
"""


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def is_cuda(name: str) -> bool:
    return name.startswith(("nvidia-", "cuda-")) or name == "triton"


def resolve(interpreter: str) -> tuple[str, dict[str, str]]:
    """(Python, as "3.11", {name: version}) of what `pip install -e .[test,dev]` would install."""
    with tempfile.TemporaryDirectory() as folder:
        python, report = f"{folder}/venv/bin/python", Path(folder, "report.json")
        subprocess.run([interpreter, "-m", "venv", f"{folder}/venv"], check=True)
        pip = [python, "-m", "pip", "--disable-pip-version-check"]
        subprocess.run([*pip, "install", "-qq", "--upgrade", "pip"], check=True)
        torch = re.findall(
            r"^torch==.*", (ROOT / "constraints-torch.txt").read_text(), re.MULTILINE
        )
        flags = ["--dry-run", "--ignore-installed", "-qq", "--report", str(report)]
        target = f"{ROOT}[test,dev]"
        env = {k: v for k, v in os.environ.items() if k != "PIP_CONSTRAINT"}
        subprocess.run([*pip, "install", *flags, target, *torch, "setuptools"], check=True, env=env)
        plan = json.loads(report.read_text())
    found = {normal(i["metadata"]["name"]): i["metadata"]["version"] for i in plan["install"]}
    del found["qtts-openai"]
    pins = {n: v.partition("+")[0] for n, v in found.items() if not is_cuda(n)}
    return plan["environment"]["python_version"], pins


def pin_lines(name: str, by_python: dict[str, dict[str, str]]) -> list[str]:
    """One line when all agree, else one each with a marker; the last also serves newer Pythons."""
    versions = {python: pins.get(name) for python, pins in by_python.items()}
    if len(set(versions.values())) == 1:
        return [f"{name}=={next(iter(versions.values()))}"]
    newest = max(versions, key=lambda v: int(v.split(".")[1]))
    return [
        f'{name}=={version} ; python_version {">=" if python == newest else "=="} "{python}"'
        for python, version in versions.items()
        if version is not None
    ]


def write(path: Path, what: str, names: list[str], by_python: dict[str, dict[str, str]]) -> None:
    lines = [line for name in names for line in pin_lines(name, by_python)]
    head = HEAD.format(what=what, versions=" and ".join(by_python))
    path.write_text(head + "\n".join(lines) + "\n")
    print(f"{path.name}: {len(lines)} pins")


def main() -> None:
    by_python = dict(resolve(interpreter) for interpreter in sys.argv[1:])
    names = sorted(set().union(*by_python.values()))
    rest = [n for n in names if n not in TORCH_FAMILY]
    family = ["torch", *(n for n in names if n in TORCH_FAMILY - {"torch"})]
    write(
        ROOT / "constraints.txt",
        "Everything but torch and what only torch brings.",
        rest,
        by_python,
    )
    what = "torch and what only torch brings; read by scripts/install_torch.py."
    write(ROOT / "constraints-torch.txt", what, family, by_python)


if __name__ == "__main__":
    main()
