"""Which torch goes where: scripts/install.py without pip, uv or a network."""

import importlib.util
import os
import re
import ssl
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "scripts/install.py"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("install_script", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


it = load()
CPU, CUDA = it.TorchBuild("2.13.0+cpu", False), it.TorchBuild("2.11.0+cu130", True)
CPU_PLAN = "numpy==2.4.6\ntorch==2.13.0+cpu\n"
CUDA_PLAN = "nvidia-nccl-cu13==2.29.7\ntorch===2.13.0\ntriton==3.7.1 ; sys_platform == 'linux'\n"


class FakeEnvironment:
    """Answers plans from a table, by (requirement, torch backend), and keeps what is installed."""

    def __init__(self, plans: dict[tuple[str, str], str]) -> None:
        self.plans, self.asked, self.installed = plans, [], []

    def plan(self, source):
        backend = source.options[1] if source.options[0] == "--torch-backend" else ""
        self.asked.append((source.requirement, backend))
        listing = self.plans.get(self.asked[-1])
        return it.read_plan(listing) if listing else "error: nothing there"

    def install(self, *arguments):
        self.installed.append(arguments)


PIN = it.pinned_version()
NAMED, PLAIN, EXACT = (
    f"torch==={PIN}" if e == "=" else f"torch=={PIN}{e}" for e in ("+cpu", "", "=")
)


def plan_of(kind: str) -> str:
    return (CUDA_PLAN if kind == "cuda" else CPU_PLAN).replace("2.13.0", PIN)


@pytest.mark.parametrize(
    ("kind", "gpu", "plans", "asked", "remark"),
    [
        # A CPU machine: pip's places know a CPU build.
        ("cpu", False, {(NAMED, ""): "cpu"}, [(NAMED, "")], ""),
        # The default index's build is a CPU build, as on a Mac.
        ("cpu", False, {(EXACT, ""): "cpu"}, [(NAMED, ""), (EXACT, "")], ""),
        # PyTorch's own place answers.
        (
            "cpu",
            False,
            {(EXACT, ""): "cuda", (PLAIN, "cpu"): "cpu"},
            [(NAMED, ""), (EXACT, ""), (PLAIN, "cpu")],
            "",
        ),
        # The default index is all there is: it goes on, and says so.
        (
            "cpu",
            False,
            {(EXACT, ""): "cuda"},
            [(NAMED, ""), (EXACT, ""), (PLAIN, "cpu")],
            "larger than needed",
        ),
        # A GPU: what fits its driver, else the default index's.
        ("cuda", True, {(PLAIN, "auto"): "cuda"}, [(PLAIN, "auto")], ""),
        ("cuda", True, {(PLAIN, ""): "cuda"}, [(PLAIN, "auto"), (PLAIN, "")], ""),
        # A folder with a CPU wheel does not hide the CUDA build.
        (
            "cuda",
            True,
            {(PLAIN, ""): "cpu", (EXACT, ""): "cuda"},
            [(PLAIN, "auto"), (PLAIN, ""), (EXACT, "")],
            "",
        ),
        # An image for GPUs is built where there is none: no look at the driver.
        ("cuda", False, {(PLAIN, ""): "cuda"}, [(PLAIN, "")], ""),
        (
            "cuda",
            True,
            {(PLAIN, ""): "cpu"},
            [(PLAIN, "auto"), (PLAIN, ""), (EXACT, "")],
            "the GPU stays idle",
        ),
    ],
)
def test_where_torch_comes_from(kind, gpu, plans, asked, remark, capsys):
    environment = FakeEnvironment({source: plan_of(build) for source, build in plans.items()})
    build = it.install_torch(environment, kind, gpu)
    assert environment.asked == asked
    assert build.accelerated == (list(plans.values())[-1] == "cuda")
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and remark in said and (": " in said) == bool(remark)
    [arguments] = environment.installed
    assert arguments[-1] == f"torch==={build.version}"


def test_the_default_index_is_held_to_hashes():
    environment = FakeEnvironment({(EXACT, ""): plan_of("cuda")})
    it.install_torch(environment, "cpu", False)
    assert (
        str(it.TORCH_PIN) in environment.installed[0] and str(it.PINS) in environment.installed[0]
    )


def test_no_torch_at_all_says_why():
    with pytest.raises(it.StopError, match=r"(?s)No torch .*error: nothing there"):
        it.install_torch(FakeEnvironment({}), "cpu", False)


@pytest.mark.parametrize(
    ("listing", "version", "accelerated"),
    [
        ("torch==2.13.0+cpu\n", "2.13.0+cpu", False),
        ("numpy==2.4.6\ntorch==2.13.0\n", "2.13.0", False),
        ("torch==2.13.0+cu130\n", "2.13.0+cu130", True),
        ("nvidia-cublas==13.1\ntorch==2.13.0\n", "2.13.0", True),
        ("cuda-bindings==13.5\ntorch===2.13.0 ; sys_platform == 'linux'\n", "2.13.0", True),
    ],
)
def test_read_plan(listing, version, accelerated):
    assert it.read_plan(listing) == (version, accelerated)


@pytest.mark.parametrize(
    ("build", "kind", "suits"),
    [
        (CPU, "cpu", True),
        (CUDA, "cpu", True),  # works without a GPU, and nothing is pulled
        (CUDA, "cuda", True),
        (CPU, "cuda", False),
        (it.TorchBuild("2.10.1+cpu", False), "cpu", False),
        (it.TorchBuild("2.15.0+cpu", False), "cpu", False),
        (it.TorchBuild("2.9.0+cu128", True), "cuda", False),
    ],
)
def test_suits(build, kind, suits):
    assert build.suits(kind) is suits


@pytest.mark.parametrize(
    ("text", "build"),
    [
        ("__version__ = '2.13.0+cpu'\ncuda: Optional[str] = None\nhip: Optional[str] = None", CPU),
        ("__version__ = '2.11.0+cu130'\ncuda: Optional[str] = '13.0'\n", CUDA),
        ("__version__ = '2.12.0'\nhip = '7.0'\n", it.TorchBuild("2.12.0", True)),
        ("nothing", None),
    ],
)
def test_parse_version_py(text, build):
    assert it.parse_version_py(text) == build


def test_find_torch_reads_what_would_be_imported(tmp_path, monkeypatch):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/__init__.py").write_text("raise SystemExit('must not be imported')")
    (tmp_path / "torch/version.py").write_text("__version__ = '2.13.0+cpu'")
    monkeypatch.setattr(
        it, "ORIGIN", f"import sys; sys.path[:0] = [{str(tmp_path)!r}]; {it.ORIGIN}"
    )
    assert it.find_torch(sys.executable) == CPU
    monkeypatch.setattr(it, "ORIGIN", "print('')")
    assert it.find_torch(sys.executable) is None


def test_gpu_by_device_node(tmp_path, monkeypatch):
    monkeypatch.setattr(it.shutil, "which", lambda *args, **kwargs: None)
    assert not it.has_gpu(tmp_path)
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidiactl").touch()
    assert not it.has_gpu(tmp_path)
    (tmp_path / "dev/nvidia0").touch()
    assert it.has_gpu(tmp_path)


@pytest.mark.parametrize(
    ("build", "gpu", "kind"),
    [("", False, "cpu"), ("auto", True, "cuda"), ("cpu", True, "cpu"), ("cuda", False, "cuda")],
)
def test_wanted_kind(build, gpu, kind):
    assert it.wanted_kind({"TORCH_BUILD": build}, gpu) == kind


def test_wanted_kind_refuses_typos():
    with pytest.raises(it.StopError, match="auto, cpu or cuda"):
        it.wanted_kind({"TORCH_BUILD": "gpu"}, False)


@pytest.mark.parametrize(
    ("inside", "seen", "removed", "told"),
    [
        (None, CUDA, [], "torch 2.11.0+cu130 is there, of the system"),
        (CPU, CUDA, ["torch"], "torch 2.11.0+cu130 is there, of the system"),
        (CUDA._replace(version="2.12.0"), CPU, [], "torch 2.12.0 is there"),
        (None, None, [], "chosen"),
    ],
)
def test_a_gpu_machine_keeps_its_own_torch(inside, seen, removed, told, monkeypatch, capsys):
    """Its system's CUDA torch before any download; the environment's own where it has one."""
    gone: list[str] = []

    class Venv(FakeEnvironment):
        python, remove = "venv/bin/python", staticmethod(gone.append)

        def __init__(self, path, see_system):
            super().__init__({})
            assert see_system == (seen is CUDA)

    def find_torch(python):
        return inside or (seen if seen is CUDA else None) if python == Venv.python else seen

    monkeypatch.setattr(it, "Environment", Venv)
    monkeypatch.setattr(it, "find_torch", find_torch)
    monkeypatch.setattr(it, "has_gpu", lambda: True)
    monkeypatch.setattr(it, "install_torch", lambda *_: print("chosen") or CUDA)
    monkeypatch.delenv("TORCH_BUILD", raising=False)
    it.main(Path("venv"), [])
    assert gone == removed and capsys.readouterr().out.strip() == told


# ---- pip's configuration ----

PIP_CONFIG = """\
:env:.find-links='/wheels'
:env:.no-index='1'
global.cert='/etc/ca.crt'
global.constraint='/etc/caps.txt /etc/more.txt'
global.extra-index-url='file:///a/simple file:///b/simple'
global.find-links='/old /older'
global.index-url='file:///mirror/simple'
install.index-url='file:///for-install/simple'
list.format='json'
"""


def test_what_pip_is_configured_with_is_said_to_uv(monkeypatch):
    monkeypatch.setattr(it, "has_certificates", lambda _: True)
    config = it.read_pip_config(PIP_CONFIG)
    assert it.uv_environment(config, {"PATH": "/bin"}) == {
        "PATH": "/bin",
        "SSL_CERT_FILE": "/etc/ca.crt",
        "UV_DEFAULT_INDEX": "file:///for-install/simple",
        "UV_FIND_LINKS": "/wheels",
        "UV_INDEX": "file:///for-install/simple file:///a/simple file:///b/simple",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_SYSTEM_CERTS": "1",
    }
    options = ["-c", "/etc/caps.txt", "-c", "/etc/more.txt", "--no-index"]
    assert it.uv_options(config) == options
    assert it.uv_options({}) == []


def test_the_main_index_comes_before_extra_ones():
    """Of one version uv takes what the first index has; an extra one may lack what fits."""
    said = """  -i, --index-url <url>       Base URL of the Package Index (default
                              file:///main/simple). This should point to a
  --extra-index-url <url>     Extra URLs (default file:///no)"""
    config = it.default_index(said) | {"extra-index-url": "file:///extra"}
    assert it.uv_environment(config, {})["UV_INDEX"] == "file:///main/simple file:///extra"
    assert it.default_index("nothing of the kind") == {}
    real = subprocess.run([sys.executable, "-m", "pip", "install", "--help"], capture_output=True)
    assert it.default_index(real.stdout.decode())["index-url"].startswith("https://")


def test_the_system_s_certificates_count_where_there_are_any(tmp_path, monkeypatch):
    paths = ssl.get_default_verify_paths()
    empty = paths._replace(cafile=None, capath=str(tmp_path))
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: empty)
    assert "UV_SYSTEM_CERTS" not in it.uv_environment({}, {})
    assert not it.has_certificates(empty._replace(capath=None))
    (tmp_path / "company.pem").touch()
    assert it.uv_environment({}, {})["UV_SYSTEM_CERTS"] == "1"
    assert it.uv_environment({}, {"UV_SYSTEM_CERTS": "0"})["UV_SYSTEM_CERTS"] == "0"


