# ruff: noqa: E501
"""Descriptions of voices, for VoiceDesign: people, traits, and the sentences that name them."""

import re

from training.voice_space import WHISPER, Voice
from training.wording import dressed, listed, pick, some_of

PEOPLE = {
    "girl": Voice(0, tract=11, tilt=1, pitch=262, spread=1.3, rate=1.02),
    "boy": Voice(0, tract=7, tilt=0, pitch=238, spread=1.2, rate=1.02),
    "young woman": Voice(0, tract=3, tilt=1, pitch=208, spread=1.15, rate=1.04),
    "woman": Voice(0, tract=0, pitch=182),
    "old woman": Voice(0, tract=-4, tilt=-1, breath=1, pitch=165, rate=0.87),
    "young man": Voice(1, tract=3, tilt=1, pitch=124, spread=1.1, rate=1.05),
    "man": Voice(1, tract=-1, pitch=106),
    "old man": Voice(2, tract=-6, tilt=-1, breath=1, pitch=98, rate=0.85),
    "scot": Voice(2, tract=0, pitch=118),
}
NAMES = {
    "girl": "little girl|girl|young girl|small girl|female child|schoolgirl|six year old girl|toddler girl"
    "|ten year old girl|daughter|kid, a girl|girl of seven|tiny girl|curious girl|baby girl",
    "boy": "little boy|boy|young boy|small boy|male child|schoolboy|eight year old boy|child|kid"
    "|small child|son|ten-year-old boy|boy of nine|toddler",
    "young woman": "young woman|young lady|teenage girl|woman in her twenties|girl of twenty|female student"
    "|young female|young female speaker|twenty year old woman|college girl|princess|young mother"
    "|woman in her early twenties|25-year-old woman|young actress|waitress|teenager, a girl",
    "woman": "woman|lady|female|female speaker|adult woman|middle aged woman|woman in her thirties|queen"
    "|mother|female narrator|woman in her forties|female voice|businesswoman|forty year old woman"
    "|middle-aged woman|actress|mature woman|woman in her fifties|female announcer|35-year-old woman",
    "old woman": "old woman|elderly woman|old lady|grandmother|elderly lady|aged woman|woman in her seventies"
    "|elderly female|granny|seventy year old woman|witch|grandma|woman of eighty|senior woman"
    "|woman in her sixties|ancient woman|old queen",
    "young man": "young man|young guy|teenage boy|man in his twenties|male student|young male|guy"
    "|young male speaker|twenty year old man|young fellow|prince|teenager, a boy|lad|college boy"
    "|25-year-old man|man in his early twenties|young actor|dude",
    "man": "man|male|gentleman|male speaker|adult man|middle aged man|man in his thirties|father|king"
    "|male narrator|man in his forties|male voice|businessman|forty year old man|middle-aged man"
    "|actor|mature man|man in his fifties|male announcer|sergeant|45-year-old man|knight|officer",
    "old man": "old man|elderly man|grandfather|elderly gentleman|aged man|man in his seventies|wizard"
    "|elderly male|grandpa|seventy year old man|old sailor|ancient wizard|old monk|man of eighty"
    "|senior man|man in his sixties|old king|old professor",
    "scot": "Scottish man|Scotsman|man from Scotland|man with a Scottish accent|Scottish male"
    "|young Scottish man|Scottish gentleman",
}
# Said with an age and a gender: "an elderly male teacher", "a doctor in her forties".
JOBS = (
    "teacher|doctor|nurse|scholar|narrator|announcer|pilot|farmer|singer|professor|reporter|anchor|coach|physician"
    "|librarian|engineer|lawyer|chef|baker|poet|presenter|host|guide|storyteller|scientist|speaker|officer|friend"
    "|assistant|shopkeeper|detective|captain|clerk|judge|artist|student|official|instructor|reader|soldier"
)
AGES = {
    "young woman": (
        "young female|twenty-something female|youthful female",
        "twenties|early twenties",
    ),
    "woman": ("female|middle-aged female|adult female|woman", "thirties|forties|fifties"),
    "old woman": ("old female|elderly female|aged female", "sixties|seventies|eighties"),
    "young man": ("young male|twenty-something male|youthful male", "twenties|early twenties"),
    "man": ("male|middle-aged male|adult male", "thirties|forties|fifties"),
    "old man": ("old male|elderly male|aged male", "sixties|seventies|eighties"),
}
# {field: change}, adjectives of a voice, how somebody speaks, and a noun for "with ...".
TRAITS = {
    "deep": (
        {"pitch": 0.8, "tract": -3},
        "deep|low|low pitched|bass|very low|deep and low|rumbling|baritone|very deep|low-pitched|heavy|booming|resonant",
        "in a deep register|deeply|in a low pitch|in a low register|from the chest",
        "a deep voice|a low pitch|a low voice|low notes",
    ),
    "high": (
        {"pitch": 1.2, "tract": 2},
        "high|high pitched|squeaky|shrill|very high|treble|soprano|piping|high-pitched|thin and high",
        "in a high register|in a high pitch|high up|in a squeaky voice",
        "a high voice|a high pitch|a squeaky voice",
    ),
    "slow": (
        {"rate": 0.8},
        "slow|unhurried|measured|leisurely|calm and slow|drawling|ponderous|relaxed|very slow|lazy|deliberate",
        "slowly|at a slow pace|unhurriedly|very slowly|with long pauses|in no hurry",
        "a slow pace|a measured pace|an unhurried pace|a slow delivery",
    ),
    "fast": (
        {"rate": 1.26},
        "fast|quick|rapid|hurried|brisk|fast paced|hasty|speedy|very fast|fast-talking|quick-spoken",
        "quickly|fast|rapidly|at a fast pace|in a hurry|very quickly|very fast",
        "a fast pace|a quick pace|a rapid delivery|a brisk pace",
    ),
    "bright": (
        {"tilt": 2},
        "bright|clear|crisp|sharp|brilliant|ringing|shiny|metallic|sparkling|piercing",
        "brightly|clearly and brightly|crisply",
        "a bright sound|a bright tone|a ringing tone|a crisp tone",
    ),
    "dark": (
        {"tilt": -2},
        "dark|warm|mellow|soft|muffled|velvety|rich|smooth|gentle and warm|tender|husky and dark",
        "softly|warmly|gently|tenderly",
        "a dark tone|a warm tone|a mellow tone|a soft tone|warmth",
    ),
    "breathy": (
        {"breath": 2},
        "breathy|husky|hoarse|raspy|airy|smoky|gravelly|scratchy|rough",
        "breathily|hoarsely|with much breath",
        "a rasp|a lot of breath|a breathy tone|a husky tone",
    ),
    "whispering": (
        {"breath": WHISPER},
        "whispering|whispered|whispery|hushed, whispering",
        "in a whisper|in whispers|whispering",
        "a whisper|a whispering tone",
    ),
    "lively": (
        {"spread": 1.6},
        "lively|cheerful|expressive|animated|excited|energetic|playful|happy|enthusiastic|vivid|dramatic|upbeat|joyful",
        "with enthusiasm|expressively|cheerfully|excitedly|with a lot of energy|with great emotion|happily",
        "a lively melody|much expression|enthusiasm|a lot of energy|excitement",
    ),
    "monotone": (
        {"spread": 0.25},
        "monotone|flat|monotonous|robotic|emotionless|bored|deadpan|cold|even|dull",
        "in a monotone|without emotion|like a robot|flatly|without any melody",
        "a flat tone|no emotion|a monotone delivery|no melody at all",
    ),
}
CONTRARY = ({"deep", "high"}, {"slow", "fast"}, {"bright", "dark"}, {"lively", "monotone"})
CONTRARY += ({"breathy", "whispering"}, {"bright", "whispering"}, {"dark", "whispering"})
# Said of voices, and nothing that this space has.
NOTHING = (
    "friendly|kind|confident|polite|professional|natural|American|British|elegant|intelligent|mysterious"
    "|sincere|charming|pleasant|trustworthy|serious|proud|wise|shy|honest|steady|firm|formal|experienced"
)
WITH_TRAITS = (
    "a {p} with a {t} voice|{t} voice of a {p}|a {t} {p}|the {t} voice of a {p}|a {p}, {t}"
    "|{p} with {t} voice|a {p} who speaks in a {t} voice|a {p} speaking in a {t} tone|{t} {p}"
    "|the voice of a {p}, {t}|I want a {t} {p}|a {p} whose voice is {t}|make it sound like a {t} {p}"
    "|a voice like a {p}, {t}|{p}, {t}|a {t} {p} voice|a narrator: a {t} {p}|voice: {p}; style: {t}"
    "|a {p}. The voice is {t}.|Speak like a {p} with a {t} voice|a {p} who speaks {a}|a {p} speaking {a}"
    "|a {p} talking {a}|a {p} with {n}|the voice of a {p} with {n}|a {p}. {S} speaks {a}."
    "|a {p}. {H} voice is {t}.|a {p}, {h} voice is {t}|Voice of a {p}: {t}.|a {p} voice with {n}"
    "|a {p} voice, {t}|a {t} voice, {p}|a {t} voice, like a {p}|a {p} with a {t} voice, speaking {a}"
    "|a {t} {p} who talks {a}|a {p}: {t}, {t}|Design a {t} {p} voice.|{p} voice, {t}"
)
WITHOUT = (
    "a {p}|the voice of a {p}|{p}|a {p} speaking|a {p}'s voice|a voice of a {p}|sound like a {p}"
    "|speak as a {p}|an ordinary {p}|{p} voice|a {x} {p}|a {p} with a {x} voice|a {x} {p} with a {x} voice"
)
# Held back from training; evaluate.py speaks these.
HELD_FRAMES = "a {t}-sounding {p}|imagine a {p} whose tone is {t}|{t}, the way a {p} talks"

