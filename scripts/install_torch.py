"""Make the virtual environment and put the right torch in: CUDA where there is a GPU, else CPU.

    python3 scripts/install_torch.py .venv

Stdlib only. What pip would install is asked first (`pip install --dry-run --report`), and a plan of
the wrong kind is refused before anything large is downloaded. In order:

1. The venv's torch is in range and of the right kind: nothing to do. (A CUDA build also serves a
   machine without a GPU.)
2. There is a GPU and the system python has a CUDA torch: the venv sees the system's packages, and
   nothing is installed.
3. Otherwise the version pinned in constraints-torch.txt is installed, from the first plan of the
   right kind.

Environment: TORCH_BUILD=auto|cpu|cuda overrides the look for a GPU; TORCH_INDEX is a further
package index and TORCH_FIND_LINKS a further folder or page of wheels to look for torch in.
"""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
MIN_VERSION, END_VERSION = (2, 11), (2, 14)  # as in pyproject.toml
# From here on a dry run reads package metadata only and does not download the packages themselves.
MIN_PIP = (25, 0)

PROBE = """
import importlib.util, importlib.metadata as m
spec = importlib.util.find_spec("torch")
try: pip = m.version("pip")
except m.PackageNotFoundError: pip = ""
print(spec.origin if spec and spec.origin else ""); print(pip)
"""

REFUSED = """
Stopped before downloading: {why}.

{found}
Name a place that has {kind} builds of torch {version} and run this again, with one of

    TORCH_INDEX=<URL of PyTorch's own wheel index for {index}>
    TORCH_FIND_LINKS=<folder with a torch wheel>

as in `make serve TORCH_INDEX=...` or `docker build --build-arg TORCH_INDEX=...`. PyTorch's
"Get Started" page shows that URL behind --index-url: pick "Pip" and "{index}" there.
To install {other} build on purpose: TORCH_BUILD={other_build}.
"""


class TorchBuild(NamedTuple):
    version: str
    accelerated: bool

    @property
    def in_range(self) -> bool:
        return MIN_VERSION <= version_tuple(self.version) < END_VERSION


class Plan(NamedTuple):
    version: str
    accelerated: bool
    packages: tuple[str, ...]


class StopError(Exception):
    """The message is for the user."""


def version_tuple(version: str) -> tuple[int, int]:
    major, minor = re.findall(r"\d+", version)[:2]
    return int(major), int(minor)


def is_accelerated_version(version: str) -> bool:
    return "+cu" in version or "+rocm" in version


# ---- what is there ----


def has_gpu(root: Path = Path("/")) -> bool:
    """Device nodes, not /proc/driver/nvidia: a container without the GPU sees its host's."""
    if any((root / "dev").glob("nvidia[0-9]*")):
        return True
    smi = shutil.which("nvidia-smi") or shutil.which("nvidia-smi", path="/usr/lib/wsl/lib")
    if smi is None:
        return False
    listing = subprocess.run([smi, "-L"], capture_output=True, text=True, check=False)
    return listing.returncode == 0 and "GPU" in listing.stdout


def parse_version_py(text: str) -> TorchBuild | None:
    """torch/version.py says how torch was built; importing torch to ask would cost seconds."""
    version = re.search(r"^__version__\s*=\s*['\"]([^'\"]+)", text, re.MULTILINE)
    if version is None:
        return None
    accelerated = re.search(r"^(?:cuda|hip)\b[^=\n]*=\s*['\"]", text, re.MULTILINE) is not None
    return TorchBuild(version[1], accelerated)


def probe(python: str) -> tuple[TorchBuild | None, str]:
    """The torch that `python` would import, and its pip's version ("" without pip)."""
    answer = subprocess.run([python, "-I", "-c", PROBE], capture_output=True, text=True, check=True)
    origin, pip_version = answer.stdout.splitlines()
    version_py = Path(origin).parent / "version.py"
    if not origin or not version_py.is_file():
        return None, pip_version
    return parse_version_py(version_py.read_text()), pip_version


# ---- what to do ----


def wanted_kind(env: Mapping[str, str], gpu: bool) -> str:
    build = env.get("TORCH_BUILD") or "auto"
    if build not in ("auto", "cpu", "cuda"):
        raise StopError(f"TORCH_BUILD is {build!r}; it can be auto, cpu or cuda.")
    if build != "auto":
        return build
    return "cuda" if gpu else "cpu"


def decide(kind: str, installed: TorchBuild | None, system: TorchBuild | None) -> str:
    """ "keep" the venv's torch, use the "system"'s, or "install"."""
    if installed and installed.in_range and (installed.accelerated or kind == "cpu"):
        return "keep"
    if kind == "cuda" and system and system.in_range and system.accelerated:
        return "system"
    return "install"


def candidates(kind: str, version: str) -> list[str]:
    """Requirements to plan for, best first. `===` compares text: it leaves out 2.13.0+cpu."""
    if kind == "cpu":
        return [f"torch=={version}+cpu", f"torch=={version}"]
    return [f"torch=={version}", f"torch==={version}"]


def read_plan(report: Mapping[str, Any]) -> Plan:
    found = {i["metadata"]["name"].lower(): i["metadata"]["version"] for i in report["install"]}
    version = found["torch"]
    packages = tuple(n for n in found if n.startswith(("nvidia-", "cuda-")) or n == "triton")
    return Plan(version, bool(packages) or is_accelerated_version(version), packages)


