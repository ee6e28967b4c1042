"""Runs every kernel and graph of some models beside plain torch on this GPU, for `qtts check
--gpu`: `python -m engine.check_gpu`.

In, as JSON on stdin: `config` (EngineConfig) and `models` (ModelSpecs), as for engine.what_fits.
The models are loaded as a server would load them. Out, on the last line: a Report as JSON.
"""

import sys

import msgspec
import torch

from engine.errors import CheckpointError
from engine.protocol import Check
from engine.startup import build
from engine.what_fits import Asked


class Report(msgspec.Struct):
    gpu: str = ""
    checks: list[Check] = []
    faults: list[str] = []  # of each check: why its results cannot be used, or nothing
    error: str | None = None


def report(asked: Asked) -> Report:
    if not torch.cuda.is_available():
        return Report(error=f"torch {torch.__version__} sees no GPU")
    found = Report(torch.cuda.get_device_name())
    try:
        core, ready = build(asked.config, asked.models)
    except CheckpointError as error:
        found.error = str(error)
        return found
    core.close()
    found.checks = ready.checks
    found.faults = [check.fault for check in ready.checks]
    return found


if __name__ == "__main__":
    asked = msgspec.json.decode(sys.stdin.buffer.read(), type=Asked)
    print(msgspec.json.encode(report(asked)).decode())
