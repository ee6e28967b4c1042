"""Markdown and HTML as a person would read them out, and no control tokens of the chat template.

pyromark (pulldown-cmark) reads the Markdown, in 0.1 ms where markdown-it-py takes 20, and in linear
time whatever it is given.
"""

import html
import re
from collections.abc import Callable
from functools import cache
from typing import Any

import pyromark

_OPTIONS = (
    pyromark.Options.ENABLE_TABLES
    | pyromark.Options.ENABLE_STRIKETHROUGH
    | pyromark.Options.ENABLE_TASKLISTS
)
_CONTROL = re.compile(r"<\|[^|<>\s]{1,40}\|>|</?tts_\w{1,30}>")
# `[Anna]: Hello` is a line to speak and no definition of a link.
_NO_DEFINITION = re.compile(r"(?m)^( {0,3})\[([^\[\]\n]+)\]:(?!\s*<?(?:[a-z]{2,9}:|[/#.]))", re.I)
_FIGURES_TIMES = re.compile(r"\*(?<=\d\*)\**(?=\d)")
_ONE_TILDE = re.compile(r"~(?<!~~)(?!~)")
_NUMBER = re.compile(rb"\s*(\d+)")
_TAG_LIKE = re.compile(r"`+|<(?=[a-z/!?])|(?<=[\w\"'/])>", re.I)  # in code; others compare
_FOOTNOTE = re.compile(r"\[\^[^\[\]\s]{1,40}\]:?")
_LEFT_OVER = re.compile(r"(?<!\w)(?<![*_~])(?:\*\*+|__+|~~+)|(?:\*\*+|__+|~~+)(?!\w)|`+")
_LEFT = ("**", "__", "~~", "`")
# Of what is never closed, only the tag: words are not lost with it.
_TAG = re.compile(
    r"<!--(?:(?!<!--).)*?-->|<!--"
    r"|<(script|style)\b(?:(?!<\1\b).)*?</\1\s*>"
    r"|</?([a-z][\w:-]*)(?:[^<>\"']++|\"[^\"<]*+\"|'[^'<]*+'|[\"'])*+>",
    re.I | re.S,
)
# How the word before it is said, once more.
_RUBY = re.compile(r"<(r[tp])\b[^<>]*>[^<>]*</\1\s*>", re.I)
_ALT = re.compile(r"""\balt\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s>]+))""", re.I)
_BREAKING_NAMES = """
address article aside blockquote body br caption dd details div dl dt fieldset figcaption figure
footer form h1 h2 h3 h4 h5 h6 head header hr html legend li main nav ol option p pre s-p section
speak summary table tbody td tfoot th thead think thinking title tr ul
"""
_BREAKING = frozenset(_BREAKING_NAMES.split())
_INLINE_NAMES = """
a abbr audio b base bdi bdo big break button center cite code col colgroup data del dfn em embed
emphasis font frame i iframe img input ins kbd label lang link map mark math meta noscript
object output param phoneme picture progress prosody q rp rt ruby s samp say-as script select
small source span strike strong style sub sup svg template text textarea time track tt u var
video voice w wbr
"""
_INLINE = frozenset(_INLINE_NAMES.split())
# All that CommonMark may read as more than text, and little else: reading takes milliseconds.
_SOME_MARKUP = re.compile(r"[*_`~<\[\\&](?:(?<!&)|(?=[#\w]))")
_SOME_BLOCK = re.compile(
    r"(?m)\n[ \t]*+(?:[-=|: \t]++$|>|#{1,6}(?:\s|$)|(?:[-+]|\d{1,9}[.)])(?:\s|$))"
)
_OPENS, _CLOSES = re.compile(r"^(.*\S)[ \t]+```([\w+-]*)$"), re.compile(r"^[ \t]*```[ \t]*(\S.*)$")


def drop_control_tokens(text: str) -> str:
    return _CONTROL.sub("", text)


def may_hold_markup(text: str) -> bool:
    """What is certain to hold none needs no second look."""
    return bool(_SOME_MARKUP.search(text) or _SOME_BLOCK.search("\n" + text))


def plain_markup(text: str, speak_code: bool = True) -> str:
    if not may_hold_markup(text):
        return text
    prepared = _prepared(text)
    reader = _Reader(prepared, speak_code)
    for event, span in pyromark.events_with_range(prepared, options=_OPTIONS):
        reader.take(event, span["start"])
    read = "".join(reader.out)
    read = _FOOTNOTE.sub("", read) if "[^" in read else read
    return _LEFT_OVER.sub("", read) if any(map(read.__contains__, _LEFT)) else read


def _prepared(text: str) -> str:
    """What people write and CommonMark would misread: 5*3*2, ~50, a fence within a line."""
    text = _RUBY.sub("", text) if "<r" in text else text
    text = _NO_DEFINITION.sub(r"\1\\[\2\\]:", text) if "]:" in text else text
    text = _FIGURES_TIMES.sub(lambda match: "\\*" * len(match[0]), text) if "*" in text else text
    text = _ONE_TILDE.sub(r"\\~", text) if "~" in text else text
    return "\n".join(_fences(text.split("\n"))) if "```" in text else text


