"""Signs that are still there."""

import re
import unicodedata

from qtts_openai.text.rules.rule import Rule, rule
from qtts_openai.text.vocabulary import Vocabulary

_UNSAID = r"©®™•◦▪·★☆✓✔✗✘|\^{}[]_#*`<>~"


def signs(words: Vocabulary) -> list[Rule]:
    """Signs that are still there."""
    named = "".join(map(re.escape, words.signs))

    def initials(match: re.Match[str]) -> str:
        return f"{' '.join(match[1])} {words.signs['&']} {' '.join(match[2])}"

    def digit(match: re.Match[str]) -> str:
        return f" {words.say(str(unicodedata.digit(match[0])))} "

    return [
        rule(r"([A-Z](?<!\w.)[A-Z]{0,2})&([A-Z]{1,3})\b", initials, "&"),
        rule(r"C#(?<!\wC#)", lambda match: "C sharp"),
        rule(r"[⁰¹⁴-⁹₀-₉①-⑨]", digit),
        rule(r" ?(?:[=-]>|[→⇒➔]) ?", lambda match: ", ", "[>→⇒➔]"),
        rule(f"[{named}]", lambda match: f" {words.signs[match[0]]} "),
        rule(r"[_/|\\](?<=\w.)(?=\w)", lambda match: " "),
        rule(f"[{re.escape(_UNSAID)}]+", lambda match: " "),
        rule(" +(?=[,;:!?])", lambda match: "", " [,;:!?]"),
        rule("  +", lambda match: " "),
    ]
