# ruff: noqa: RUF001
"""What is written in figures and signs, in words: `full` normalisation.

A small grammar over num2words. wetext, which does the same with automata, is 45 MB, takes 3 to 5 ms
for a sentence where this takes 0.1, knows English, Chinese and Japanese, and fails on an assertion
for some Chinese texts; nemo-text-processing needs pynini and a compiled grammar for each language.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable
from functools import cache
from itertools import chain, groupby, product, zip_longest
from operator import itemgetter
from typing import NamedTuple

from qtts_openai.text.vocabulary import Vocabulary, ordinal, vocabularies, year

GROWTH = 4  # times the length of the text, and
SPARE = 400  # characters, so that a short text of figures can be said

Say = Callable[[re.Match[str]], str]


class Rule(NamedTuple):
    pattern: re.Pattern[str]
    say: Say
    needs: Iterable[str] = "0123456789"  # one of these is in every match


_DASHES = "–—-"
_DASH = f" ?[{_DASHES}] ?"
_ENDINGS = ("st", "nd", "rd", "th")
_NTH = tuple(map("".join, product("0123456789", _ENDINGS)))
_WORD = re.compile(r"\n|[^ \n]* |[^ \n]+")
_LIST_NUMBER = re.compile(r"(?m)^(\d{1,2})[.)] (?=\S)")
_URL = r"(?:https?://|ftp://|www\.)[^\s<>\"]+[^\s<>\".,;:!?)\]}'’*_]"
_DOMAIN = (
    r"\b(?:[a-z0-9-]{1,63}\.){1,4}(?:com|org|net|io|dev|edu|gov|co\.uk|de|ai|app)\b"
    r"(?:/[^\s<>\"]*[\w/])?"
)
_EMAIL = r"\b[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,4}\b"
_PHONE = (
    r"(?<![\w.,$€£/-])(?:\+\d{1,3}[ .-]?(?:\(?\d{1,4}\)?[ .-]?){1,4}\d{2,4}"
    r"|\(?\d{3}\)?[ .-]\d{3}[ .-]\d{4}|\d{3}-\d{4})(?![\w-]|[.,]\d)"
)
# What a line of plain words has not.
_UNSPOKEN = re.compile(r"[^\w\s.,;:!?'\"“”‘’()–—…-]|[\d_½¼¾⅐-⅞²³¹⁰-₉①-⑨]|\w\.[a-z]")
_UNSAID = r"©®™•◦▪·★☆✓✔✗✘|\^{}[]_#*`<>~"
_SIGNS_OF_URLS = {"-": "dash", "_": "underscore", "?": "question mark", "=": "equals", "#": "hash"}


def spell_out(text: str, language: str) -> str:
    """Figures and signs as words of `language`; a language without a table is left alone."""
    rules = _rules(language)
    if not rules:
        return text
    room = (GROWTH - 1) * len(text) + SPARE
    text, room = _replace(_LIST_NUMBER, _list_number(language), text, room)
    if _UNSPOKEN.search(text) is None:
        return text
    plain, written = _apart(text)
    # One line for each stretch, so that a rule runs once over all of them and never across two.
    said = "\n".join(written)
    for rule in rules:
        if any(map(said.__contains__, rule.needs)):
            said, room = _replace(rule.pattern, rule.say, said, room)
    return "".join(chain.from_iterable(zip_longest(plain, said.split("\n"), fillvalue="")))


def _apart(text: str) -> tuple[list[str], list[str]]:
    """Plain stretches, and between two of them one with figures or signs and the words beside it:
    they may be its unit.
    """
    words = _WORD.findall(text)
    flags = [False, False, *map(bool, map(_UNSPOKEN.search, words)), False]
    beside = zip(words, flags, flags[1:], flags[2:], flags[3:], strict=False)
    near = [word != "\n" and any(flags) for word, *flags in beside]
    runs = [
        (is_near, "".join(word for word, _ in run))
        for is_near, run in groupby(zip(words, near, strict=True), key=itemgetter(1))
    ]
    if runs and runs[0][0]:
        runs.insert(0, (False, ""))
    return [run for is_near, run in runs if not is_near], [run for is_near, run in runs if is_near]


def _list_number(language: str) -> Say:
    words = vocabularies()[language]
    return lambda match: f"{words.say(match[1]).capitalize()}. "


def _replace(pattern: re.Pattern[str], say: Say, text: str, room: int) -> tuple[str, int]:
    """Every match said, as long as there is room for what that adds."""

    def one(match: re.Match[str]) -> str:
        nonlocal room
        said = say(match)
        more = len(said) - len(match[0])
        if more > room:
            return match[0]
        room -= max(0, more)
        return said

    return pattern.sub(one, text), room


def warm_up() -> None:
    """Make every language's rules, which takes longer than a request may hold the event loop."""
    for language in vocabularies():
        _rules(language)


