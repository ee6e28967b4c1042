# ruff: noqa: E501
"""Text for training: WordNet examples and definitions, templates, single words.

    python -m training.corpus            -> work/text/{examples,closed,glosses,words,long,numbers,paragraphs,formats}.txt

Nothing that stands in eval_sentences.txt is written (compared without case and punctuation).
Sources: Debian package wordnet-base (WordNet licence) and this file.
"""

import random
import re
from pathlib import Path

HERE = Path(__file__).parent
OUT = HERE / "work" / "text"
WORDNET = Path("/usr/share/wordnet")
ALLOWED = re.compile(r"[A-Za-z0-9 ,.'?!:;$%-]+")


def read_lists():
    """{list name: entries} of corpus_lists.txt."""
    blocks = (HERE / "corpus_lists.txt").read_text().split("\n\n")[1:]
    named = (block.strip().split("\n", 1) for block in blocks if block.strip())
    return {name: " ".join(body.split("\n")).split(" | ") for name, body in named}


LISTS = read_lists()
NAMES = LISTS["NAMES"]
PLACES = LISTS["PLACES"]
DAYS = LISTS["DAYS"]
MONTHS = LISTS["MONTHS"]
SUBJECTS = LISTS["SUBJECTS"]
THINGS = LISTS["THINGS"]
ADJECTIVES = LISTS["ADJECTIVES"]
PAST = LISTS["PAST"]
BASE = LISTS["BASE"]
TAILS = LISTS["TAILS"]
PHRASES = LISTS["PHRASES"]
TITLES = LISTS["TITLES"]
SHORT = LISTS["SHORT"]
UNITS = ["minutes", "hours", "days", "weeks", "months", "years"]
UNITS += ["miles", "dollars", "meters", "pounds", "feet", "times"]


def normalise(text):
    return re.sub(r"[^a-z0-9 ]", "", text.lower()).strip()


def held_out():
    lines = (HERE / "eval_sentences.txt").read_text().splitlines()
    return {normalise(s) for line in lines if line and line[0] != "#" for s in [line.split("|")[1]]}


def wordnet_quotes_and_glosses():
    quotes, glosses = [], []
    for part in ("noun", "verb", "adj", "adv"):
        for line in (WORDNET / f"data.{part}").read_text(encoding="latin-1").splitlines():
            if line.startswith(" ") or " | " not in line:
                continue
            gloss = line.split(" | ", 1)[1].strip()
            quotes += re.findall(r'"([^"]+)"', gloss)
            definition = re.sub(r"\([^)]*\)", "", gloss.split('"')[0]).strip(" ;")
            glosses += [g.strip() for g in definition.split(";")]
    return quotes, glosses


def usable(text, low, high):
    text = re.sub(r"\s+", " ", text.replace("`", "'").replace("--", ", ")).strip(" -;,:'")
    good = ALLOWED.fullmatch(text) and low <= len(text.split()) <= high and len(text) < 130
    return text if good and not re.search(r"\d{5}|[A-Z]{4}|\.\.", text) else None


def as_sentence(text, rng):
    """Mostly a capital letter and a full stop, sometimes bare."""
    if rng.random() < 0.8:
        text = text[0].upper() + text[1:]
    if text[-1] not in ".?!" and rng.random() < 0.8:
        text += "." if rng.random() < 0.95 else "!"
    return text


def number(rng):
    return rng.choice(
        [
            lambda: str(rng.randint(0, 20)),
            lambda: str(rng.randint(0, 100)),
            lambda: str(rng.randint(20, 99)),
            lambda: str(rng.randint(100, 999)),
            lambda: f"{rng.randint(1, 9)},{rng.randint(0, 999):03d}",
            lambda: str(rng.choice((100, 200, 300, 500, 1000, 2000, 5000))),
        ]
    )()


def year(rng):
    return str(
        rng.choice((rng.randint(1900, 1999), rng.randint(2000, 2030), rng.randint(1400, 1899)))
    )


def clock(rng):
    return f"{rng.randint(1, 12)}:{rng.choice((0, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 55, rng.randint(10, 59))):02d}"


