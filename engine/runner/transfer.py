"""Small tensors between host and device without making either wait for the other.

A plain copy from pageable memory, or a read of a result, stops the host until the device has done
everything before it, and the device then has nothing to do. On a CPU these are plain tensors.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def upload(values: Sequence[Any], device: torch.device, dtype: torch.dtype = torch.int64) -> Tensor:
    """Numbers (lists may nest) to the device, in the order of its work."""
    if device.type == "cpu":
        return torch.tensor(values, dtype=dtype)
    return torch.tensor(values, dtype=dtype, pin_memory=True).to(device, non_blocking=True)


class Download:
    """A device tensor on its way to the host; begun when made, in the order of the device's work.

    The source may be overwritten by work that is queued later.
    """

    def __init__(self, source: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        if source.device.type == "cpu":
            self._host = source.clone()
            return
        self._host = torch.empty(source.shape, dtype=source.dtype, pin_memory=True)
        self._host.copy_(source, non_blocking=True)
        self._event = torch.cuda.Event()
        self._event.record()

    @property
    def ready(self) -> bool:
        return self._event is None or self._event.query()

    def result(self) -> Tensor:
        """The tensor on the host; waits for it."""
        if self._event is not None:
            self._event.synchronize()
        return self._host