@cache
def _rules(language: str) -> tuple[Rule, ...]:
    words = vocabularies().get(language)
    if words is None:
        return ()
    kinds = (_addresses, _dates, _decades, _money, _measures, _figures, _leftovers)
    return tuple(rule for kind in kinds for rule in kind(words))


def _figure(words: Vocabulary) -> str:
    group, point = re.escape(words.group), re.escape(words.point)
    return rf"\d{{1,3}}(?:{group}\d{{3}})+(?!\d)(?:{point}\d+)?|\d+(?:{point}\d+)?"


def _addresses(words: Vocabulary) -> list[Rule]:
    def web(match: re.Match[str]) -> str:
        bare = re.sub(r"^[a-z]+://|^www\.", "", match[0]).removeprefix("www.").rstrip("/")
        return _spelt(bare, words)

    def mail(match: re.Match[str]) -> str:
        return _spelt(match[0], words)

    def phone(match: re.Match[str]) -> str:
        groups = re.findall(r"\d+", match[0])
        plus = f"{words.signs['+']} " if match[0][0] == "+" else ""
        return plus + ", ".join(words.digits(group) for group in groups)

    return [
        Rule(re.compile(_URL, re.I), web, ":."),
        Rule(re.compile(_EMAIL), mail, "@"),
        Rule(re.compile(_DOMAIN, re.I), web, "."),
        Rule(re.compile(_PHONE), phone),
    ]


def _spelt(address: str, words: Vocabulary) -> str:
    names = {".": words.dot, "@": words.at, "/": words.slash, **_SIGNS_OF_URLS}
    text = re.sub(r"[^\w]|_", lambda m: f" {names.get(m[0], words.signs.get(m[0], ''))} ", address)
    return " ".join(text.split())


def _dates(words: Vocabulary) -> list[Rule]:
    def say(day: int, month: int, year_: int) -> str:
        return words.date.format(
            day=words.say(str(day)),
            ordinal=ordinal(day, words.code),
            month=words.months[month - 1],
            year=_year(year_, words),
        )

    def iso(match: re.Match[str]) -> str:
        year_, month, day = map(int, match.groups())
        return say(day, month, year_) if _is_date(day, month) else match[0]

    def local(match: re.Match[str]) -> str:
        first, second, year_ = int(match[1]), int(match[3]), int(match[4])
        day_first = words.day_first or first > 12 or match[2] == "."
        day, month = (first, second) if day_first else (second, first)
        return say(day, month, year_) if _is_date(day, month) else match[0]

    def named(match: re.Match[str]) -> str:
        month = next(name for name in words.months if name.startswith(match[1][:3]))
        return f"{month} {ordinal(int(match[2]), words.code)}"

    def time(match: re.Match[str]) -> str:
        return _time(match, words)

    rules: list[Rule] = [
        Rule(re.compile(r"(?<![\w-])(\d{4})-(\d\d)-(\d\d)(?![\w-])"), iso, "-"),
        Rule(re.compile(r"(?<![\w/.])(\d\d?)([/.])(\d\d?)\2(\d{4})(?![\w/])"), local, "/."),
        Rule(
            re.compile(
                r"(?<![\w:.,])(\d\d?):([0-5]\d)(?::[0-5]\d)?(?: ?([ap])\.?m\b)?(?![\w:])", re.I
            ),
            time,
            ":",
        ),
    ]
    if words.code == "en":
        months = "|".join([*words.months, "Jan", "Feb", "Mar", "Apr", "Jun", "Jul", "Aug", "Sept?"])
        pattern = rf"\b({months}|Oct|Nov|Dec)\.? ([0-3]?\d)(?![\w:%]|[.,]\d)"
        rules += [
            Rule(re.compile(pattern), named, [month[:3] for month in words.months]),
            Rule(re.compile(r"\b(\d\d?) ?([ap])\.?m\b(?:\.(?!\s*\Z))?", re.I), _half_day, "mM"),
        ]
    return rules


