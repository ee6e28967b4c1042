"""Set up a virtual environment that can serve, on any machine and without asking.

    python3 scripts/install.py .venv                    uv and a torch that fits the machine
    python3 scripts/install.py .venv -e '.[test]'       and whatever else `uv pip install` takes

Stdlib only. uv comes from the package index by pip, then installs the rest with the versions and
hashes of constraints.txt, from the places that pip is configured with. torch comes first:

1. The environment's torch is in range and of the right kind: nothing to do. (A CUDA build also
   serves a machine without a GPU.)
2. There is a GPU and the system's Python has a CUDA torch: the environment sees it.
3. Otherwise the version of constraints-torch.txt: the first plan of the right kind among those of
   `sources`. Where there is none, whatever the package index has, with a line that says so.

Environment: TORCH_BUILD=auto|cpu|cuda overrides the look for a GPU; PINS names a file in place of
constraints.txt.
"""

import ast
import importlib.util
import os
import re
import shutil
import ssl
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PINS, TORCH_PIN, UV_PIN = (
    ROOT / name
    for name in (
        os.environ.get("PINS") or "constraints.txt",
        "constraints-torch.txt",
        "constraints-uv.txt",
    )
)
MIN_VERSION, END_VERSION = (2, 11), (2, 15)  # as in pyproject.toml

# What uv calls the options that pip may be configured with, and what separates several values.
UV_NAMES = {
    "index-url": ("UV_DEFAULT_INDEX", " "),
    "extra-index-url": ("UV_INDEX", " "),
    "find-links": ("UV_FIND_LINKS", ","),
    "trusted-host": ("UV_INSECURE_HOST", " "),
    "cert": ("SSL_CERT_FILE", " "),
    "client-cert": ("SSL_CLIENT_CERT", " "),
    "proxy": ("ALL_PROXY", " "),
}
# For places that a firewall may hide: an answer within seconds, or none.
HASTY = {"UV_HTTP_CONNECT_TIMEOUT": "5", "UV_HTTP_TIMEOUT": "15", "UV_HTTP_RETRIES": "1"}
HASTY_LIMIT_S = 60

ORIGIN = "import importlib.util as u; s = u.find_spec('torch'); print(s and s.origin or '')"


class TorchBuild(NamedTuple):
    version: str
    accelerated: bool

    def suits(self, kind: str) -> bool:
        major, minor = re.findall(r"\d+", self.version)[:2]
        in_range = MIN_VERSION <= (int(major), int(minor)) < END_VERSION
        return in_range and (self.accelerated or kind == "cpu")


class Source(NamedTuple):
    requirement: str
    options: tuple[str, ...] = ()


class StopError(Exception):
    """The message is for the user."""


def say(text: str) -> None:
    print(f"      {text}", flush=True)


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


def wanted_kind(env: Mapping[str, str], gpu: bool) -> str:
    build = env.get("TORCH_BUILD") or "auto"
    if build not in ("auto", "cpu", "cuda"):
        raise StopError(f"TORCH_BUILD is {build!r}; it can be auto, cpu or cuda.")
    return build if build != "auto" else "cuda" if gpu else "cpu"


def parse_version_py(text: str) -> TorchBuild | None:
    """torch/version.py says how torch was built; importing torch to ask would cost seconds."""
    version = re.search(r"^__version__\s*=\s*['\"]([^'\"]+)", text, re.MULTILINE)
    if version is None:
        return None
    accelerated = re.search(r"^(?:cuda|hip)\b[^=\n]*=\s*['\"]", text, re.MULTILINE) is not None
    return TorchBuild(version[1], accelerated)


def find_torch(python: str) -> TorchBuild | None:
    """The torch that `python` would import."""
    answer = subprocess.run([python, "-I", "-c", ORIGIN], capture_output=True, text=True)
    version_py = (
        Path(answer.stdout.strip()).with_name("version.py") if answer.stdout.strip() else None
    )
    return parse_version_py(version_py.read_text()) if version_py and version_py.is_file() else None


# ---- where torch comes from ----


def pinned_version() -> str:
    pin = re.search(r"^torch==([^\s;]+)", TORCH_PIN.read_text(), re.MULTILINE)
    assert pin is not None, f"{TORCH_PIN.name} pins torch"
    return pin[1]