def test_several_folders_of_wheels_and_uv_s_own_settings():
    config = it.read_pip_config("global.find-links='/old\\n/older'\nglobal.cert='/a'\n")
    made = it.uv_environment(config, {"SSL_CERT_FILE": "/mine"})
    assert made["UV_FIND_LINKS"] == "/old,/older" and made["SSL_CERT_FILE"] == "/mine"


# ---- the environment's own steps, with a pip and a uv that write down how they are called ----

FAKE_TOOL = """#!/bin/sh
echo "$(basename $0) $*" >> {log}
echo "{answer}"
"""


@pytest.fixture
def fake_environment(tmp_path, monkeypatch):
    log = tmp_path / "calls"
    (tmp_path / "bin").mkdir()
    for name, answer in (("python", "global.cert='/ca'"), ("uv", "torch==2.13.0")):
        tool = tmp_path / "bin" / name
        tool.write_text(FAKE_TOOL.format(log=log, answer=answer))
        tool.chmod(0o755)
    return it.Environment(tmp_path, see_system=False), log


def test_an_environment_that_is_there_gets_uv_by_hash(fake_environment):
    environment, log = fake_environment
    calls = log.read_text().splitlines()
    assert not any("venv" in call for call in calls)
    assert "--require-hashes" in calls[-1] and calls[-1].endswith(str(it.UV_PIN))
    assert environment.variables["SSL_CERT_FILE"] in ("/ca", os.environ.get("SSL_CERT_FILE"))


