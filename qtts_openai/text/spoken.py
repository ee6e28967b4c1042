# ruff: noqa: RUF001
"""What is written in figures and signs, in words: `full` normalisation.

A small grammar over num2words. wetext, which does the same with automata, is 45 MB, takes 3 to 5 ms
for a sentence where this takes 0.1, knows English, Chinese and Japanese, and fails on an assertion
for some Chinese texts; nemo-text-processing needs pynini and a compiled grammar for each language.
"""

import re
from collections.abc import Iterator
from functools import cache

from qtts_openai.text.rules import addresses, amounts, dates, numbers, ordinals, signs
from qtts_openai.text.rules.rule import Rule, Say
from qtts_openai.text.vocabulary import vocabularies

GROWTH = 4  # times the length of the text, and
SPARE = 400  # characters, so that a short text of figures can be said

_Found = tuple[int, int, str]  # start and end of a match, and what is said for it

_LIST_NUMBER = re.compile(r"(\d(?<![^\n]\d)\d?)[.)] (?=\S)")
# Of letters and these nothing is said in other words, but for the dot of an address.
_PLAIN = frozenset(" \n.,;:!?'\"“”‘’()–—…-")
_DOT_WITHIN = re.compile(r"\.(?<=\w.)[a-z]")


def spell_out(text: str, language: str) -> str:
    """Figures and signs as words of `language`; a language without a table is left alone."""
    rules = _rules(language)
    if not rules:
        return text
    room = (GROWTH - 1) * len(text) + SPARE
    text, room = _replace(_LIST_NUMBER, _list_number(language), text, room)
    lines = text.split("\n")
    written = [index for index, line in enumerate(lines) if not _is_plain(line)]
    if not written:
        return text
    # Rules run once over all of them: no pattern goes beyond a line.
    said = "\n".join(lines[index] for index in written)
    for rule in rules:
        if rule.hint is None or rule.hint.search(said):
            said, room = _replace(rule.pattern, rule.say, said, room)
    for index, line in zip(written, said.split("\n"), strict=True):
        lines[index] = line
    return "\n".join(lines)


def _is_plain(line: str) -> bool:
    return all(map(str.isalpha, {*line} - _PLAIN)) and not _DOT_WITHIN.search(line)


def _list_number(language: str) -> Say:
    words = vocabularies()[language]

    def say(match: re.Match[str]) -> str:
        if words.code == "de" and match.string.startswith(tuple(words.months), match.end()):
            return match[0]  # a date
        return f"{words.say(match[1]).capitalize()}. "

    return say


def _replace(pattern: re.Pattern[str], say: Say, text: str, room: int) -> tuple[str, int]:
    """Every match said, as long as there is room for what that adds."""
    found = [(*match.span(), say(match)) for match in pattern.finditer(text)]
    if sum(map(_growth, found)) > room:
        found = list(_fitting(found, room))
    pieces, at = list[str](), 0
    for start, end, said in found:
        pieces += text[at:start], said
        at = end
    return "".join(pieces) + text[at:], room - max(0, sum(map(_growth, found)))


def _fitting(found: list[_Found], room: int) -> Iterator[_Found]:
    for one in found:
        growth = max(0, _growth(one))
        if growth <= room:
            room -= growth
            yield one


def _growth(found: _Found) -> int:
    start, end, said = found
    return len(said) - (end - start)


def warm_up() -> None:
    """Make every language's rules, which takes longer than a request may hold the event loop."""
    for language in vocabularies():
        _rules(language)


@cache
def _rules(language: str) -> tuple[Rule, ...]:
    words = vocabularies().get(language)
    if words is None:
        return ()
    kinds = (
        addresses.addresses,
        amounts.grouped,
        dates.dates,
        addresses.codes,
        ordinals.ordinals,
        dates.decades,
        amounts.money,
        amounts.measures,
        numbers.figures,
        signs.signs,
    )
    return tuple(rule for kind in kinds for rule in kind(words))
