# ruff: noqa: RUF001
"""A rule: what is written, and how to say it."""

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from qtts_openai.text.vocabulary import Vocabulary

DASHES = "–—-"
DASH = f" ?[{DASHES}] ?"

Say = Callable[[re.Match[str]], str]


class Rule(NamedTuple):
    pattern: re.Pattern[str]
    say: Say
    needs: Iterable[str] = "0123456789"  # one of these is in every match


def figure_pattern(words: Vocabulary) -> str:
    group, point = re.escape(words.group), re.escape(words.point)
    return rf"\d{{1,3}}(?:{group}\d{{3}})+(?!\d)(?:{point}\d+)?|\d+(?:{point}\d+)?"
