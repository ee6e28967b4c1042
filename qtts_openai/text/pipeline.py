"""The one text stage before the tokenizer: named steps in a fixed order.

    none   the text as it was sent
    clean  line_ends, emoji, invisible, letters, control_tokens, formulas, markup, spaces,
           wrapped_lines, line_marks
    full   clean, then figures, one_line, plain_marks and last_mark

`clean` is for every model: it changes nothing that a good model reads well by itself. Steps are run
until none of them finds anything more, so what comes out is what they would give for it again.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

import msgspec
import regex

from qtts_openai.schemas import Level
from qtts_openai.settings import CleanStep, Step
from qtts_openai.text import characters, formulas, lines, marks, markup, spoken
from qtts_openai.text.segments import CODES

# What is nested deeper than that is an attack, and loses its brackets.
MAX_PASSES = 4
_BRACKETS = regex.compile(r"[<>\[\]&*_~`\\|#$]+")
_SCRIPTS = {"japanese": r"\p{Hiragana}|\p{Katakana}", "korean": r"\p{Hangul}"}
_SCRIPTS |= {"chinese": r"\p{Han}", "russian": r"\p{Cyrillic}"}


class TextOptions(msgspec.Struct, frozen=True):
    level: Level = "clean"
    skip: tuple[Step, ...] = ()
    emoji: Literal["drop", "name"] = "drop"
    code_blocks: Literal["speak", "drop"] = "speak"


def clean(text: str, options: TextOptions, language: str = "auto") -> str:
    """The first half, after which words are still as people write them."""
    if options.level == "none":
        return text
    cleaned = _until_stable(text, options, language)
    if options.emoji == "drop" and not characters.has_words(cleaned):
        # Nothing but pictures: their names are all there is to say.
        named = msgspec.structs.replace(options, emoji="name")
        renamed = _until_stable(text, named, language)
        return renamed if characters.has_words(renamed) else cleaned
    return cleaned


def speakable(text: str, options: TextOptions, language: str = "auto") -> str:
    """The second half, of `full`: words for everything. "auto" is guessed from the script."""
    if options.level != "full":
        return text
    if "figures" not in options.skip:
        text = spoken.spell_out(text, guess(text) if language == "auto" else language)
        text = text if "spaces" in options.skip else characters.spaces(text)
    steps = {
        "one_line": marks.one_line,
        "plain_marks": marks.plain_marks,
        "last_mark": lines.end_last_line,
    }
    return _once(text, [step for name, step in steps.items() if name not in options.skip])


def normalize(text: str, options: TextOptions, language: str = "auto") -> str:
    return speakable(clean(text, options, language), options, language)


def guess(text: str) -> str:
    """The language whose letters the text has; letters of the alphabet are taken as English."""
    letters = "".join(set(text))
    return next((name for name, own in _SCRIPTS.items() if regex.search(own, letters)), "english")


def _until_stable(text: str, options: TextOptions, language: str) -> str:
    steps = _clean_steps(options, language)
    for _ in range(MAX_PASSES):
        before, text = text, _once(text, steps)
        if text == before or not ("$" in text or markup.may_hold_markup(text)):
            return text
    return _once(_BRACKETS.sub(" ", text), steps)


def _once(text: str, steps: list[Callable[[str], str]]) -> str:
    for step in steps:
        text = step(text)
    return text


def _clean_steps(options: TextOptions, language: str) -> list[Callable[[str], str]]:
    name = partial(characters.name_emoji, language=CODES.get(language, "en"))
    steps: dict[CleanStep, Callable[[str], str]] = {
        "line_ends": characters.line_ends,
        "emoji": characters.drop_emoji if options.emoji == "drop" else name,
        "invisible": characters.drop_invisible,
        "letters": characters.compose,
        "control_tokens": markup.drop_control_tokens,
        "formulas": formulas.plain_formulas,
        "markup": partial(markup.plain_markup, speak_code=options.code_blocks == "speak"),
        "spaces": characters.spaces,
        "wrapped_lines": lines.join_wrapped,
        "line_marks": lines.end_lines,
    }
    return [step for name, step in steps.items() if name not in options.skip]
