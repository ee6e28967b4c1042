"""On a GPU: start-up's own checks pass here, and are many enough to mean something."""

import time
from pathlib import Path

import pytest
import torch

from engine.check_gpu import report
from engine.config import EngineConfig, ModelSpec
from engine.dummy.checkpoint import write_random_checkpoint
from engine.what_fits import Asked


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_kernel_and_no_graph_is_broken_here(tmp_path: Path, dtype: str) -> None:
    write_random_checkpoint(tmp_path / "m", model_type="custom_voice", shape="tiny-1b7")
    fields = {"device": "cuda", "dtype": dtype, "max_num_seqs": 4, "kv_cache_memory": "32MB"}
    started = time.monotonic()
    found = report(
        Asked(EngineConfig(**fields, max_model_len=512), [ModelSpec("m", str(tmp_path / "m"))])
    )
    print(f"{time.monotonic() - started:.1f} s on {torch.cuda.get_device_name()}")
    for check in found.checks:
        print(check, check.fault)
    assert found.error is None and not any(found.faults)
    kinds = {check.name.split()[0] for check in found.checks}
    assert {"norm,", "attention", "drawing", "codec", "graph", "frames"} <= kinds