def closed_domain(rng):
    r, n = rng.choice, number
    s, t, a = r(SUBJECTS), r(THINGS), r(ADJECTIVES)
    be, have = (
        ("am", "have")
        if s == "I"
        else ("are", "have")
        if s in ("you", "we", "they", "the children")
        else ("is", "has")
    )
    text = r(
        [
            lambda: r(PHRASES),
            lambda: r(PHRASES),
            lambda: f"The {t} costs {n(rng)} dollars.",
            lambda: f"There are {n(rng)} {r(THINGS)}s in the {t}.",
            lambda: f"It costs ${n(rng)}.",
            lambda: f"About {rng.randint(1, 100)}% of the {t}s are {a}.",
            lambda: (
                f"The {r(('train', 'bus', 'plane', 'boat', 'lesson', 'movie', 'meeting'))} {r(('leaves', 'arrives', 'starts', 'ends'))} at {clock(rng)}."
            ),
            lambda: f"The {r(('train', 'bus', 'plane'))} to {r(PLACES)} leaves at {clock(rng)}.",
            lambda: f"It is {clock(rng)} now.",
            lambda: f"{s} was born in {year(rng)}.",
            lambda: (
                f"{r(('The meeting is', 'We met', 'She was born', 'The party is', 'It happened', 'He arrived', 'The shop opens'))} on {r(MONTHS)} {rng.randint(1, 31)}."
            ),
            lambda: f"{r(DAYS)}, {r(MONTHS)} {rng.randint(1, 31)}, {year(rng)}.",
            lambda: (
                f"{r(('See you on', 'It closes on', 'Call me on', 'We leave on', 'She works on'))} {r(DAYS)}{r(('', ' morning', ' afternoon', ' evening', ' night'))}."
            ),
            lambda: f"The temperature is {rng.randint(-9, 99)} degrees.",
            lambda: n(rng) + ".",
            lambda: year(rng) + ".",
            lambda: (
                f"Please {r(('add', 'call', 'count to', 'turn to page', 'dial', 'multiply', 'divide'))} {n(rng)}."
            ),
            lambda: f"{n(rng)} {r(('and', 'plus', 'minus', 'times', 'or', 'to'))} {n(rng)}.",
            lambda: (
                f"{r(('Room', 'Page', 'Chapter', 'Number', 'Platform', 'Gate', 'Flight', 'Bus'))} {n(rng)}."
            ),
            lambda: f"{s} {r(PAST)} the {a} {t} {r(TAILS)}.",
            lambda: f"{s} {r(PAST)} a {a} {t} {r(TAILS)}.",
            lambda: f"{s} {r(PAST)} the {t} {r(TAILS)}.",
            lambda: f"{s} {r(PAST)} my {t} and the {r(THINGS)}.",
            lambda: (
                f"The {a} {t} {r(('is', 'was', 'looks', 'seems', 'will be'))} {r(('very', 'too', 'almost', 'still', 'quite', 'not'))} {r(ADJECTIVES)}."
            ),
            lambda: f"{s} {be} going to {r(BASE)} the {t} {r(TAILS)}.",
            lambda: (
                f"{s} {have} {r(('never seen', 'just found', 'already lost', 'not heard about'))} the {a} {t}."
            ),
            lambda: (
                f"{s} {r(('could not', 'will', 'would like to', 'should', 'must', 'can', 'had to', 'can not', 'used to'))} {r(BASE)} the {t} {r(TAILS)}."
            ),
            lambda: (
                f"{r(('Please', 'Do not', 'You should', 'We need to', 'Let us', 'I forgot to', 'Remember to', 'Try to'))} {r(BASE)} the {a} {t}."
            ),
            lambda: (
                f"{r(('Where is', 'Who took', 'Why is this', 'What happened to', 'How much is', 'Which one is', 'When did you see'))} the {t}?"
            ),
            lambda: (
                f"{r(('Could you', 'Can you', 'Will you', 'Would you', 'Did you', 'Do you want to', 'Why did you', 'How do you', 'When will you'))} {r(BASE)} the {a} {t}?"
            ),
            lambda: (
                f"{r(('Is', 'Are', 'Was', 'Were'))} there any {t}s {r(('left', 'here', 'in the kitchen', 'at home', 'near the station'))}?"
            ),
            lambda: f"{r(NAMES)} and {r(NAMES)} {r(PAST)} the {t} {r(TAILS)}.",
            lambda: (
                f"{r(NAMES)} {r(('moved to', 'lives in', 'flew to', 'comes from', 'works in', 'drove to', 'is in'))} {r(PLACES)}{r(('', ' ' + r(TAILS)))}."
            ),
            lambda: (
                f"{r(('Doctor', 'Professor', 'Mister', 'Captain', 'My friend', 'My name is', 'This is'))} {r(NAMES)} {r(NAMES)}."
            ),
            lambda: (
                f"{r(('Have you met', 'Please ask', 'I know', 'Tell', 'Where is', 'Say hello to'))} {r(NAMES)} from {r(PLACES)}?"
            ),
            lambda: " ".join(rng.sample("ABCDEFGHIJKLMNOPQRSTUVWXYZ", rng.randint(2, 5))) + ".",
            lambda: r(THINGS) + r((".", "", "?")),
            lambda: r(ADJECTIVES) + r((".", "")),
            lambda: r(DAYS + MONTHS + NAMES + PLACES) + r((".", "")),
        ]
    )()
    return text[0].upper() + text[1:] if rng.random() < 0.9 else text


