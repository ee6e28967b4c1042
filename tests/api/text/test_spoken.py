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
    # Numbers that name something are said figure by figure.
    "1-800-555-0199 or (555)123-4567": (
        "one, eight zero zero, five five five, zero one nine nine or "
        "five five five, one two three, four five six seven"
    ),
    "020 7946 0958, +49 (0)30 123456": (
        "zero two zero, seven nine four six, zero nine five eight, "
        "plus four nine, three zero, one two three four five six"
    ),
    "SSN 123-45-6789, card 4111 1111 1111 1111": (
        "SSN one two three, four five, six seven eight nine, "
        "card four one one one, one one one one, one one one one, one one one one"
    ),
    "$.99, -$5, $-5, 500 USD, NZ$10, US$5": (
        "ninety-nine cents, minus five dollars, minus five dollars, five hundred dollars, "
        "ten dollars, five dollars"
    ),
    "$5/hr, 60 km/hr, 3/day": ("five dollars per hour, sixty kilometers per hour, three per day"),
    "14:30:15, 9:00–17:00, 10am-12pm, 00:00": (
        "fourteen thirty and fifteen seconds, nine o'clock to seventeen hundred, "
        "ten AM to twelve PM, midnight"
    ),
    "2024-01-15T10:30:00Z, 2024/01/15": (
        "January fifteenth, twenty twenty-four, ten thirty UTC, "
        "January fifteenth, twenty twenty-four"
    ),
    "12 March 2021, 12:30:45 PM, $5 million/year, 30 mi/gal, 10-12-2024": (
        "March twelfth twenty twenty-one, twelve thirty and forty-five seconds PM, "
        "five million dollars per year, thirty miles per gallon, "
        "October twelfth, twenty twenty-four"
    ),
    "5 January, the 5 January, May 5-7": (
        "January fifth, the fifth of January, May fifth to seventh"
    ),
    "1 1/2 cups, 4.5/5, 10/10, 24/7": (
        "one and a half cups, four point five out of five, ten out of ten, twenty-four seven"
    ),
    "5'10\", 2h 30m, 5m tall": "five feet ten inches, two hours thirty minutes, five meters tall",
    "v1.2.3, 10,000,000,000,000 or 1 000 000": (
        "v one point two point three, ten trillion or one million"
    ),
    "SO₄²⁻, x^2, 10^-3, 2**10, 10²³, mc²": (
        "SO four two minus, x squared, ten to the power of minus three, two to the power of ten, "
        "ten to the power of twenty-three, mc squared"
    ),
    "1e-5 != 6, a >= b && c": (
        "one times ten to the power of minus five not equal to six, a at least b and c"
    ),
    "F#, .NET, config.yaml, α and Δx, 50 Ω": (
        "F sharp, dot NET, config dot yaml, alpha and delta x, fifty ohms"
    ),
}
OTHERS = {
    "german": (
        "Es kostet 19,99 € und 1.234,5 kg, 50 %.",
        "Es kostet neunzehn Euro neunundneunzig Cent und "
        "eintausendzweihundertvierunddreißig Komma fünf Kilogramm, fünfzig Prozent.",
    ),
    "german date": (
        "Am 3. Mai um 14:30 Uhr, im 19. Jahrhundert, der 2. Platz, 1990er, am 3.5.",
        "Am dritten Mai um vierzehn Uhr dreißig, im neunzehnten Jahrhundert, der zweite Platz, "
        "neunzehnhundertneunziger, am dritten Mai",
    ),
    "german count": (
        "1.000.000, 1 Tag, 1 kg, 3/4, 0171/1234567. Ich bin 5. Dann",
        "eine Million, ein Tag, ein Kilogramm, drei Viertel, null eins sieben eins, "
        "eins zwei drei vier fünf sechs sieben. Ich bin fünf. Dann",
    ),
    "french": ("Il fait 20–25°C.", "Il fait vingt à vingt-cinq degrés Celsius."),
    "french time": (
        "14h30, 8h-17h, n° 5, 2e, 1re, 01 23 45 67 89",
        "quatorze heures trente, huit heures à dix-sept heures, numéro cinq, deuxième, première, "
        "zéro un, vingt-trois, quarante-cinq, soixante-sept, quatre-vingt-neuf",
    ),
    "spanish ordinal": ("1º, 2ª, 1 km, 1.000.000", "primero, segunda, un kilómetro, un millón"),
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
    assert spell_out(text, language.split()[0]) == said


def test_what_has_no_room_stays_as_it_is_written():
    text = "777,777 " * 500
    said = spell_out(text, "english")
    assert said.startswith("seven hundred") and said.rstrip().endswith("777,777")
    assert len(said) <= GROWTH * len(text) + SPARE
