"""Signs that are still there."""

import re
import unicodedata
from collections.abc import Iterable

from qtts_openai.text.rules.rule import Rule, Say
from qtts_openai.text.vocabulary import Vocabulary

_UNSAID = r"©®™•◦▪·★☆✓✔✗✘|\^{}[]_#*`<>~"


def signs(words: Vocabulary) -> list[Rule]:
    """Signs that are still there."""
    named = "".join(map(re.escape, words.signs))

    def initials(match: re.Match[str]) -> str:
        return f"{' '.join(match[1])} {words.signs['&']} {' '.join(match[2])}"

    def digit(match: re.Match[str]) -> str:
        return f" {words.say(str(unicodedata.digit(match[0])))} "

    rules: list[tuple[str, Say, Iterable[str]]] = [
        (r"\b([A-Z]{1,3})&([A-Z]{1,3})\b", initials, "&"),
        (r"\bC#", lambda match: "C sharp", ["C#"]),
        (r"[⁰¹⁴-⁹₀-₉①-⑨]", digit, "⁰¹⁴⁵⁶⁷⁸⁹₀₁₂₃₄₅₆₇₈₉①②③④⑤⑥⑦⑧⑨"),
        (r" ?(?:[=-]>|[→⇒➔]) ?", lambda match: ", ", ["=>", "->", *"→⇒➔"]),
        (f"[{named}]", lambda match: f" {words.signs[match[0]]} ", words.signs),
        (r"(?<=\w)[_/|\\](?=\w)", lambda match: " ", "_/|\\"),
        (f"[{re.escape(_UNSAID)}]+", lambda match: " ", _UNSAID),
        (r" +(?=[,.;:!?])", lambda match: "", map(" ".__add__, ",.;:!?")),
        (r" {2,}", lambda match: " ", ["  "]),
    ]
    return [Rule(re.compile(pattern), say, tuple(needs)) for pattern, say, needs in rules]
