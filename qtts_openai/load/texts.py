"""What the load generator has read out: English sentences of 2 to 40 words, written for it."""

import random
from collections.abc import Iterator
from pathlib import Path

SENTENCES = (
    "Good morning.",
    "The kettle is on.",
    "Please wait a moment.",
    "Your table is ready.",
    "Turn left after the bridge.",
    "Nobody had expected snow in May.",
    "The library closes in ten minutes.",
    "She never learned to whistle, but she tried.",
    "We will call you back before five o'clock.",
    "The train to the coast leaves from platform nine.",
    "I have put the spare key under the blue flowerpot.",
    "Could you read the second paragraph once more, a little slower?",
    "A fox crossed the yard, stopped, and looked straight at the window.",
    "The bakery on the corner sells out of rye bread by eight.",
    "Your parcel has left the depot and should arrive tomorrow afternoon.",
    "If the red lamp blinks twice, hold the button until it goes dark.",
    "He repaired clocks for forty years and was late for everything himself.",
    "Rain is expected in the north, while the south stays mostly dry and mild.",
    "The meeting has moved to Thursday; the room and the people stay the same.",
    "Nineteen boats left the harbour that morning, and eighteen came home before the storm.",
    "Press one to hear your balance, two to change your address, or three to start again.",
    "When the orchestra stopped for breath, you could hear the old heating knock in the wall.",
    "Carrots keep for months in a box of damp sand, provided that none of them touch each other.",
    "The second lighthouse was built because ships kept mistaking the first one for a farmhouse.",
    "Our guide pointed at an empty meadow and said that a town of six thousand had stood there.",
    "To change the filter, switch off the pump, drain the tank, and loosen the four screws at the "
    "back, beginning with the lowest.",
    "My grandmother wrote her recipes without amounts, because in her opinion anybody who needed "
    "to be told how much salt should not be left alone in a kitchen.",
    "The committee read all two hundred letters, thanked everyone who had written one, and then "
    "did exactly what it had planned to do since the beginning of the year.",
    "On clear nights you can see the island from here, a thin dark line with a single light at "
    "one end, and on the clearest nights you can see that the light is moving.",
    "What surprised the engineers was not that the bridge swayed in the wind, for every long "
    "bridge does, but that it hummed while it swayed, and always the same low note.",
)  # fmt: skip

# How many sentences a request has; most have one.
RUN_LENGTHS = (1, 1, 1, 2, 3)


def built_in(seed: int) -> Iterator[str]:
    """For ever: one to three of SENTENCES; the same ones for the same seed."""
    rng = random.Random(seed)
    while True:
        yield " ".join(rng.choices(SENTENCES, k=rng.choice(RUN_LENGTHS)))


def from_file(path: Path, seed: int) -> Iterator[str]:
    """For ever: the lines of a file, one text a line, in an order shuffled anew for each pass."""
    lines = [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"{path}: no text in it")
    rng = random.Random(seed)
    while True:
        rng.shuffle(lines)
        yield from lines
