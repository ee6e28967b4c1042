"""From a safetensors file straight into a model's parameters, and no tensor unaccounted for.

A model names, for every tensor of its checkpoint, the ParamView it belongs in: a view of a (perhaps
fused) parameter that already has the target dtype and device. Loading copies file pages into those
views, one tensor at a time; a Linear whose weight is complete is handed on at once, so that it may
take another form before the next one is read. Memory then holds one full weight at a time.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from tqdm import tqdm

from engine.errors import CheckpointError
from engine.layers.linear import Linear

RUN_BYTES = 1 << 25


@dataclass(frozen=True)
class ParamView:
    """`view` receives a tensor of `shape`: its own, or a smaller one that is broadcast.

    owner   the Linear whose weight this is a part of
    table   on a CPU the parameter becomes the file's pages instead: rows that nobody asks for are
            never read
    """

    view: Tensor
    shape: torch.Size | None = None
    owner: Linear | None = None
    table: bool = False

    @property
    def expected(self) -> torch.Size:
        return self.view.shape if self.shape is None else self.shape


def load_weights(
    path: Path,
    slots: Iterable[tuple[str, ParamView]],
    *,
    unused: Callable[[str], bool] = lambda name: False,
    complete: Callable[[Linear], None] = lambda linear: None,
) -> None:
    """Fill every slot from `path`, but those of Linears that have a product already. `unused(name)`
    allows tensors that the file has and the model does not need; `complete` gets each Linear.

    CheckpointError names the tensors that are missing, left over or of the wrong shape.
    """
    wanted = dict(slots)
    parts = Counter(id(slot.owner) for slot in wanted.values())
    try:
        with safe_open(path, framework="pt") as file:
            _check_names(path, set(file.keys()), set(wanted), unused)
        label = f"{path.parent.name}/{path.name}"
        for names in tqdm(_runs(wanted), desc=label, unit="part", disable=None, leave=False):
            owners = [wanted[name].owner for name in names]
            # Opened anew, for pages that have been read stay with the process until it is closed.
            with safe_open(path, framework="pt") as file:
                for name in names:  # what is done is forgotten, or nothing would be freed
                    _fill(path, name, wanted.pop(name), file.get_tensor(name))
            for owner in (owner for owner in owners if owner is not None):
                parts[id(owner)] -= 1
                if parts[id(owner)] == 0:
                    complete(owner)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: file is missing; download the checkpoint again") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path}: cannot be read as safetensors ({error}); download it again"
        ) from None


def _runs(wanted: dict[str, ParamView]) -> list[list[str]]:
    """The names to read in order, cut wherever RUN_BYTES have come together."""
    runs: list[list[str]] = []
    size = RUN_BYTES
    for name in sorted(wanted):
        slot = wanted[name]
        if slot.owner is not None and slot.owner.product is not None:
            continue
        if size >= RUN_BYTES:
            runs.append([])
            size = 0
        runs[-1].append(name)
        size += slot.view.nbytes
    return runs


def _check_names(
    path: Path, found: set[str], wanted: set[str], unused: Callable[[str], bool]
) -> None:
    missing = sorted(wanted - found)
    extra = sorted(name for name in found - wanted if not unused(name))
    problems = []
    if missing:
        problems.append(f"missing {_listed(missing)}")
    if extra:
        problems.append(f"unknown {_listed(extra)}")
    if problems:
        raise CheckpointError(f"{path}: " + "; ".join(problems))


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:5])
    return f"{len(names)} tensor(s): {shown}" + (", ..." if len(names) > 5 else "")


def _fill(path: Path, name: str, slot: ParamView, tensor: Tensor) -> None:
    if tensor.shape != slot.expected:
        raise CheckpointError(
            f"{path}: tensor {name} has shape {list(tensor.shape)}, "
            f"config.json asks for {list(slot.expected)}"
        )
    if slot.table and slot.view.device.type == "cpu":
        slot.view.data = tensor
    else:
        slot.view.copy_(tensor)