@pytest.mark.parametrize("build", [CPU, CUDA])
def test_the_rest_leaves_torch_alone(fake_environment, tmp_path, build):
    environment, log = fake_environment
    it.install_rest(environment, build, ["-e", ".[test]"])
    call = log.read_text().splitlines()[-1]
    assert f"-c {it.PINS}" in call and call.endswith(
        f"--excludes {tmp_path}/provided.txt -e .[test]"
    )
    provided = (tmp_path / "provided.txt").read_text().split()
    expected = ["torch", "torchaudio", "torchcodec", "torchvision"]
    assert provided == expected + (["triton"] if build.accelerated else [])


def test_a_place_behind_a_firewall_is_given_up_soon(fake_environment, monkeypatch):
    environment, _ = fake_environment
    Path(environment.uv).write_text("#!/bin/sh\nexec sleep 30\n")
    monkeypatch.setattr(it, "HASTY_LIMIT_S", 0.2)
    source = it.Source("torch==2.13.0", ("--torch-backend", "cpu"))
    assert "no answer" in environment.plan(source)


def test_a_failed_install_ends_with_the_command(fake_environment):
    environment, _ = fake_environment
    Path(environment.uv).write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(it.StopError, match="pip install"):
        environment.install("numpy")


# ---- the pins ----


