"""Lists of modules that know what they hold: torch's own give `Module` to a type checker."""

from typing import TYPE_CHECKING, Generic, TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)


class Modules(nn.ModuleList, Generic[M]):
    """An nn.ModuleList of modules of one type."""

    if TYPE_CHECKING:
        from collections.abc import Iterable, Iterator

        def __init__(self, modules: Iterable[M]) -> None: ...
        def __iter__(self) -> Iterator[M]: ...


class NamedModules(nn.ModuleDict, Generic[M]):
    """An nn.ModuleDict of modules of one type."""

    if TYPE_CHECKING:
        from collections.abc import ItemsView

        def __getitem__(self, key: str) -> M: ...
        def items(self) -> ItemsView[str, M]: ...
