"""What generated requests have in common: choices, lists, articles, capitals, asides."""

import re

ASIDES = (
    "The recording is clean.|Clear articulation.|For an audiobook.|Speaking English."
    "|Perfect for a podcast."
    "|Native English speaker.|Studio quality.|Suitable for customer service.|No background noise."
    "|The accent is neutral.|Great for storytelling.|American English accent."
)
# {p} a person, {t} traits as adjectives, {a} as adverbs, {n} as nouns, {h} his or her, {s} he or
# she; the article is put right afterwards.


def some_of(rng, names: list[str], count: int, contrary) -> list[str]:
    """`count` different ones that do not contradict each other."""
    while True:
        chosen = [names[i] for i in rng.permutation(len(names))[:count]]
        if not any(pair <= set(chosen) for pair in contrary):
            return chosen


def listed(rng, words) -> str:
    if len(words) == 1:
        return words[0]
    return ", ".join(words[:-1]) + pick(rng, ", | and |, and ") + words[-1]


def dressed(rng, text: str) -> str:
    """Articles before vowels; sometimes a capital, a full stop, no article, another case."""
    text = re.sub(r"\b([aA]) (?=[aeiouAEIOU])", r"\1n ", text)
    kind = rng.random()
    if kind < 0.45:
        text = text[0].upper() + text[1:]
    elif kind < 0.5:
        text = text.lower()
    if text[-1] not in ".!" and rng.random() < 0.4:
        text += "."
    if rng.random() < 0.1:
        text = f"{text.rstrip('.')}. {pick(rng, ASIDES)}"
    return text


def pick(rng, options: str) -> str:
    choices = options.split("|")
    return choices[rng.integers(len(choices))]