def pick(kind: str, plans: Iterable[Plan]) -> Plan | None:
    return next((p for p in plans if p.accelerated == (kind == "cuda")), None)


def index_options(env: Mapping[str, str]) -> list[str]:
    options = []
    if env.get("TORCH_INDEX"):
        options += ["--extra-index-url", env["TORCH_INDEX"]]
    if env.get("TORCH_FIND_LINKS"):
        options += ["--find-links", env["TORCH_FIND_LINKS"]]
    return options


def pinned_version() -> str:
    pin = re.search(r"^torch==(\S+)", (ROOT / "constraints-torch.txt").read_text(), re.MULTILINE)
    assert pin is not None, "constraints-torch.txt pins torch"
    return pin[1]


def refusal(kind: str, version: str, plans: list[Plan], errors: list[str]) -> str:
    if not plans:
        return f"pip finds no torch {version} for this Python:\n" + "\n".join(errors[-1:])
    cpu = kind == "cpu"
    extras = f" with {len(plans[0].packages)} CUDA packages" if plans[0].packages else ""
    return REFUSED.format(
        why="this machine has no GPU, and pip would install a CUDA build of torch (several GB)"
        if cpu
        else "this machine has a GPU, and pip would install a torch that cannot use it",
        found=f"pip's plan: torch {plans[0].version}{extras}.",
        kind="CPU" if cpu else "CUDA",
        index="CPU" if cpu else "your CUDA version",
        version=version,
        other="the CUDA" if cpu else "a CPU",
        other_build="cuda" if cpu else "cpu",
    ).strip()


# ---- doing it ----


def say(text: str) -> None:
    print(text, flush=True)


def run_pip(python: str, *args: str) -> subprocess.CompletedProcess[str]:
    command = [python, "-m", "pip", "--disable-pip-version-check", *args]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def pip_or_stop(python: str, *args: str) -> None:
    done = run_pip(python, *args)
    if done.returncode != 0:
        raise StopError(f"pip {' '.join(args)} failed:\n{done.stderr.strip()}")


def create_venv(venv: Path, see_system: bool) -> None:
    """Idempotent: on an existing venv it only sets whether the system's packages are seen."""
    options = ["--system-site-packages"] if see_system else []
    if importlib.util.find_spec("ensurepip") is not None:
        subprocess.run([sys.executable, "-m", "venv", *options, str(venv)], check=True)
        return
    if importlib.util.find_spec("pip") is None:
        raise StopError("This Python can make no virtual environment: install python3-venv.")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", *options, str(venv)], check=True)
    pip_or_stop(sys.executable, "--python", str(venv / "bin/python"), "install", "-qq", "pip")


def make_plan(python: str, requirement: str, options: list[str]) -> Plan | str:
    """The plan, or what pip said when it found none."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        flags = ["--dry-run", "--ignore-installed", "--quiet", "--report", str(report)]
        done = run_pip(python, "install", *flags, *options, requirement)
        if done.returncode != 0:
            return "\n".join(line for line in done.stderr.splitlines() if "ERROR" in line)
        return read_plan(json.loads(report.read_text()))


def install(python: str, kind: str, pip_version: str, env: Mapping[str, str]) -> None:
    if not pip_version or version_tuple(pip_version) < MIN_PIP:
        pip_or_stop(python, "install", "-qq", "--upgrade", f"pip>={MIN_PIP[0]}.{MIN_PIP[1]}")
    options = index_options(env)
    for name in ("constraints-torch.txt", "constraints.txt"):
        options += ["--constraint", str(ROOT / name)]
    plans: list[Plan] = []
    errors: list[str] = []
    for requirement in candidates(kind, pinned_version()):
        plan = make_plan(python, requirement, options)
        if isinstance(plan, str):
            errors.append(plan)
            continue
        plans.append(plan)
        if pick(kind, [plan]):
            break
    chosen = pick(kind, plans)
    if chosen is None:
        raise StopError(refusal(kind, pinned_version(), plans, errors))
    size = "several GB" if chosen.accelerated else "about 200 MB"
    say(f"      torch {chosen.version}: downloading ({size}) and installing")
    pip_or_stop(python, "install", "-qq", *options, f"torch==={chosen.version}")


def main() -> None:
    venv = Path(sys.argv[1])
    python = str(venv / "bin/python")
    kind = wanted_kind(os.environ, has_gpu())
    installed, pip_version = probe(python) if Path(python).exists() else (None, "")
    system = None
    if kind == "cuda":
        system, _ = probe(getattr(sys, "_base_executable", sys.executable))
    action = decide(kind, installed, system)
    if action == "keep":
        assert installed is not None
        say(f"      torch {installed.version} is there")
        return
    if action == "system":
        assert system is not None
        if installed is not None:
            pip_or_stop(python, "uninstall", "-qq", "--yes", "torch")
        create_venv(venv, see_system=True)
        say(f"      torch {system.version} of the system's Python is used")
        return
    if not pip_version:
        create_venv(venv, see_system=False)
        _, pip_version = probe(python)
    install(python, kind, pip_version, os.environ)


if __name__ == "__main__":
    try:
        main()
    except StopError as error:
        sys.exit(f"{error}")
    except subprocess.CalledProcessError as error:
        sys.exit(f"{' '.join(map(str, error.cmd))} failed (exit {error.returncode})")