def _is_date(day: int, month: int) -> bool:
    return 1 <= day <= 31 and 1 <= month <= 12


def _time(match: re.Match[str], words: Vocabulary) -> str:
    hour, minute = match[1], match[2]
    if int(hour) > 24:
        return match[0]
    half = f" {match[3].upper()}M" if match[3] else ""
    spoken_hour = words.say(hour.lstrip("0") or "0")
    if minute == "00":
        return spoken_hour + half if half else _hour(int(hour), words)
    oh = "oh " if words.code == "en" and minute[0] == "0" else ""
    return words.clock.format(h=spoken_hour, m=oh + words.say(minute.lstrip("0"))) + half


def _hour(hour: int, words: Vocabulary) -> str:
    if words.code == "en" and hour > 12:
        return f"{words.say(str(hour))} hundred"
    return words.hour.format(h=words.say(str(hour)))


def _half_day(match: re.Match[str]) -> str:
    return f"{vocabularies()['english'].say(match[1])} {match[2].upper()}M"


def _year(value: int, words: Vocabulary) -> str:
    return year(value, words.code) if words.code in ("en", "de") else words.say(str(value))


def _decades(words: Vocabulary) -> list[Rule]:
    if words.code != "en":
        return []

    def decade(match: re.Match[str]) -> str:
        first, tens = match[1] or "", int(match[2])
        said = words.say(str(tens * 10)) if tens else "hundred"
        many = said[:-1] + "ies" if said.endswith("y") else said + "s"
        return f"{words.say(first)} {many}" if first else many

    pattern = r"(?<![\w.,])['’]?(\d\d)?([1-9]|(?<=\d)0)0['’]?s\b"
    return [Rule(re.compile(pattern), decade, ("0s", "0's", "0’s"))]


def _money(words: Vocabulary) -> list[Rule]:
    signs = "|".join(map(re.escape, sorted(words.currencies, key=len, reverse=True)))
    scales = "|".join(map(re.escape, sorted(words.scales, key=len, reverse=True)))
    figure = _figure(words)

    def before(match: re.Match[str]) -> str:
        return _amount(match[1], match[2], match[3], words)

    def after(match: re.Match[str]) -> str:
        return _amount(match[3], match[1], match[2], words)

    def span(match: re.Match[str]) -> str:
        return f"{words.say(match[2])} {words.to} {match[1]}{match[3]}"

    return [
        Rule(re.compile(rf"({signs})({figure}){_DASH}(?:{signs})?({figure})"), span, _DASHES),
        Rule(
            re.compile(rf"(?:US|A|C)?({signs}) ?({figure})(?: ?({scales})\b)?"),
            before,
            words.currencies,
        ),
        Rule(
            re.compile(rf"(?<![\w.,])({figure})(?: ?({scales}))? ?({signs})(?!\w)"),
            after,
            words.currencies,
        ),
    ]


def _amount(sign: str, figure: str, scale: str | None, words: Vocabulary) -> str:
    one, many, *parts = words.currencies[sign].split("|")
    value = words.value(figure)
    whole, _, cents = value.partition(".")
    if scale is not None:
        return f"{words.say(figure)} {words.scales[scale]} {many}"
    if len(cents) != 2 or not parts:
        return f"{words.say(figure)} {one if value == '1' else many}"
    unit = f"{words.say(whole)} {one if whole == '1' else many}"
    if cents == "00":
        return unit
    small = f"{words.say(cents.lstrip('0'))} {parts[0] if cents == '01' else parts[1]}"
    return small if whole == "0" else " ".join(filter(None, (unit, words.and_, small)))


