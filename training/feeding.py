"""Examples made by processes of their own while the device works."""

import multiprocessing
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

_CONTEXT = multiprocessing.get_context("fork")


def feed(make: Callable[[np.random.Generator], Iterator[Any]], workers: int, seed: int) -> Iterator:
    """What `make(rng)` yields, from `workers` processes (0: this one). Start it before CUDA."""
    if not workers:
        return make(np.random.default_rng(seed))
    queue = _CONTEXT.Queue(4 * workers)
    for i in range(workers):
        args = (make, np.random.default_rng([seed, i]), queue)
        _CONTEXT.Process(target=_work, args=args, daemon=True).start()
    return iter(queue.get, None)


def _work(make, rng, queue) -> None:
    for example in make(rng):
        queue.put(example)
