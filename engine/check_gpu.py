"""What a GPU makes of the kernels and graphs of these models: `python -m engine.check_gpu`.

In, as JSON on stdin, what `engine.what_fits` is asked. The models are loaded as a server would load
them. Out: the last line, a Report as JSON.
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
