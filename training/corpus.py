"""Text for training: WordNet examples and definitions, templates, single words.

    python corpus.py            -> work/text/{examples,closed,glosses,words,long}.txt

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

NAMES = """James Mary John Patricia Robert Jennifer Michael Linda William Elizabeth David Barbara Richard Susan
Joseph Jessica Thomas Sarah Charles Karen Daniel Nancy Matthew Lisa Anthony Betty Mark Margaret Donald Sandra
Steven Ashley Paul Emily Andrew Donna Joshua Michelle Kenneth Carol Kevin Amanda Brian Dorothy George Melissa
Edward Deborah Ronald Stephanie Peter Anna Laura Helen Alice Emma Olivia Sophia Jack Harry Oliver Henry Lucy
Grace Rachel Victoria Samuel Benjamin Adam Simon Martin Eric Diana Julia Maria Rose Kate Frank Walter Hannah
Smith Johnson Williams Brown Jones Miller Davis Wilson Anderson Taylor Moore Jackson Harris Clark Lewis Walker
Hall Young King Wright Green Baker Adams Nelson Carter Mitchell Roberts Turner Phillips Campbell Parker Evans""".split()
PLACES = """Boston|Chicago|New York|London|Paris|Berlin|Rome|Madrid|Tokyo|Canada|England|Texas|California|Florida|
Australia|Germany|France|Italy|Spain|Japan|China|India|Mexico|Brazil|Seattle|Denver|Miami|Washington|Oxford|
San Francisco|Los Angeles|Dublin|Vienna|Moscow|Egypt|Africa|Europe|South America|Asia|Scotland|Ireland""".replace("\n", "").split("|")
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
SUBJECTS = """I|you|we|they|he|she|my brother|my sister|the teacher|the doctor|our neighbour|the children|a friend|
everyone|nobody|the driver|the old man|the young woman|the boy|the girl|my mother|my father|the farmer|the pilot|
the cat|the dog|the manager|the students|your parents|the nurse|the police officer|the singer""".replace("\n", "").split("|")
THINGS = """window|door|table|chair|kitchen|garden|book|letter|phone|computer|car|bus|train|bicycle|bottle|cup|glass|
plate|box|bag|coat|hat|shoe|key|clock|lamp|picture|newspaper|magazine|ticket|map|bridge|river|mountain|beach|island|
forest|field|road|street|corner|station|airport|hotel|restaurant|school|library|hospital|museum|market|shop|bank|
office|factory|church|castle|farm|house|apartment|bedroom|bathroom|roof|wall|floor|stairs|mirror|umbrella|jacket|
shirt|sweater|bread|butter|cheese|milk|coffee|tea|water|juice|soup|salad|apple|banana|orange|tomato|potato|onion|
garlic|pepper|salt|sugar|chocolate|cake|pasta|rice|chicken|fish|egg|breakfast|lunch|dinner|song|movie|story|question|
answer|meeting|lesson|message|package|list|report|plan|idea|problem|battery|printer|camera|guitar|piano|ball|boat|
ship|plane|tractor|horse|bird|cow|sheep|rabbit|mouse|lion|elephant|tree|flower|leaf|grass|stone|sand|snow|rain|wind|
storm|cloud|sun|moon|star|fire|light|music|picture frame|post office|shopping list|living room|scissors""".replace("\n", "").split("|")
ADJECTIVES = """old|new|small|large|big|little|warm|cold|hot|bright|dark|quiet|loud|beautiful|strange|funny|clever|
happy|sad|tired|hungry|empty|full|heavy|light|long|short|narrow|wide|clean|dirty|wet|dry|soft|hard|sweet|fresh|red|
blue|green|yellow|white|black|brown|wooden|broken|expensive|cheap|strong|weak|young|nice|good|bad|slow|fast|early|
late|important|difficult|easy|different|famous|favorite|single|several|gentle|muddy|distant|calm""".replace("\n", "").split("|")
PAST = """bought|sold|found|lost|opened|closed|cleaned|painted|broke|repaired|carried|dropped|took|brought|sent|saw|
watched|heard|liked|loved|wanted|needed|forgot|remembered|noticed|asked for|looked at|waited for|talked about|
wrote about|read about|thought about|walked past|stood near|sat behind|ran towards|put|left|kept|used|built|made|
washed|touched|pushed|pulled|picked up|turned off|turned on|paid for|showed me|gave away|finished|started""".replace("\n", "").split("|")
BASE = """buy|sell|find|lose|open|close|clean|paint|break|repair|carry|drop|take|bring|send|see|watch|hear|like|love|
want|need|forget|remember|notice|ask for|look at|wait for|talk about|write about|read about|think about|move|stop|
drive|visit|learn|teach|cook|eat|drink|wash|touch|push|pull|pick up|turn off|turn on|pay for|show|give away|finish|
start|leave|keep|use|build|make|hold|cut|throw|catch|count|order|check|change|fix|fill|follow|hide""".replace("\n", "").split("|")
TAILS = """in the morning|after lunch|last night|last week|last summer|yesterday|today|tomorrow|this afternoon|
this evening|every day|again|all day long|before dinner|near the river|in front of the station|behind the school|
on the corner|next to the bank|under the table|on the desk|upstairs|downstairs|outside|at home|at work|at school|
in the city|in the country|in the next room|with my friends|without any help|for a long time|for a week|as usual|
very slowly|very quickly|too late|too early|so far|by accident|on the way home|until the sun went down|
because it was raining|because it was cold|when the bell rang|before it started to rain|after the storm|
until ten o'clock|along the beach|across the street|through the park|around the world|from the oven""".replace("\n", "").split("|")
PHRASES = """Good morning.|Good afternoon.|Good evening.|Good night.|Hello there.|How are you today?|I am fine, thank you.|
Thank you very much.|You're welcome.|Nice to meet you.|See you tomorrow.|See you later.|Have a nice day.|
Excuse me, please.|I'm sorry.|I don't know.|I don't understand.|Could you repeat that, please?|Please wait a moment.|
How can I help you?|What can I do for you today?|Is there anything else I can help you with?|Of course.|Sure, no problem.|
Let me check that for you.|Here is what I found.|I'm not sure about that.|That's a great question.|Congratulations!|
Happy birthday!|Merry Christmas!|Be careful.|Come in, please.|Sit down, please.|What's your name?|Where are you from?|
What time is it?|How old are you?|I'd like to order, please.|Can I have the bill, please?|It's too expensive.|
I'll be right back.|Don't worry about it.|That sounds good.|I can't believe it.|It doesn't matter.|Let's go home.|
We haven't decided yet.|She isn't here right now.|They weren't at home.|He won't be late.|You shouldn't do that.|
I've never been there before.|It's raining outside.|The line is busy.|Please try again later.|Your call is important to us.|
The quick brown fox jumps over the lazy dog.|Once upon a time there was a king.|Testing, one, two, three.|
This is a test of the speech system.|Welcome to the show.|Please leave a message after the tone.|
The system is ready.|An error has occurred.|Download complete.|Battery low.|Playing your favorite music.|
The lights are on.|The door is locked.|Your alarm is set for the morning.|Your timer is done.|
I have added it to your list.|You have no new messages.|Today will be mostly sunny.|Expect heavy rain this evening.""".replace("\n", "").split("|")


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
    return rng.choice([
        lambda: str(rng.randint(0, 20)), lambda: str(rng.randint(0, 100)), lambda: str(rng.randint(20, 99)),
        lambda: str(rng.randint(100, 999)), lambda: f"{rng.randint(1, 9)},{rng.randint(0, 999):03d}",
        lambda: str(rng.choice((100, 200, 300, 500, 1000, 2000, 5000)))])()


