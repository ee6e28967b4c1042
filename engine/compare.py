"""Compares a kernel with plain torch on the same GPU: the difference of the results, and the time
of each.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from engine.protocol import Check

# measure(work, device) -> seconds
Measure = Callable[[Callable[[], object], torch.device], float]
# What a result may differ by, see `difference`. Sums run in another order, and 16 bits are rounded
# after each operation; of codes drawn, one may fall on the other side of a boundary.
ALLOWED = {torch.float32: 1e-3, torch.bfloat16: 3e-2, torch.int16: 3e-2, torch.int64: 0.1}


def compare(
    name: str,
    kernel: Callable[[], Tensor],
    plain: Callable[[], Tensor],
    device: torch.device,
    measure: Measure,
) -> Check:
    """Whatever compiler and driver raise is the answer, not an error of ours."""
    try:
        expected = plain()
        gap, allowed = difference(kernel(), expected), ALLOWED[expected.dtype]
        return Check(name, "", gap, allowed, measure(kernel, device), measure(plain, device))
    except Exception as error:
        return Check(name, error=reason(error))


def difference(got: Tensor, expected: Tensor) -> float:
    """The largest, as a part of the largest value; of codes (int64) the share that is not equal."""
    if expected.dtype == torch.int64:
        return float((got != expected).float().mean())
    gap = (got.double() - expected.double()).abs().amax()
    return float(gap / expected.double().abs().amax().clamp_min(1e-30))


def reason(error: Exception) -> str:
    """Type and last line: compilers print the program first."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[-1].strip()[:200] if lines else ''}"