def pins(path: Path) -> dict[str, str]:
    """Name -> the text of its entry; of several by Python version, the last."""
    entries = re.split(r"\n(?=[a-z])", "\n" + path.read_text())[1:]
    return {re.split("[=<> ]", entry)[0]: entry for entry in entries}


PIN_FILES = [it.PINS, it.TORCH_PIN, it.UV_PIN, it.ROOT / "constraints-vllm.txt"]


@pytest.mark.parametrize("path", PIN_FILES, ids=lambda path: path.name)
def test_every_pin_is_exact_and_has_hashes(path):
    for entry in pins(path).values():
        assert re.match(r"[a-z0-9-]+==\S+", entry) and "--hash=sha256:" in entry, entry


def test_every_dependency_is_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    wanted = [*project["dependencies"], *(one for extra in extras for one in extra)]
    names = {re.split(r"[\[<>=;~! ]", one)[0].lower().replace("_", "-") for one in wanted}
    missing = names - pins(it.PINS).keys() - {"torch", "vllm"}
    assert not missing, f"run `make lock`: {missing}"


def test_vllms_pins_are_within_our_ranges():
    """Its environment is made by them alone: of the server, and of the tests."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = pins(it.ROOT / "constraints-vllm.txt")
    for text in [*project["dependencies"], *project["optional-dependencies"]["test"]]:
        wanted = Requirement(text)
        if wanted.name != "torch":
            entry = pinned.get(wanted.name.lower(), "")
            version = re.match(r"\S+==([^\s;]+)", entry)
            assert version and version[1] in wanted.specifier, f"{text}: pinned is {entry[:40]!r}"


def test_range_is_that_of_pyproject():
    low, high = (".".join(map(str, v)) for v in (it.MIN_VERSION, it.END_VERSION))
    assert f'"torch>={low},<{high}"' in (ROOT / "pyproject.toml").read_text()
    assert it.TorchBuild(it.pinned_version(), False).suits("cpu")


def test_no_registry_is_named():
    """Where packages come from is the machine's business, not the repository's."""
    for path in (*PIN_FILES, SCRIPT, ROOT / "Makefile", ROOT / "Dockerfile"):
        assert not re.search(
            r"https?://(?!127\.)[\w.-]*(pypi|pythonhosted|pytorch)", path.read_text()
        )


def test_a_broken_setting_is_one_line_and_no_traceback(tmp_path):
    done = subprocess.run(
        [sys.executable, SCRIPT, tmp_path / "venv"],
        env={**os.environ, "TORCH_BUILD": "gpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr == "TORCH_BUILD is 'gpu'; it can be auto, cpu or cuda.\n"