def counted(rng):
    """A sentence with one or two numbers, times, dates or amounts in it."""
    r, n = rng.choice, lambda: number(rng)
    s, t, unit = r(SUBJECTS), r(THINGS), r(UNITS)
    s = s[0].upper() + s[1:]
    count, more = n(), n()
    plural = lambda: r(THINGS) + "s"  # noqa: E731
    day = f"{r(MONTHS)} {rng.randint(1, 31)}"
    return r(
        [
            lambda: f"{s} {r(PAST)} {count} {plural()} {r(TAILS)}.",
            lambda: f"{s} {r(PAST)} {count} {plural()} in {more} {unit}.",
            lambda: f"The {t} had {count} {plural()} and {more} {plural()}.",
            lambda: f"{count} {plural()} were {r(ADJECTIVES)}, and {more} were {r(ADJECTIVES)}.",
            lambda: f"It took {count} {unit} to {r(BASE)} the {t}.",
            lambda: f"{r(NAMES)} paid ${count} for the {r(ADJECTIVES)} {t}.",
            lambda: f"The {t} is {count} {unit} from {r(PLACES)}.",
            lambda: f"Only {rng.randint(1, 100)}% of the {plural()} came from {r(PLACES)}.",
            lambda: f"We will {r(BASE)} the {t} at {clock(rng)}.",
            lambda: f"From {clock(rng)} until {clock(rng)} the {t} was {r(ADJECTIVES)}.",
            lambda: f"{r(NAMES)} was born in {r(PLACES)} on {day}, {year(rng)}.",
            lambda: f"On {day} {s if s == 'I' else s[0].lower() + s[1:]} {r(PAST)} the {t}.",
            lambda: f"In {year(rng)} there were {count} {plural()} in {r(PLACES)}.",
            lambda: f"Since {year(rng)} the {t} has been {r(ADJECTIVES)}.",
            lambda: f"Do you have {count} or {more} {plural()}?",
            lambda: f"My {t} number is {count}, not {more}.",
            lambda: f"Chapter {count} begins on page {more}.",
            lambda: f"{count}, {more}, {n()}, {n()}.",
        ]
    )()


