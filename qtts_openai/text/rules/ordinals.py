"""Ordinals of the other languages, where a figure with a dot or raised letter is one."""

import re

from qtts_openai.text.rules.rule import Rule, Say, rule
from qtts_openai.text.vocabulary import Vocabulary, ordinal

_BEFORE_DATIVE = {
    *("am", "im", "vom", "zum", "zur", "beim", "dem", "den", "des", "ab", "bis", "seit", "nach"),
    *("vor", "jedem", "jeden", "diesem", "diesen", "einem", "einen", "einer", "ihrem", "seinem"),
}
_BEFORE = {"der", "die", "das", "eine", "jede", "diese", "dieser", "dieses", "ihre", "seine"}
_MASCULINE = {"Platz", "Teil", "Tag", "Stock", "Weltkrieg", "Advent", "Monat", "Band", "Schritt"}
_NEUTER = {"Jahrhundert", "Kapitel", "Quartal", "Semester", "Mal", "Jahr", "Spiel"}
_FEMININE = {"Klasse", "Etage", "Liga", "Auflage", "Stunde", "Woche", "Runde", "Staffel"}
_NEXT_WORD = re.compile(r" ?(\w+)")
_WORD_BEFORE = re.compile(r"(\w+) \Z")


def word_before(match: re.Match[str]) -> str:
    found = _WORD_BEFORE.search(match.string[max(0, match.start() - 12) : match.start()])
    return found[1].lower() if found else ""


def german(number: int, before: str, ending: str) -> str:
    """`dritte`, with what the word before it asks for, else with `ending`."""
    said = ordinal(number, "de")
    return said + ("n" if before in _BEFORE_DATIVE else "" if before in _BEFORE else ending)


def ordinals(words: Vocabulary) -> list[Rule]:
    if words.code == "en":
        return []
    if words.code == "de":
        return [rule(r"(\d(?<![\w.,:/-]\d)\d{0,2})\.(?= ?[A-ZÄÖÜa-zäöü])", _german(words))]
    if words.code == "fr":
        pattern = r"(\d(?<![\w.,]\d)\d{0,3})(ers?|res?|ères?|es?|èmes?|nde?s?)\b"
    else:
        pattern = r"(\d(?<![\w.,]\d)\d{0,3})\.?([ºª])"

    def say(match: re.Match[str]) -> str:
        said = ordinal(int(match[1]), words.code)
        if words.code == "fr":
            return "première" if said == "premier" and match[2][0] in "rè" else said
        return re.sub(r"o\b", "a", said) if match[2] == "ª" else said

    number = rule(r"[nN](?<!\w.)\.?[°º] ?(?=\d)", lambda match: f"{words.number} ")
    return [number, rule(pattern, say)]


def _german(words: Vocabulary) -> Say:
    def say(match: re.Match[str]) -> str:
        after, before = _NEXT_WORD.match(match.string, match.end()), word_before(match)
        noun = after[1] if after else ""
        ending = "r" if noun in words.months or noun in _MASCULINE else None
        ending = "s" if noun in _NEUTER else "" if noun in _FEMININE else ending
        if ending is None and before not in _BEFORE_DATIVE | _BEFORE:
            return match[0]
        return german(int(match[1]), before, ending or "")

    return say