def sources(kind: str, version: str, gpu: bool) -> list[Source]:
    """Places to ask, best first. `===` compares text: it leaves out 2.13.0+cpu. A torch backend is
    uv's own knowledge of where PyTorch keeps its builds; `auto` goes by the GPU's driver.
    """
    anywhere = Source(f"torch=={version}", ("-c", str(PINS)))
    default = Source(f"torch==={version}", ("-c", str(PINS), "-c", str(TORCH_PIN)))
    if kind == "cpu":
        named = Source(f"torch=={version}+cpu", ("-c", str(PINS)))
        return [named, default, Source(f"torch=={version}", ("--torch-backend", "cpu"))]
    fitting = [Source(f"torch=={version}", ("--torch-backend", "auto"))] if gpu else []
    return [*fitting, anywhere, default]


def read_plan(listing: str) -> TorchBuild:
    """Of what `uv pip compile` prints: one requirement a line."""
    found = dict(re.findall(r"^([\w.-]+)===?([^\s;]+)", listing, re.MULTILINE))
    version = found["torch"]
    extras = any(name.startswith(("nvidia-", "cuda-")) for name in found)
    return TorchBuild(version, extras or "+cu" in version or "+rocm" in version)


def read_pip_config(listing: str) -> dict[str, str]:
    """`pip config list`: section.option='value'. The environment wins, then what is for install."""
    values: dict[str, str] = {}
    for section in ("global", "install", ":env:"):
        for name, value in re.findall(rf"^{section}\.([\w-]+)=(.+)$", listing, re.MULTILINE):
            values[name] = str(ast.literal_eval(value))
    return values


def uv_environment(config: Mapping[str, str], env: Mapping[str, str]) -> dict[str, str]:
    """`env` with pip's configuration said to uv, where uv itself is not configured. uv then looks
    at all indexes, as pip does, and not only at the first that has the name. But of one version it
    takes what the first of them has, even if another has a file that fits better: so the main index
    comes before extra ones, which may have a few files only.
    """
    said = {"UV_INDEX_STRATEGY": "unsafe-best-match"}
    if has_certificates(ssl.get_default_verify_paths()):
        said["UV_SYSTEM_CERTS"] = "1"  # uv trusts its own otherwise, and no company's
    for name, (uv_name, separator) in UV_NAMES.items():
        if config.get(name):
            said[uv_name] = separator.join(config[name].split())
    if config.get("extra-index-url"):
        urls = config.get("index-url", ""), config["extra-index-url"]
        said["UV_INDEX"] = " ".join(" ".join(urls).split())
    return said | dict(env)


def default_index(pip_help: str) -> dict[str, str]:
    """pip's own index, which it is seldom configured with, as `pip install --help` says it."""
    found = re.search(r"--index-url .*?\(default\s+(\S+)\)", pip_help, re.DOTALL)
    return {"index-url": found[1]} if found else {}


def has_certificates(system: ssl.DefaultVerifyPaths) -> bool:
    folder = Path(system.capath) if system.capath else None
    return bool(system.cafile or (folder and any(folder.iterdir())))


def uv_options(config: Mapping[str, str]) -> list[str]:
    """What has no variable, or one that options would replace."""
    options = [word for path in config.get("constraint", "").split() for word in ("-c", path)]
    return [*options, "--no-index"] if config.get("no-index") in ("1", "true") else options


# ---- doing it ----


