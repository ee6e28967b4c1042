"""The whole GPU path, kernels and graphs, says the official package's codes in float32."""

import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from engine.core import EngineCore
from tests.gpu.parity import GREEDY, end_row, make_core, submission
from tests.models import golden

PATHS = {"graphs": True, "kernels": False}  # recorded, and launched one by one


@pytest.fixture(scope="module", params=PATHS)
def core_of(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Callable[[str], EngineCore]]:
    """A checkpoint's core, made when it is first asked for: its kernels may have to be compiled."""
    folders = golden.write_all(tmp_path_factory.mktemp("checkpoints"))
    graphs, made = PATHS[request.param], {}

    def core(name: str) -> EngineCore:
        if name not in made:
            made[name] = make_core(
                folders[name], device="cuda", kernels="triton", cuda_graphs=graphs
            )
            assert made[name].talker.runners["m"].kernels == "triton"
            assert (made[name].talker.runners["m"].frames is not None) == graphs
        return made[name]

    yield core
    for one in made.values():
        one.close()


def expected(case: dict[str, Any]) -> np.ndarray:
    return golden.arrays("speech")[f"{case['id']}.codes"]


@pytest.mark.parametrize("case", GREEDY, ids=[case["id"] for case in GREEDY])
def test_greedy_codes(core_of: Callable[[str], EngineCore], case: dict[str, Any]) -> None:
    reference = case["reference"]
    if reference and reference["sample_rate"] != 24_000 and not importlib.util.find_spec("soxr"):
        pytest.skip("soxr is missing: this recording must be resampled")
    core = core_of(case["checkpoint"])
    with end_row(core, case):
        codes = golden.speak(core, [submission(core, case)])[1]
    np.testing.assert_array_equal(codes, expected(case))


@pytest.mark.parametrize("name", golden.CASES["checkpoints"])
def test_greedy_codes_in_one_batch(core_of: Callable[[str], EngineCore], name: str) -> None:
    """More cases than rows, so batches of every bucket come and go."""
    core = core_of(name)
    cases = [
        case
        for case in GREEDY
        if case["checkpoint"] == name
        and case["eos_row_from"] is None
        and (case["reference"] or {"sample_rate": 24_000})["sample_rate"] == 24_000
    ]
    codes = golden.speak(core, [submission(core, case, i) for i, case in enumerate(cases)])
    for i, case in enumerate(cases):
        np.testing.assert_array_equal(codes[i], expected(case), err_msg=case["id"])
