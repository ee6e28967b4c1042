"""What words.yaml holds: how a language says figures and signs."""

from functools import cache, lru_cache
from importlib.resources import files

import msgspec
import yaml
from num2words import num2words


class Vocabulary(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    code: str  # of num2words
    point: str
    group: str
    to: str
    dot: str
    at: str
    slash: str
    minus: str
    about: str
    number: str
    per: str
    power: str
    one: str  # before what is counted
    second: str
    after_time: str  # what may follow a time and says nothing more
    date: str
    day_first: bool
    months: list[str]
    clock: str
    hour: str
    scales: dict[str, str]
    currencies: dict[str, str]
    and_: str = msgspec.field(name="and")
    fractions: dict[str, str]
    units: dict[str, str]
    signs: dict[str, str]

    def value(self, figure: str) -> str:
        """`1,234.5` -> "1234.5"."""
        return figure.replace(self.group, "").replace(self.point, ".")

    def say(self, figure: str) -> str:
        """A figure as it is written, in words."""
        value = self.value(figure)
        most = 30 if self.group in figure else 12
        if len(value.partition(".")[0]) > most or (value[0] == "0" and value[1:2].isdigit()):
            return self.digits(value)
        return cardinal(value, self.code)

    def counted(self, figure: str, one: str, many: str) -> str:
        is_one = self.value(figure) == "1"
        return f"{self.one} {one}" if is_one else f"{self.say(figure)} {many}"

    def digits(self, text: str) -> str:
        return " ".join(cardinal(digit, self.code) for digit in text if digit.isdigit())


@cache
def vocabularies() -> dict[str, Vocabulary]:
    text = (files("qtts_openai.text") / "words.yaml").read_text("utf-8")
    return msgspec.convert(yaml.safe_load(text), dict[str, Vocabulary])


@lru_cache(maxsize=8192)
def cardinal(value: str, code: str) -> str:
    number: int | float = float(value) if "." in value else int(value)
    if "." in value:
        whole, _, decimals = value.partition(".")
        # Each decimal by its name: a float would lose zeros at the end.
        point = num2words(0.5, lang=code).split()[1]
        named = " ".join(num2words(int(digit), lang=code) for digit in decimals)
        return f"{cardinal(whole, code)} {point} {named}"
    return num2words(number, lang=code).replace(",", "")


@lru_cache(maxsize=2048)
def ordinal(value: int, code: str) -> str:
    return num2words(value, to="ordinal", lang=code).replace(",", "")


@lru_cache(maxsize=2048)
def year(value: int, code: str) -> str:
    return num2words(value, to="year", lang=code).replace(",", "")
