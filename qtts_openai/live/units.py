# ruff: noqa: RUF001
"""Sentences and clauses of a text that is still coming, for clients that want a file of each."""

import re
from typing import Literal

Granularity = Literal["none", "sentence", "clause"]

_CLOSERS = "[\"'”’»」』)\\]]*"
_ENDS = {
    "none": re.compile(r"(?!)"),
    "sentence": re.compile(rf"[.!?…]+{_CLOSERS}(?=\s)|[。！？।]+{_CLOSERS}"),
    "clause": re.compile(rf"[.!?…,;:]+{_CLOSERS}(?=\s)|[。！？।，、；：]+{_CLOSERS}"),
}
# No sentence ends behind these, nor behind the initial of a name.
_SHORT = re.compile(
    r"(?:\b(?:mr|mrs|ms|dr|prof|st|vs|etc|e\.g|i\.e|no|jr|sr)|\b[A-Za-z])\.\Z", re.I
)


def split(text: str, granularity: Granularity) -> tuple[list[str], str]:
    """Whole units, and what is left."""
    units, at = [], 0
    for match in _ENDS[granularity].finditer(text):
        if not _SHORT.search(text[at : match.end()]):
            units.append(text[at : match.end()])
            at = match.end()
    return units, text[at:]
