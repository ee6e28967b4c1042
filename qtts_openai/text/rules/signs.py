# ruff: noqa: RUF001
"""Signs that are still there."""

import re
import unicodedata

from qtts_openai.text.rules.rule import Rule, rule
from qtts_openai.text.vocabulary import Vocabulary

_UNSAID = r"©®™•◦▪·★☆✓✔✗✘|\^{}[]_#*`<>~"

_FILES = (
    "txt|md|pdf|docx?|xlsx?|pptx?|csv|tsv|json|xml|ya?ml|toml|ini|cfg|conf|env|log|html?|css|"
    "jsx?|tsx?|py|rb|rs|go|java|cpp|hpp|cs|php|sh|bat|sql|db|png|jpe?g|gif|svg|webp|mp3|mp4|wav|ogg|"
    "flac|mkv|zip|tar|gz|exe|dll|lock"
)
_OPERATORS = {"!=": "≠", "<=": "≤", ">=": "≥", "==": "=", "&&": "&", "<>": "≠"}


def signs(words: Vocabulary) -> list[Rule]:
    """Signs that are still there."""
    named = "".join(map(re.escape, words.signs))

    def initials(match: re.Match[str]) -> str:
        return f"{' '.join(match[1])} {words.signs['&']} {' '.join(match[2])}"

    def digit(match: re.Match[str]) -> str:
        return f" {words.say(str(unicodedata.digit(match[0])))} "

    def operator(match: re.Match[str]) -> str:
        sign = _OPERATORS[match[0][:2]]
        return f" {words.signs[sign]} " if sign in words.signs else match[0]

    def dot(match: re.Match[str]) -> str:
        return f" {words.dot} "

    def letter(match: re.Match[str]) -> str:
        name = unicodedata.name(match[0]).rpartition(" ")[2].lower()
        return match[0] if match[0] in words.signs or words.code != "en" else f" {name} "

    return [
        rule(r"([A-Z](?<!\w.)[A-Z]{0,2})&([A-Z]{1,3})\b", initials, "&"),
        rule(r"([A-G])#(?<!\w.#)", lambda match: f"{match[1]} sharp"),
        rule(r"[!<>=]==?|&&|<>", operator, "=|&&|<>"),
        rule(r"[⁰¹⁴-⁹₀-₉①-⑨]", digit),
        rule(r"[α-ωΑ-Ω](?<![Ͱ-Ͽ].)(?![Ͱ-Ͽ])", letter),
        rule(rf"\.(?<=\w\w\.)(?=(?:{_FILES})\b)", dot),
        rule(r" ?(?:[=-]>|[→⇒➔]) ?", lambda match: ", ", "[>→⇒➔]"),
        rule(f"[{named}]", lambda match: f" {words.signs[match[0]]} "),
        rule(r"[_/|\\](?<=\w.)(?=\w)", lambda match: " "),
        rule(f"[{re.escape(_UNSAID)}]+", lambda match: " "),
        rule(r"\.(?<![^ (\"'].)(?=[A-Za-z]{2})", lambda match: f"{words.dot} "),
        rule(" +(?=[,;:!?])", lambda match: "", " [,;:!?]"),
        rule("  +", lambda match: " "),
    ]