def _fences(lines: list[str]) -> list[str]:
    """Each fence on a line of its own."""
    found, inside = [], False
    for line in lines:
        split = (_CLOSES if inside else _OPENS).match(line)
        if split is not None:
            found += ["```", split[1]] if inside else [split[1], "```" + split[2]]
            inside = not inside
        else:
            found.append(line)
            inside ^= line.lstrip().startswith("```")
    return found


def strip_tags(text: str, whole: str, keep_unknown: bool = False) -> str:
    """HTML -> text: nothing for a tag, a line break where it starts one. `List<String>` holds no
    tag and is read without brackets; of `x<y and y>z` the caller knows better. `whole` is where a
    closing tag is looked for.
    """

    def read(match: re.Match[str]) -> str:
        name = (match[2] or "").lower()
        if name in _BREAKING:
            return "\n"
        if name == "img" and (alt := _ALT.search(match[0])):
            return alt[1] or alt[2] or alt[3] or ""
        if not name or name in _INLINE or match[0].startswith("</") or f"</{match[2]}>" in whole:
            return ""
        return match[0] if keep_unknown else f" {match[0][1:-1].rstrip('/')} "

    return _TAG.sub(read, text)


_NOTHING_TO_SAY = frozenset(["Emphasis", "Strong", "Strikethrough", "Link", "Image"])


class _Reader:
    """Events of the parser -> text in `out`."""

    def __init__(self, text: str, speak_code: bool) -> None:
        self.out: list[str] = []
        self._whole = text
        self._speak_code = speak_code
        self._is_code = False
        self._html: list[str] | None = None
        self._source = text.encode()
        self._start = 0
        self._lists: list[int | None] = []
        self._cells: list[str] = []
        self._cell_start = 0

    def take(self, event: Any, start: int) -> None:
        """`start` is where it begins, in bytes."""
        self._start = start
        if isinstance(event, str):
            self.out.append("\n" if event in ("SoftBreak", "HardBreak") else "\n\n")
            return
        ((kind, value),) = event.items()
        if kind in ("Text", "Code"):
            self._text(value, kind == "Code" or self._is_code)
        elif kind in ("Start", "End"):
            name, detail = (value, None) if isinstance(value, str) else next(iter(value.items()))
            if name not in _NOTHING_TO_SAY:
                _step(kind, name)(self, detail)
        elif kind in ("Html", "InlineHtml"):
            self._tags(value)

    def _text(self, value: str, is_code: bool) -> None:
        if is_code:
            value = _TAG_LIKE.sub(" ", value)
        if self._speak_code or not self._is_code:
            self.out.append(value)

    def _tags(self, value: str) -> None:
        if self._html is not None:
            self._html.append(value)
        else:
            is_compared = " " in value and self.out[-1:] and self.out[-1][-1:].isalnum()
            self.out.append(strip_tags(value, self._whole, keep_unknown=bool(is_compared)))

    def _start_htmlblock(self, _: Any) -> None:
        self._html = []

    def _end_htmlblock(self, _: Any) -> None:
        self.out += ["\n", html.unescape(strip_tags("".join(self._html or ()), self._whole)), "\n"]
        self._html = None

    def _start_codeblock(self, kind: Any) -> None:
        """An indented text is no code in a chat."""
        self._is_code = kind != "Indented"
        self.out.append("\n\n")

    def _end_codeblock(self, _: Any) -> None:
        self._is_code = False
        self.out.append("\n\n")

    def _start_list(self, first: int | None) -> None:
        self._lists.append(first)
        self.out.append("\n" if len(self._lists) > 1 else "\n\n")

    def _end_list(self, _: Any) -> None:
        self._lists.pop()
        self.out.append("\n")

    def _start_item(self, _: Any) -> None:
        """With the number that is written, which CommonMark counts anew: `1986. A great year`."""
        if self._lists[-1] is not None and (number := _NUMBER.match(self._source, self._start)):
            self.out.append(f"{number[1].decode()}. ")

    def _end_item(self, _: Any) -> None:
        self.out.append("\n")

    def _start_paragraph(self, _: Any) -> None:
        pass

    def _other(self, _: Any) -> None:
        self.out.append("\n\n")

    def _start_tablecell(self, _: Any) -> None:
        self._cell_start = len(self.out)

    def _end_tablecell(self, _: Any) -> None:
        cell = "".join(self.out[self._cell_start :]).strip()
        del self.out[self._cell_start :]
        self._cells += [cell] if cell else []

    def _start_tablerow(self, _: Any) -> None:
        self._cells = []

    def _end_tablerow(self, _: Any) -> None:
        cells = [c if c[-1] in ".,;:!?" else f"{c}," for c in self._cells[:-1]]
        self.out.append(" ".join([*cells, *self._cells[-1:]]) + "\n")

    _start_tablehead, _end_tablehead = _start_tablerow, _end_tablerow


@cache
def _step(kind: str, name: str) -> Callable[[_Reader, Any], None]:
    step: Callable[[_Reader, Any], None]
    step = getattr(_Reader, f"_{kind}_{name}".lower(), _Reader._other)
    return step
