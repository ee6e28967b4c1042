# ruff: noqa: RUF012  (msgspec copies defaults)
"""The stand-in for msgspec behaves as msgspec as far as engine/ uses it, and engine/ runs on it."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import msgspec
import pytest

from benchmarks import msgspec_stand_in
from engine.models import config as real_config
from tests.models import golden

ROOT = Path(__file__).parents[2]


def structs(m: Any) -> SimpleNamespace:
    class Inner(m.Struct, frozen=True, forbid_unknown_fields=True):
        a: int
        b: str = "x"

    class Base(m.Struct, frozen=True, kw_only=True):
        n: int = 3
        inner: Inner

    class Outer(Base, frozen=True, kw_only=True):
        number_or_auto: int | Literal["auto"] = "auto"
        text_or_flag: str | bool = "x"
        optional: Inner | None = None
        table: dict[str, str | bool] = {}
        numbers: tuple[int, ...] = (1,)
        pair: tuple[int, float] = (1, 2.0)
        rate: float = 1.0
        flag: bool = False
        kind: Literal["p", "q"] = "p"
        items: list[Inner] = []
        free: dict = {}

    class Message(m.Struct, frozen=True, tag=True):
        id: int
        text: tuple[int, ...]

    return SimpleNamespace(Inner=Inner, Outer=Outer, Message=Message)


REAL, STAND_IN = structs(msgspec), structs(msgspec_stand_in)
NESTED = [{"a": 1}, {"a": "1"}, {"a": 1.0}, {"a": 1.5}, {"a": 1, "z": 1}, {"a": True}, {"a": None}]
FIELDS = {
    "number_or_auto": ["auto", "bad", 5, "5", 2.5, None],
    "text_or_flag": [True, 1, "true", [], "no"],
    "optional": [None, {}, {"a": 2}, {"a": "z"}, 4, [1]],
    "table": [{"k": "v", "q": False}, {"k": 3}, []],
    "numbers": [[1, 2], [1, "x"], 3, []],
    "pair": [[1, 2], [1], [1, "x"], {}],
    "rate": [1, "1.5", "z", True, None],
    "flag": [1, 0, 2, "true", "False", "0", "no", 1.0],
    "kind": ["q", "z", 1, None],
    "items": [[{"a": 1}, {"a": "q"}], [{}], {}],
    "free": [{"x": [1]}, []],
    "unknown": [1],
}
OBJECTS = [
    *({"inner": inner} for inner in NESTED),
    *({"inner": {"a": 1}, name: value} for name, values in FIELDS.items() for value in values),
    {},
    3,
    [1],
    {"inner": 7},
]


def outcome(m: Any, made: SimpleNamespace, obj: Any, strict: bool) -> str:
    try:
        return repr(m.convert(obj, made.Outer, strict=strict))
    except m.ValidationError as error:
        return str(error)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("obj", OBJECTS, ids=repr)
def test_converts_or_refuses_alike(obj, strict):
    expected = outcome(msgspec, REAL, obj, strict)
    assert outcome(msgspec_stand_in, STAND_IN, obj, strict) == expected


@pytest.mark.parametrize(("m", "made"), [(msgspec, REAL), (msgspec_stand_in, STAND_IN)])
def test_structs(m, made):
    one = made.Message(3, (1, 2))
    match one:
        case made.Message(number, text):
            assert (number, text) == (3, (1, 2))
    changed = m.structs.replace(one, id=4)
    assert (changed.id, one.id) == (4, 3)
    assert changed == made.Message(4, (1, 2)) and hash(changed) == hash(made.Message(4, (1, 2)))
    with pytest.raises(AttributeError):
        one.id = 5
    first, second = (made.Outer(inner=made.Inner(1)) for _ in range(2))
    assert first.table == {} and first.table is not second.table
    assert made.Outer.__struct_fields__[:3] == ("n", "inner", "number_or_auto")
    with pytest.raises(TypeError):
        made.Outer(made.Inner(1))


@pytest.fixture
def stood_in_config(monkeypatch):
    """engine.models.config, made once more from its source with the stand-in."""
    monkeypatch.setitem(sys.modules, "msgspec", msgspec_stand_in)
    spec = importlib.util.spec_from_file_location("stood_in_config", real_config.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_config_file(stood_in_config, tmp_path):
    """Of every family and size."""
    for folder in golden.write_all(tmp_path).values():
        for name, kind in (
            ("config.json", "ModelConfig"),
            ("generation_config.json", "GenerationConfig"),
            ("speech_tokenizer/config.json", "CodecConfig"),
        ):
            expected = real_config.read_config(folder / name, getattr(real_config, kind))
            got = stood_in_config.read_config(folder / name, getattr(stood_in_config, kind))
            assert repr(got) == repr(expected)


SPEAK = """
import sys, tempfile
from pathlib import Path
sys.modules["msgspec"] = None  # as if it were not installed
from benchmarks.bare import use_stand_ins
use_stand_ins()
import numpy as np
from engine.random_checkpoint import write_random_checkpoint
from tests.gpu.parity import GREEDY, golden, make_core, submission
case = next(case for case in GREEDY if case["id"] == "cv7_english")
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "tiny"
    write_random_checkpoint(path, model_type="custom_voice", shape="tiny-1b7")
    core = make_core(path, device="cpu")
    codes = golden.speak(core, [submission(core, case)])[1]
np.testing.assert_array_equal(codes, golden.arrays("speech")["cv7_english.codes"])
print(type(submission(core, case).prompt).__mro__[1].__module__)
"""


def test_speaks_a_golden_case_without_msgspec():
    done = subprocess.run(
        [sys.executable, "-c", SPEAK], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["benchmarks.msgspec_stand_in"]


def test_runs_a_module():
    command = [sys.executable, "-m", "benchmarks.bare", "engine.bench", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "--shape" in done.stdout