def _measures(words: Vocabulary) -> list[Rule]:
    units = "|".join(map(re.escape, sorted(words.units, key=len, reverse=True)))
    figure = _figure(words)

    def span(match: re.Match[str]) -> str:
        unit = match[2] or ""
        return f"{match[1]}{unit if unit not in '%°' else ''} {words.to} {match[3]}"

    def measure(match: re.Match[str]) -> str:
        one, _, many = words.units[match[3]].partition("|")
        minus = f"{words.minus} " if match[1] else ""
        return f"{minus}{words.say(match[2])} {one if match[2] == '1' or not many else many}"

    def fraction(match: re.Match[str]) -> str:
        said = words.fractions[match[2]]
        if not match[1]:
            return said
        joined = said.replace("one half", "a half").replace("one ", "a ")
        return " ".join(filter(None, (words.say(match[1]), words.and_, joined)))

    fractions = "|".join(map(re.escape, words.fractions))
    return [
        Rule(
            re.compile(rf"(?<![\w/.,-])({figure})(%|°)?{_DASH}(?=\d)({figure})(?![\w-]*-\d|/)"),
            span,
            _DASHES,
        ),
        Rule(
            re.compile(rf"(?<![\w/.,])(?:(\d+) ?)?({fractions})(?![\d/])"),
            fraction,
            words.fractions,
        ),
        Rule(re.compile(rf"(?<![\w.,])([-−])?({figure}) ?({units})(?![\w²³])"), measure),
    ]


def _figures(words: Vocabulary) -> list[Rule]:
    figure, number = _figure(words), words.number

    def say(match: re.Match[str]) -> str:
        text, start, end = match.string, match.start(), match.end()
        before = " " if start and text[start - 1].isalpha() else ""
        return f"{before}{words.say(match[0])}{' ' if text[end : end + 1].isalpha() else ''}"

    def version(match: re.Match[str]) -> str:
        return f" {words.dot if words.code != 'en' else 'point'} ".join(
            words.say(part) for part in match[0].split(".")
        )

    rules: list[Rule] = [
        Rule(re.compile(r"(?<![\w.])\d+(?:\.\d+){2,}(?![\w.]*\d)"), version, "."),
        Rule(re.compile(r"(?<![\w)\].,])[-−](?=\d)"), lambda m: f"{words.minus} ", "-−"),
        Rule(re.compile(r"(?<=\d) ?\*\*? ?(?=\d)"), lambda m: f" {words.signs['×']} ", "*"),
        Rule(re.compile(r"~ ?(?=\d)"), lambda m: f"{words.about} ", "~"),
        Rule(re.compile(rf"(?:\b{number} )?#(?=\d)", re.I), lambda m: f"{number} ", "#"),
    ]
    if words.code == "en":
        rules += _english_figures(words)
    return [*rules, Rule(re.compile(figure), say)]


def _english_figures(words: Vocabulary) -> list[Rule]:
    def nth(match: re.Match[str]) -> str:
        return ordinal(int(words.value(match[1])), "en")

    def part(match: re.Match[str]) -> str:
        above, below = int(match[1]), int(match[2])
        if not above < below <= 20:
            return f"{words.say(match[1])} {words.slash} {words.say(match[2])}"
        name = {2: "half", 4: "quarter"}.get(below) or ordinal(below, "en")
        return f"{words.say(match[1])} {name}{'s' if above > 1 else ''}"

    def nearby_year(match: re.Match[str]) -> str:
        return year(int(match[1]), "en")

    return [
        Rule(re.compile(r"\b24/7\b"), lambda m: "twenty-four seven", "/"),
        Rule(re.compile(r"(?<![\w/.,])(\d{1,9})/(\d{1,9})(?![\w/]|[.,]\d)"), part, "/"),
        Rule(re.compile(r"(?<=\d):(?=\d)"), lambda m: f" {words.to} ", ":"),
        Rule(re.compile(rf"\b(\d[\d,]{{0,11}})(?:{'|'.join(_ENDINGS)})\b"), nth, _NTH),
        Rule(re.compile(r"(?<![\w.,])(1[1-9]\d\d|20\d\d)(?!\w|[.,]\d)"), nearby_year),
    ]


def _leftovers(words: Vocabulary) -> list[Rule]:
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
