"""Pauses in a text: `[pause:500ms]` and SSML's `<break time="500ms"/>`."""

import re

from qtts_openai.errors import invalid

# A text to speak, or seconds of silence.
Part = str | float

# The last of the three is a tag that nobody closed.
_TAG = re.compile(
    r"\[\s*pause\b([^\[\]\n]{0,40})\]|<break\b([^<>]{0,80})>|\[\s*pause\s*[:=][^\[\]\n]{0,10}",
    re.I,
)
_TIME = re.compile(
    r"\s*[:=]?\s*(\d+(?:[.,]\d+)?|[.,]\d+)\s*(ms|msecs?|milliseconds?|s|secs?|seconds?)?\s*", re.I
)
_ATTRIBUTE = re.compile(r"""\btime\s*=\s*(?:"([^"]*)"|'([^']*)')""", re.I)
_STRENGTH = re.compile(r"""\bstrength\s*=\s*["'](x-weak|none|weak|medium|strong|x-strong)["']""")
_STRENGTHS_S = {
    "none": 0.0,
    "x-weak": 0.1,
    "weak": 0.2,
    "medium": 0.4,
    "strong": 0.7,
    "x-strong": 1.0,
}


def split_pauses(text: str, max_pause_s: float, max_total_s: float) -> list[Part]:
    """`One.[pause:500ms]Two.` -> ["One.", 0.5, "Two."]; a tag that cannot be read is a 400."""
    parts: list[Part] = []
    at, total_s = 0, 0.0
    for match in _TAG.finditer(text):
        parts.append(text[at : match.start()])
        seconds = _seconds(match)
        _check(f"a pause of {seconds:g} s", seconds, max_pause_s)
        total_s += seconds
        parts.append(seconds)
        at = match.end()
    _check(f"pauses of {total_s:g} s in all", total_s, max_total_s)
    parts.append(text[at:])
    return [part for part in parts if isinstance(part, float) or part.strip()]


def _check(what: str, seconds: float, limit: float) -> None:
    if seconds > limit:
        raise invalid(f"input: {what}; at most {limit:g} s are accepted.", "input")


def _seconds(match: re.Match[str]) -> float:
    """A number without a unit is of seconds."""
    inside = _time_of(match[2]) if match[2] is not None else match[1]
    time = _TIME.fullmatch(inside or "")
    if time is None:
        message = f"input: {match[0]!r} is no pause; write [pause:500ms] or [pause:1.5s]."
        raise invalid(message, "input")
    number = float(time[1].replace(",", "."))
    return number / 1000 if (time[2] or "").lower().startswith("m") else number


def _time_of(attributes: str) -> str:
    time = _ATTRIBUTE.search(attributes)
    if time is not None:
        return time[1] or time[2] or ""
    strength = _STRENGTH.search(attributes)
    if strength is None and attributes.strip(" /"):
        return attributes
    return f"{_STRENGTHS_S[strength[1] if strength else 'medium']}s"
