# ruff: noqa: RUF001
"""Figures and signs as words."""

import pytest

from qtts_openai.text.spoken import GROWTH, SPARE, spell_out

ENGLISH = {
    "It costs €19.99 or £20.": "It costs nineteen euros and ninety-nine cents or twenty pounds.",
    "$1, $5, $0.50, $1.5B, $3 million": (
        "one dollar, five dollars, fifty cents, one point five billion dollars, "
        "three million dollars"
    ),
    "40–60°C, 10-20%, $10–$20": (
        "forty to sixty degrees Celsius, ten to twenty percent, ten to twenty dollars"
    ),
    "10kg or 1 kg": "ten kilograms or one kilogram",
    "2024-01-15 or 01/15/2024": (
        "January fifteenth, twenty twenty-four or January fifteenth, twenty twenty-four"
    ),
    "Dec. 3, May 4, 1990": "December third, May fourth, nineteen ninety",
    "3:30 PM, 9am, 12:05, 15:00": "three thirty PM, nine AM, twelve oh five, fifteen hundred",
    "I am 5": "I am five",
    "From 9 a.m.\nThen 5 p.m. on": "From nine AM.\nThen five PM on",
    "US$10–20 or -1½ cups": "ten to twenty dollars or minus one and a half cups",
    "AT&T and R&D": "A T and T and R and D",
    "H₂O, x², ½ cup, 1½ cups": "H two O, x squared, one half cup, one and a half cups",
    "3.14 and 1,234,567": (
        "three point one four and one million two hundred and thirty-four thousand "
        "five hundred and sixty-seven"
    ),
    "1st, 22nd, the 1990s, '80s": "first, twenty-second, the nineteen nineties, eighties",
    "-5 and GPT-4, pages 3-5": "minus five and GPT-four, pages three to five",
    "#7, number #7, ~50": "number seven, number seven, about fifty",
    "2 + 2 = 4, 5*3, a < b": "two plus two equals four, five times three, a less than b",
    "+1 (555) 123-4567": "plus one, five five five, one two three, four five six seven",
    "a.b@example.com": "a dot b at example dot com",
    "See https://www.example.com/a?b=1.": (
        "See example dot com slash a question mark b equals one."
    ),
    "Python 3.11.2 on x86_64": "Python three point eleven point two on x eighty-six sixty-four",
    "007": "zero zero seven",
    "1. Open": "One. Open",
    "No figures, e.g. here.": "No figures, e.g. here.",
}
OTHERS = {
    "german": (
        "Es kostet 19,99 € und 1.234,5 kg, 50 %.",
        "Es kostet neunzehn Euro neunundneunzig Cent und "
        "eintausendzweihundertvierunddreißig Komma fünf Kilogramm, fünfzig Prozent.",
    ),
    "french": ("Il fait 20–25°C.", "Il fait vingt à vingt-cinq degrés Celsius."),
    "spanish": ("Son 3 km & 5 €.", "Son tres kilómetros y cinco euros."),
    "italian": ("Sono 3 km.", "Sono tre chilometri."),
    "portuguese": ("Custa R$ 5.", "Custa cinco reais."),
    "chinese": ("价格是19元。", "价格是19元。"),
}


@pytest.mark.parametrize(("text", "said"), ENGLISH.items(), ids=list(ENGLISH))
def test_english(text, said):
    assert spell_out(text, "english") == said


@pytest.mark.parametrize("language", OTHERS)
def test_other_languages(language):
    text, said = OTHERS[language]
    assert spell_out(text, language) == said


def test_what_has_no_room_stays_as_it_is_written():
    text = "777,777 " * 500
    said = spell_out(text, "english")
    assert said.startswith("seven hundred") and said.rstrip().endswith("777,777")
    assert len(said) <= GROWTH * len(text) + SPARE
