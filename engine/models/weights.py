"""From a safetensors file straight into a model's parameters, and no tensor unaccounted for.

A model names, for every tensor of its checkpoint, the ParamView it belongs in: a view of a (perhaps
fused) parameter that already has the target dtype and device. Loading copies file pages into those
views, one tensor at a time.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from tqdm import tqdm

from engine.errors import CheckpointError


@dataclass(frozen=True)
class ParamView:
    """`view` receives a tensor of `shape`: its own, or a smaller one that is broadcast."""

    view: Tensor
    shape: torch.Size | None = None

    @property
    def expected(self) -> torch.Size:
        return self.view.shape if self.shape is None else self.shape


def load_weights(
    path: Path,
    slots: Iterable[tuple[str, ParamView]],
    *,
    unused: Callable[[str], bool] = lambda name: False,
) -> None:
    """Fill every slot from `path`. `unused(name)` allows tensors that the file has and the model
    does not need.

    CheckpointError names the tensors that are missing, left over or of the wrong shape.
    """
    wanted = dict(slots)
    try:
        with safe_open(path, framework="pt") as file:
            _check_names(path, set(file.keys()), set(wanted), unused)
            label = f"{path.parent.name}/{path.name}"
            for name in tqdm(sorted(wanted), desc=label, unit="tensor", disable=None, leave=False):
                _fill(path, name, wanted[name], file.get_tensor(name))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: file is missing; download the checkpoint again") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path}: cannot be read as safetensors ({error}); download it again"
        ) from None


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
    slot.view.copy_(tensor)