# Descriptions of the packaged voices (voices.yaml) that name neither age nor gender, by the words that matter.
WITHOUT_GENDER = {
    "close friend|reassuring physician|quiet librarian|museum guide|tour guide|weather presenter"
    "|fitness coach|news anchor|telephone system|French poet|language teacher|storyteller"
    "|cartoon description": "woman",
    "station announcer|airline captain|tired detective|documentary narrator|patient teacher|radio host"
    "|drill instructor|dry scholar|German engineer|French shopkeeper|soldier|bouncer": "man",
}


def designed(person: str, traits) -> Voice:
    """The voice that a description means."""
    voice = PEOPLE[person]
    for trait in traits:
        for field, change in TRAITS[trait][0].items():
            value = getattr(voice, field)
            if field in ("tilt", "breath"):
                value = change
            elif field == "tract":
                value += change
            else:
                value *= change
            voice = voice._replace(**{field: value})
    return voice.clipped()


def some_description(rng, teacher: int | None = None) -> tuple[Voice, str]:
    """A voice, and words for it; only of one teacher where that is given."""
    people = [p for p, voice in PEOPLE.items() if teacher in (None, voice.teacher)]
    person = people[rng.integers(len(people))]
    count = int(rng.choice(4, p=(0.12, 0.33, 0.37, 0.18)))
    traits = some_of(rng, list(TRAITS), count, CONTRARY)
    return designed(person, traits), describe(rng, person, traits)


