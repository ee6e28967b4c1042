"""What VoiceStore needs of a place for records: record_store.py has it in a directory,
object_store.py in a bucket.

`db` is what `Changes.write` gives: methods that take it are part of that change.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

from qtts_openai.voices.record_store import Record

R = TypeVar("R", bound=Record)


class Changes(Protocol):
    def write(self) -> AbstractContextManager[Any]:
        """One change, whole or not at all; ConflictError where it is to be done again."""


class Repository(Protocol[R]):
    @property
    def folder(self) -> Any: ...

    def new_id(self) -> str: ...

    def all(self, db: Any = None) -> list[R]:
        """In the order in which they were made."""

    def get(self, id_: str, db: Any = None) -> R | None: ...

    def named(self, name: str, db: Any = None) -> list[R]:
        """Everybody's records of that name, the newest last."""

    def insert(self, db: Any, record: R) -> None: ...

    def update(self, db: Any, record: R) -> None: ...

    def remove(self, db: Any, record: R) -> None: ...

    def where(self, record: R) -> str:
        """The place of a record's bytes, for the log."""

    def written(self, id_: str, data: bytes | None) -> AbstractContextManager[Callable[[], None]]:
        """Bytes of a record, around the change that makes it, which calls what it is given."""

    def data(self, record: R) -> bytes | None: ...

    def forget_data(self, records: list[R]) -> None: ...

    def tidy(self) -> None: ...