def formatted(rng):
    """A sentence with something in it that is not written as it is read."""
    r = rng.choice
    t, a, name, place = r(THINGS), r(ADJECTIVES), r(NAMES), r(PLACES)
    cents = f"{rng.randint(0, 200)}.{r((50, 99, 95, 25, 75, rng.randint(1, 99))):02d}"
    point = f"{rng.randint(0, 99)}.{rng.randint(0, 9)}{r(('', '', rng.randint(0, 9)))}"
    noon = r(("am", "pm", "a.m.", "p.m.", "AM", "PM"))
    nth = rng.choice((rng.randint(1, 31), rng.randint(1, 100)))
    ending = "th" if nth % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(nth % 10, "th")
    text = r(
        [
            lambda: f"The {t} costs ${cents}.",
            lambda: f"That is ${cents} for the {a} {t}.",
            lambda: f"It is {clock(rng)} {noon} in {place}.",
            lambda: f"{name} {r(PAST)} the {t} at {rng.randint(1, 12)} {noon}.",
            lambda: f"{r(LISTS['TITLES'])} {name} {r(PAST)} the {t} {r(TAILS)}.",
            lambda: (
                f"{r(LISTS['TITLES'])} {name} and {r(LISTS['TITLES'])} {r(NAMES)} are from {place}."
            ),
            lambda: f"Version {point} of the {t} is {a}.",
            lambda: f"The number is {point}.",
            lambda: f"The {t} weighs {rng.randint(1, 99)}kg.",
            lambda: (
                f"{place} is {rng.randint(2, 900)} {r(('km', 'miles', 'hours'))} from {r(PLACES)}."
            ),
            lambda: f"The {r(LISTS['SHORT'])} and the {t} are {a}.",
            lambda: f"{name} works for {r(('the ', ''))}{r(LISTS['SHORT'])} in {place}.",
            lambda: f"{name} {r(PAST)} the {r(LISTS['SHORT'])} {r(TAILS)}.",
            lambda: f"It was the {nth}{ending} {t}.",
            lambda: (
                f"{r(('See you', 'They met', 'It began'))} on the {nth}{ending} of {r(MONTHS)}."
            ),
            lambda: (
                f"{rng.randint(1, 99)},{rng.randint(0, 999):03d},{rng.randint(0, 999):03d} people live in {place}."
            ),
            lambda: f"Write to {name.lower()}@{t.replace(' ', '')}.com.",
            lambda: f"Look at www.{t.replace(' ', '')}.com for a {a} {r(THINGS)}.",
            lambda: f"Bring some {t}s, {r(THINGS)}s, etc.",
            lambda: f"A well-known {t} from {place}.",
            lambda: f"The {a}-{r(ADJECTIVES)} {t} {r(TAILS)}.",
            lambda: f"{name} said, the {t} is {a}.",
            lambda: f"The {t}, {r(('e.g.', 'i.e.'))} the {a} one, is in {place}.",
        ]
    )()
    return text


def main():
    rng, held = random.Random(1), held_out()
    OUT.mkdir(parents=True, exist_ok=True)
    quotes, glosses = wordnet_quotes_and_glosses()

    def unique(texts):
        seen, kept = set(held), []
        for text in texts:
            key = normalise(text) if text else ""
            if key and text.lower() not in seen and key not in held:
                seen.add(text.lower())
                kept.append(text)
        return kept

    examples = unique(as_sentence(t, rng) for q in quotes if (t := usable(q, 2, 18)))
    definitions = unique(as_sentence(t, rng) for g in glosses if (t := usable(g, 3, 12)))
    words = sorted(
        {w for t in examples + definitions for w in re.findall(r"[a-z']+", t.lower()) if len(w) > 1}
    )
    single = unique(w.capitalize() + "." if rng.random() < 0.7 else w for w in words)
    closed = unique(closed_domain(rng) for _ in range(45000))
    for bucket in (examples, definitions, single, closed):
        rng.shuffle(bucket)
    stops = [t if t[-1] in ".?!" else t + "." for t in examples[:12000] + closed[:6000]]
    long, at = [], 0
    rng.shuffle(stops)
    while at < len(stops):
        step = rng.choice((2, 2, 2, 3, 3, 4, 6))
        long.append(" ".join(stops[at : at + step]))
        at += step
    again, third, fourth = random.Random(2), random.Random(3), random.Random(4)
    paragraphs = []
    while len(paragraphs) < 4200:
        words, most = [], third.randint(45, 110)
        while len(words) < most:
            words += third.choice(stops).split()
        paragraphs.append(" ".join(words))
    buckets = {
        "examples": examples,
        "closed": closed,
        "glosses": definitions[:40000],
        "words": single,
        "long": long,
        "numbers": unique(counted(again) for _ in range(24000)),
        "paragraphs": paragraphs,
        "formats": unique(formatted(fourth) for _ in range(8000)),
    }
    for name, bucket in buckets.items():
        (OUT / f"{name}.txt").write_text("\n".join(bucket) + "\n")
        print(f"{name:9} {len(bucket):6} lines {sum(len(t.split()) for t in bucket):8} words")


if __name__ == "__main__":
    main()