def describe(rng, person: str, traits, frames: str = "") -> str:
    who = named(rng, person)
    if not frames and rng.random() < 0.1:
        return dressed(rng, as_a_list(rng, person, traits))
    blanks = {"p": who, "x": pick(rng, NOTHING)} | pronouns(person)
    if not traits:
        return dressed(rng, pick(rng, WITHOUT).format(**blanks))
    frame = pick(rng, frames or WITH_TRAITS)
    for column, blank in enumerate("tan", start=1):
        words = [pick(rng, TRAITS[trait][column]) for trait in traits]
        if blank == "t" and rng.random() < 0.2:
            words.insert(int(rng.integers(len(words) + 1)), pick(rng, NOTHING))
        # Where a frame has two blanks of a kind or of several kinds, the traits are shared out.
        blanks[blank] = words
    return dressed(rng, filled(rng, frame, blanks))


def filled(rng, frame: str, blanks) -> str:
    """The frame with its blanks filled; every trait is said in one of them."""
    places = re.findall(r"\{([tan])\}", frame)
    count = len(blanks["a"])
    if len(places) > count:  # too few traits for this frame
        return filled(rng, "a {t} {p}", blanks)
    order = list(rng.permutation(count))
    shares = [order[i :: len(places)] for i in range(len(places))]
    spare = [word for word in blanks["t"] if word not in _said(blanks, "t")]
    for blank, share in zip(places, shares, strict=True):
        words = [_said(blanks, blank)[i] for i in share]
        if blank == "t" and spare:
            words.append(spare.pop())
        frame = frame.replace("{" + blank + "}", listed(rng, words), 1)
    return frame.format(**{k: v for k, v in blanks.items() if k not in "tan"})


def _said(blanks, blank: str) -> list[str]:
    return [word for word in blanks[blank] if word not in NOTHING.split("|")]


def as_a_list(rng, person: str, traits) -> str:
    """gender: female; age: old; pitch: low"""
    genders, ages = (
        ("female", "male"),
        {"old": "old|elderly|senior|70", "young": "young|20s|twenties"},
    )
    age = (
        "child"
        if person in ("girl", "boy")
        else ages.get(person.split()[0], "adult|middle-aged|40s")
    )
    rows = [f"gender: {genders[is_male(person)]}", f"age: {pick(rng, age)}"]
    rows = [rows[i] for i in rng.permutation(2)]
    heads = {
        "deep": "pitch",
        "high": "pitch",
        "slow": "speed",
        "fast": "speed",
        "lively": "emotion",
    }
    rows += [f"{heads.get(trait, 'tone')}: {pick(rng, TRAITS[trait][1])}" for trait in traits]
    return pick(rng, "; |, |. |\n").join(rows)


def named(rng, person: str) -> str:
    """A word for this person, or a profession with an age and a gender."""
    if person in AGES and rng.random() < 0.3:
        of_age, decade = AGES[person]
        job, his = pick(rng, JOBS), pronouns(person)["h"]
        if rng.random() < 0.6:
            return f"{pick(rng, of_age)} {job}"
        return f"{job} in {his} {pick(rng, decade)}"
    if person in ("woman", "man") and rng.random() < 0.12:
        jobs = next(jobs for jobs, gender in WITHOUT_GENDER.items() if gender == person)
        return pick(rng, jobs)
    return pick(rng, NAMES[person])


def is_male(person: str) -> bool:
    return person.endswith(("man", "boy", "scot")) and not person.endswith("woman")


def pronouns(person: str) -> dict[str, str]:
    h, s = ("his", "he") if is_male(person) else ("her", "she")
    return {"h": h, "H": h.title(), "s": s, "S": s.title()}
