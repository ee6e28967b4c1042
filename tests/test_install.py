"""Which torch goes where: the decisions of scripts/install_torch.py, without pip or a network."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "scripts/install_torch.py"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("install_torch", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["install_torch"] = module
    spec.loader.exec_module(module)
    return module


it = load()
CPU, CUDA = it.TorchBuild("2.13.0+cpu", False), it.TorchBuild("2.11.0+cu130", True)


def report(version: str, *others: str) -> dict:
    names = {"torch": version, "numpy": "2.4.6", **dict.fromkeys(others, "1.0")}
    return {"install": [{"metadata": {"name": n, "version": v}} for n, v in names.items()]}


@pytest.mark.parametrize(
    ("kind", "installed", "system", "action"),
    [
        ("cpu", None, None, "install"),
        ("cpu", CPU, None, "keep"),
        ("cpu", CUDA, None, "keep"),  # works without a GPU, and nothing is pulled
        ("cpu", None, CPU, "install"),
        ("cpu", it.TorchBuild("2.10.1+cpu", False), None, "install"),
        ("cpu", it.TorchBuild("2.14.0+cpu", False), None, "install"),
        ("cuda", None, None, "install"),
        ("cuda", CUDA, None, "keep"),
        ("cuda", CPU, None, "install"),
        ("cuda", None, CUDA, "system"),
        ("cuda", CPU, CUDA, "system"),
        ("cuda", None, CPU, "install"),
        ("cuda", None, it.TorchBuild("2.9.0+cu128", True), "install"),
    ],
)
def test_decide(kind, installed, system, action):
    assert it.decide(kind, installed, system) == action


@pytest.mark.parametrize(
    ("plan", "accelerated"),
    [
        (report("2.13.0+cpu"), False),
        (report("2.13.0"), False),
        (report("2.13.0+cu130"), True),
        (report("2.13.0", "nvidia-cublas", "triton"), True),
        (report("2.13.0", "cuda-bindings"), True),
    ],
)
def test_read_plan(plan, accelerated):
    assert it.read_plan(plan).accelerated is accelerated


def test_candidates_prefer_the_named_cpu_build():
    assert it.candidates("cpu", "2.13.0") == ["torch==2.13.0+cpu", "torch==2.13.0"]
    assert it.candidates("cuda", "2.13.0") == ["torch==2.13.0", "torch===2.13.0"]


def test_pick_refuses_the_wrong_kind():
    cpu, cuda = it.read_plan(report("2.13.0+cpu")), it.read_plan(report("2.13.0", "nvidia-nccl"))
    assert it.pick("cpu", [cuda, cpu]) is cpu
    assert it.pick("cuda", [cpu, cuda]) is cuda
    assert it.pick("cpu", [cuda]) is None


def test_refusal_says_what_to_do():
    plan = it.read_plan(report("2.13.0", "nvidia-nccl"))
    assert "TORCH_INDEX=" in it.refusal("cpu", "2.13.0", [plan], [])
    assert "no matching" in it.refusal("cpu", "2.13.0", [], ["ERROR: no matching"])


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


def test_index_options():
    assert it.index_options({}) == []
    assert it.index_options({"TORCH_INDEX": "file:///i", "TORCH_FIND_LINKS": "/w"}) == [
        "--extra-index-url",
        "file:///i",
        "--find-links",
        "/w",
    ]


def test_range_is_that_of_pyproject():
    (low, high) = (".".join(map(str, v)) for v in (it.MIN_VERSION, it.END_VERSION))
    assert f'"torch>={low},<{high}"' in (SCRIPT.parent.parent / "pyproject.toml").read_text()
    assert it.TorchBuild(it.pinned_version(), False).in_range