def year(rng):
    return str(rng.choice((rng.randint(1900, 1999), rng.randint(2000, 2030), rng.randint(1400, 1899))))


def clock(rng):
    return f"{rng.randint(1, 12)}:{rng.choice((0, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 55, rng.randint(10, 59))):02d}"


def closed_domain(rng):
    r, n = rng.choice, number
    s, t, a = r(SUBJECTS), r(THINGS), r(ADJECTIVES)
    be, have = ("am", "have") if s == "I" else ("are", "have") if s in ("you", "we", "they", "the children") else ("is", "has")
    text = r([
        lambda: r(PHRASES), lambda: r(PHRASES),
        lambda: f"The {t} costs {n(rng)} dollars.", lambda: f"There are {n(rng)} {r(THINGS)}s in the {t}.",
        lambda: f"It costs ${n(rng)}.", lambda: f"About {rng.randint(1, 100)}% of the {t}s are {a}.",
        lambda: f"The {r(('train', 'bus', 'plane', 'boat', 'lesson', 'movie', 'meeting'))} {r(('leaves', 'arrives', 'starts', 'ends'))} at {clock(rng)}.",
        lambda: f"The {r(('train', 'bus', 'plane'))} to {r(PLACES)} leaves at {clock(rng)}.",
        lambda: f"It is {clock(rng)} now.", lambda: f"{s} was born in {year(rng)}.",
        lambda: f"{r(('The meeting is', 'We met', 'She was born', 'The party is', 'It happened', 'He arrived', 'The shop opens'))} on {r(MONTHS)} {rng.randint(1, 31)}.",
        lambda: f"{r(DAYS)}, {r(MONTHS)} {rng.randint(1, 31)}, {year(rng)}.",
        lambda: f"{r(('See you on', 'It closes on', 'Call me on', 'We leave on', 'She works on'))} {r(DAYS)}{r(('', ' morning', ' afternoon', ' evening', ' night'))}.",
        lambda: f"The temperature is {rng.randint(-9, 99)} degrees.", lambda: n(rng) + ".", lambda: year(rng) + ".",
        lambda: f"Please {r(('add', 'call', 'count to', 'turn to page', 'dial', 'multiply', 'divide'))} {n(rng)}.",
        lambda: f"{n(rng)} {r(('and', 'plus', 'minus', 'times', 'or', 'to'))} {n(rng)}.",
        lambda: f"{r(('Room', 'Page', 'Chapter', 'Number', 'Platform', 'Gate', 'Flight', 'Bus'))} {n(rng)}.",
        lambda: f"{s} {r(PAST)} the {a} {t} {r(TAILS)}.", lambda: f"{s} {r(PAST)} a {a} {t} {r(TAILS)}.",
        lambda: f"{s} {r(PAST)} the {t} {r(TAILS)}.", lambda: f"{s} {r(PAST)} my {t} and the {r(THINGS)}.",
        lambda: f"The {a} {t} {r(('is', 'was', 'looks', 'seems', 'will be'))} {r(('very', 'too', 'almost', 'still', 'quite', 'not'))} {r(ADJECTIVES)}.",
        lambda: f"{s} {be} going to {r(BASE)} the {t} {r(TAILS)}.", lambda: f"{s} {have} {r(('never seen', 'just found', 'already lost', 'not heard about'))} the {a} {t}.",
        lambda: f"{s} {r(('could not', 'will', 'would like to', 'should', 'must', 'can', 'had to', 'can not', 'used to'))} {r(BASE)} the {t} {r(TAILS)}.",
        lambda: f"{r(('Please', 'Do not', 'You should', 'We need to', 'Let us', 'I forgot to', 'Remember to', 'Try to'))} {r(BASE)} the {a} {t}.",
        lambda: f"{r(('Where is', 'Who took', 'Why is this', 'What happened to', 'How much is', 'Which one is', 'When did you see'))} the {t}?",
        lambda: f"{r(('Could you', 'Can you', 'Will you', 'Would you', 'Did you', 'Do you want to', 'Why did you', 'How do you', 'When will you'))} {r(BASE)} the {a} {t}?",
        lambda: f"{r(('Is', 'Are', 'Was', 'Were'))} there any {t}s {r(('left', 'here', 'in the kitchen', 'at home', 'near the station'))}?",
        lambda: f"{r(NAMES)} and {r(NAMES)} {r(PAST)} the {t} {r(TAILS)}.",
        lambda: f"{r(NAMES)} {r(('moved to', 'lives in', 'flew to', 'comes from', 'works in', 'drove to', 'is in'))} {r(PLACES)}{r(('', ' ' + r(TAILS)))}.",
        lambda: f"{r(('Doctor', 'Professor', 'Mister', 'Captain', 'My friend', 'My name is', 'This is'))} {r(NAMES)} {r(NAMES)}.",
        lambda: f"{r(('Have you met', 'Please ask', 'I know', 'Tell', 'Where is', 'Say hello to'))} {r(NAMES)} from {r(PLACES)}?",
        lambda: " ".join(rng.sample("ABCDEFGHIJKLMNOPQRSTUVWXYZ", rng.randint(2, 5))) + ".",
        lambda: r(THINGS) + r((".", "", "?")), lambda: r(ADJECTIVES) + r((".", "")), lambda: r(DAYS + MONTHS + NAMES + PLACES) + r((".", "")),
    ])()
    return text[0].upper() + text[1:] if rng.random() < 0.9 else text


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
    words = sorted({w for t in examples + definitions for w in re.findall(r"[a-z']+", t.lower()) if len(w) > 1})
    single = unique(w.capitalize() + "." if rng.random() < 0.7 else w for w in words)
    closed = unique(closed_domain(rng) for _ in range(45000))
    for bucket in (examples, definitions, single, closed):
        rng.shuffle(bucket)
    stops = [t if t[-1] in ".?!" else t + "." for t in examples[:12000] + closed[:6000]]
    long, at = [], 0
    rng.shuffle(stops)
    while at < len(stops):
        step = rng.choice((2, 2, 2, 3, 3, 4, 6))
        long.append(" ".join(stops[at:at + step]))
        at += step
    for name, bucket in dict(examples=examples, closed=closed, glosses=definitions[:40000], words=single,
                             long=long).items():
        (OUT / f"{name}.txt").write_text("\n".join(bucket) + "\n")
        print(f"{name:9} {len(bucket):6} lines {sum(len(t.split()) for t in bucket):8} words")


if __name__ == "__main__":
    main()
