# ruff: noqa: RUF001
"""The same words in other clothes: quotes, dashes, capitals, markup. The teacher reads plain text,
people and language models write like this; the sound is the same.
"""

import re

import numpy as np

SHARE = 0.25  # of the examples that are dressed
AROUND = (
    ('"', '"'),
    ('"', '"'),
    ("“", "”"),
    ("“", "”"),
    ("‘", "’"),
    ("'", "'"),
    ("(", ")"),
    ("*", "*"),
    ("**", "**"),
    ("`", "`"),
    ("_", "_"),
)
DASHES = (" —", "—", " –", " -", ";", ":", " --")
STOPS = {".": ("...", "…", "!", "!!", ""), "?": ("??", "?!", "")}
BEFORE = ("- ", "* ", "> ", "# ", "## ", "• ", " ", "\n")


def dress(text, rng):
    """ASCII text -> (text, byte offset in it of each byte of the old text, and of its end)."""
    parts = list(text)
    for change in rng.choice(CHANGES, rng.integers(1, 4), replace=False, p=WEIGHTS):
        change(parts, text, rng)
    widths = [len(part.encode()) for part in parts]
    return "".join(parts), np.concatenate([[0], np.cumsum(widths)])


def pick(rng, options):
    return options[rng.integers(len(options))]


def curly(parts, text, rng):
    for i, char in enumerate(text):
        if char == "'":
            parts[i] = "’"


def quote(parts, text, rng):
    """Marks around some words in a row, often around all."""
    words = [m.span() for m in re.finditer(r"[\w'-]+", text)]
    if not words:
        return
    first, last = sorted(rng.integers(0, len(words), 2))
    if rng.random() < 0.3:
        first, last = 0, len(words) - 1
    end = words[last][1]
    if end < len(text) and text[end] in ".,?!" and rng.random() < 0.5:
        end += 1
    opening, closing = pick(rng, AROUND)
    parts[words[first][0]] = opening + parts[words[first][0]]
    parts[end - 1] += closing


def dash(parts, text, rng):
    """Another mark where the teacher pauses."""
    kind = pick(rng, DASHES)
    for at in (m.start() for m in re.finditer(", ", text)):
        if rng.random() < 0.7:
            parts[at] = kind
            if kind == "—":
                parts[at + 1] = ""


def stop(parts, text, rng):
    if text[-1] in STOPS:
        parts[-1] = parts[-1].replace(text[-1], pick(rng, STOPS[text[-1]]))


def capitals(parts, text, rng):
    """All of it or some words in capitals, all words with a capital, or all in small letters."""
    kind = rng.random()
    for word in re.finditer(r"[A-Za-z']+", text):
        some = len(word[0]) > 3 and rng.random() < 0.25
        start, end = word.span()
        if kind > 0.85:
            parts[start:end] = [part.lower() for part in parts[start:end]]
        elif kind > 0.7:
            parts[start] = parts[start].upper()
        elif kind < 0.4 or some:
            parts[start:end] = [part.upper() for part in parts[start:end]]


def lines(parts, text, rng):
    kind = pick(rng, ("\n", "\n\n", "  "))
    for gap in re.finditer(r"(?<=[.?!]) (?=[A-Z])", text):
        if rng.random() < 0.6:
            parts[gap.start()] = kind


def begin(parts, text, rng):
    parts[0] = pick(rng, BEFORE) + parts[0]


def ampersand(parts, text, rng):
    for word in re.finditer(r"(?<= )and(?= )", text):
        parts[word.start() : word.end()] = ["&", "", ""]


CHANGES = (curly, quote, dash, stop, capitals, lines, begin, ampersand)
WEIGHTS = np.array([0.2, 0.24, 0.14, 0.14, 0.14, 0.06, 0.04, 0.04])