class Environment:
    """The virtual environment at `path`, with uv in it."""

    def __init__(self, path: Path, see_system: bool) -> None:
        self.python = str(path / "bin/python")
        self.uv = str(path / "bin/uv")
        if see_system or not Path(self.python).exists():
            self._create(path, see_system)
        pip = self._pip()
        config = read_pip_config(run(*pip, "config", "list").stdout)
        if "extra-index-url" in config:
            config = default_index(run(*pip, "install", "--help").stdout) | config
        self.variables = uv_environment(config, os.environ)
        self.options = uv_options(config)
        run(*pip, "install", "-qq", "--no-deps", "--require-hashes", "-r", str(UV_PIN))

    def _create(self, path: Path, see_system: bool) -> None:
        """Idempotent: on an existing one it only sets whether the system's packages are seen."""
        options = ["--system-site-packages"] if see_system else []
        if importlib.util.find_spec("ensurepip") is None:
            options.append("--without-pip")
            if importlib.util.find_spec("pip") is None:
                raise StopError(
                    "This Python can make no virtual environment: install python3-venv."
                )
        run(sys.executable, "-m", "venv", *options, str(path))

    def _pip(self) -> list[str]:
        """The environment's own pip, else the system's, which can work on another Python."""
        own = subprocess.run([self.python, "-I", "-m", "pip", "--version"], capture_output=True)
        if own.returncode == 0:
            return [self.python, "-m", "pip", "--disable-pip-version-check"]
        return [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", self.python]

    def plan(self, source: Source) -> TorchBuild | str:
        """What `source` would bring, or why it brings nothing."""
        hasty = "--torch-backend" in source.options
        command = [self.uv, "pip", "compile", "-q", "-", "--python", self.python, "--no-header"]
        try:
            done = subprocess.run(
                [*command, "--no-annotate", *self.options, *source.options],
                input=source.requirement,
                env=HASTY | self.variables if hasty else self.variables,
                timeout=HASTY_LIMIT_S if hasty else None,
                capture_output=True,
                text=True,
            )
        except subprocess.TimeoutExpired:
            return f"no answer within {HASTY_LIMIT_S} s"
        return done.stderr.strip() if done.returncode else read_plan(done.stdout)

    def install(self, *arguments: str) -> None:
        self._uv("install", *self.options, *arguments)

    def remove(self, package: str) -> None:
        self._uv("uninstall", "-q", package)

    def _uv(self, action: str, *arguments: str) -> None:
        command = [self.uv, "pip", action, "--python", self.python, *arguments]
        if subprocess.run(command, env=self.variables).returncode:
            raise StopError(f"This failed: {' '.join(command)}")


def run(*command: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise StopError(
            f"{' '.join(command)} failed:\n{done.stderr.strip() or done.stdout.strip()}"
        )
    return done


def choose(kind: str, found: list[tuple[Source, TorchBuild]]) -> tuple[Source, TorchBuild, str]:
    """The first of the right kind; where there is none, the last, and what to say about it."""
    for source, build in found:
        if build.accelerated == (kind == "cuda"):
            return source, build, ""
    source, build = found[-1]
    if kind == "cpu":
        return source, build, "no CPU build of torch found: taking a CUDA build, larger than needed"
    return source, build, "no CUDA build of torch found: taking a CPU build, the GPU stays idle"


def install_torch(environment: Environment, kind: str, gpu: bool) -> TorchBuild:
    found, reasons = [], []
    for source in sources(kind, pinned_version(), gpu):
        plan = environment.plan(source)
        if isinstance(plan, str):
            reasons.append(plan)
            continue
        found.append((source, plan))
        if plan.accelerated == (kind == "cuda"):
            break
    if not found:
        said = "\n".join(dict.fromkeys(reasons))
        raise StopError(f"No torch {pinned_version()} for this Python is to be had:\n{said}")
    source, build, remark = choose(kind, found)
    size = "several GB" if build.accelerated else "about 200 MB"
    say(f"torch {build.version} ({size}){': ' if remark else ''}{remark}")
    environment.install(*source.options, "--reinstall-package", "torch", f"torch==={build.version}")
    return build


def install_rest(environment: Environment, build: TorchBuild, packages: list[str]) -> None:
    """Everything but torch, and but triton where torch has brought its own."""
    provided = Path(environment.python).parent.parent / "provided.txt"
    # What belongs to torch has to fit its build, and is not needed.
    names = ["torch", "torchaudio", "torchcodec", "torchvision"]
    provided.write_text("\n".join([*names, *(["triton"] if build.accelerated else []), ""]))
    pins = ["-c", str(PINS), "--build-constraints", str(PINS)]
    environment.install("-q", *pins, "--excludes", str(provided), *packages)


def main(path: Path, packages: list[str]) -> None:
    gpu = has_gpu()
    kind = wanted_kind(os.environ, gpu)
    system = (
        find_torch(getattr(sys, "_base_executable", sys.executable)) if kind == "cuda" else None
    )
    see_system = system is not None and system.suits(kind)
    environment = Environment(path, see_system)
    build = find_torch(environment.python)
    if see_system and build is not None and not build.suits(kind):
        environment.remove("torch")
        build = system
    if build is None or not build.suits(kind):
        build = install_torch(environment, kind, gpu)
    else:
        say(f"torch {build.version} is there{', of the system' if build == system else ''}")
    if packages:
        install_rest(environment, build, packages)
        compile_decoder(environment)


def compile_decoder(environment: Environment) -> None:
    """The CPU's decoder layers in C++; everything works without them, slower."""
    command = [environment.python, "-m", "engine.native.build"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason"])[-1]
        say(f"decoder layers in C++ left out, speech takes longer on a CPU: {reason}")


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), sys.argv[2:])
    except StopError as error:
        sys.exit(f"{error}")
