"""Records how the embedded voice's teacher says things: teacher_frames.json, teacher_phones.json.

    .venv/bin/python -m tests.golden.make_teacher_frames

Needs flite, see training/README.md. The first file maps a text to the frames of 80 ms that the
teachers of ava and max speak, 0 where they say nothing; the second one a sentence to the phones of
ava's.
"""

import json
from pathlib import Path

from training.readers import SPEAKERS, teach

OUT = Path(__file__).with_name("teacher_frames.json")
PHONES = Path(__file__).with_name("teacher_phones.json")
TEXTS = {
    "sentences": """
        Good morning. The train to Boston leaves at nine fifteen.
        The kettle is boiling, so please make the tea.
        Where did you put the scissors?
        Margaret and Daniel are coming to dinner.
        The bus leaves at 7:45.
        She could not find her glasses anywhere.
        If you are not sure which form to fill in, ask at the front desk.
        Thank you for helping me carry the boxes upstairs.
    """,
    "short": """
        Hi. | Hello. | Hey! | Yes. | No. | Yes | no | OK | OK. | Okay! | Oh! | Ah. | Thanks. | Bye.
        Stop! | Go. | Wait. | Why? | What? | Who? | Now. | Here. | Right. | Sure. | Sorry? | One.
        Banana. | Tomorrow. | Goodbye. | Wednesday. | Absolutely. | Seventeen. | Congratulations!
        I | A | a. | x | Z. | 0 | 1 | 7 | 12 | 42 | 100 | 2024 | 7:45 | $5 | 50%
        ... | ! | ? | - | .
    """,
}


def main() -> None:
    golden = {}
    for kind, listed in TEXTS.items():
        texts = [text.strip() for text in listed.strip().replace("|", "\n").splitlines()]
        by_speaker = [teach(texts, speaker) for speaker in SPEAKERS]
        golden[kind] = {
            text: [0 if reading is None else len(reading.codes) for reading in readings]
            for text, *readings in zip(texts, *by_speaker, strict=True)
        }
    lines = [
        f"  {json.dumps(kind)}: {{\n"
        + ",\n".join(f"    {json.dumps(t)}: {n}" for t, n in entries.items())
        + "\n  }"
        for kind, entries in golden.items()
    ]
    OUT.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    taught = teach(list(golden["sentences"]), "ava")
    phones = {
        text: " ".join(reading.phones())
        for text, reading in zip(golden["sentences"], taught, strict=True)
        if reading is not None
    }
    PHONES.write_text(json.dumps(phones, indent=2) + "\n")


if __name__ == "__main__":
    main()
