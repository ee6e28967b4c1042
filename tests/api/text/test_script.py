"""Pronunciations, pauses and long text: how text is prepared and how its parts are joined."""

import re

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import FinishReason, QueueFullError
from qtts_openai.settings import Limits, TextSettings
from qtts_openai.text.pauses import split_pauses
from qtts_openai.text.pronounce import pronounce
from qtts_openai.text.segments import Size, split_sentences
from tests.api.audio import decode
from tests.api.conftest import CUSTOM
from tests.api.test_speech import assert_envelope, read_events

LONG = "Dr. Smith paid $3.50 to Mr. Jones. Was it late? Nobody knew, e.g. the old man! " * 4
PART_S = 0.08  # of one frame


def test_pronunciations_are_whole_words_in_any_case():
    said = {"SQL": "sequel", "New York": "the big city", "York": "yorrk"}
    assert pronounce("sql, MySQL and SQL!", said) == "sequel, MySQL and sequel!"
    assert pronounce("New York is not York.", said) == "the big city is not yorrk."
    assert pronounce("same", {}) == "same"


def test_pauses():
    text = "[pause:0.1s]One.[pause:500ms] Two [pause:1s][PAUSE: 250ms]"
    assert split_pauses(text, 10, 60) == [0.1, "One.", 0.5, " Two ", 1.0, 0.25]
    assert split_pauses("a [paused] game", 10, 60) == ["a [paused] game"]


def test_sentences_are_kept_whole():
    pieces = split_sentences([LONG, 0.5, "Next."], Size(120))
    assert pieces[-2:] == [0.5, "Next."]
    assert all(len(piece) <= 120 for piece in pieces if isinstance(piece, str))
    assert all(re.search(r"[.?!]$", piece) for piece in pieces if isinstance(piece, str))
    assert not any(piece.startswith("Smith") for piece in pieces if isinstance(piece, str))


@given(st.text(max_size=600), st.integers(50, 120))
def test_no_text_is_lost_and_no_piece_is_too_long(text, max_chars):
    pieces = split_sentences([text], Size(max_chars))
    assert "".join("".join(pieces).split()) == "".join(text.split())
    assert all(len(piece) <= max_chars for piece in pieces)


@pytest.fixture
def patient(start):
    """Long text is on."""
    return start(
        limits=Limits(max_input_chars=100), text=TextSettings(max_long_chars=1000, segment_chars=60)
    )


def pcm(answer) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    return decode("pcm", answer.content)[0]


def test_long_text_is_off_by_default(server):
    assert_envelope(server.speak(input="word " * 1000), 400, "input", "string_above_max_length")


def test_long_text_is_spoken_in_order_with_one_seed(patient):
    long = pcm(patient.speak(input=LONG, response_format="pcm"))
    prompts = [prompt for _, prompt, _, _ in patient.engine.submitted]
    seeds = {params.seed for _, _, params, _ in patient.engine.submitted}
    assert len(prompts) > 3 and len(seeds) == 1 and None not in seeds
    first, *others = patient.engine.leads_s
    assert first == 0 and min(others) > 0.5, "a fake engine is much faster than speech"
    pieces = [piece for piece in split_sentences([LONG], Size(60)) if isinstance(piece, str)]
    alone = [pcm(patient.speak(input=piece, response_format="pcm")) for piece in pieces]
    assert len(long) == sum(map(len, alone))
    at = 0
    for part in alone:
        here = long[at : at + len(part)]
        assert np.array_equal(here[200:-200], part[200:-200])
        assert abs(int(here[0])) < 100 and abs(int(here[-1])) < 300
        at += len(part)


def test_a_part_is_submitted_when_the_one_before_it_is_made(patient):
    patient.engine.max_live = 1
    assert patient.speak(input=LONG, stream=False).status_code == 200
    assert len(patient.engine.submitted) > 3


def test_a_model_may_want_its_texts_in_pieces(start):
    server = start(models=(msgspec.structs.replace(CUSTOM, segment_chars=60),))
    prompts = server.engine.submitted
    whole = len(pcm(server.speak(input=LONG, response_format="pcm")))
    assert len(prompts) == len(split_sentences([LONG], Size(60))) > 3
    assert whole > 3 * len(pcm(server.speak(input="One. Two.", response_format="pcm")))
    num = len(prompts)
    server.speak(input=" Short, as it was sent. ")
    server.speak(input=LONG, max_new_tokens=50)
    assert len(prompts) == num + 2, "a limit of frames is for one utterance"


def test_long_text_in_other_formats_and_shapes(patient):
    whole = patient.speak(input=LONG, response_format="wav", stream=False)
    assert whole.headers["x-finish-reason"] == "stop"
    events = read_events(patient.speak(input=LONG, stream_format="sse").text)
    assert events[-1]["usage"]["output_tokens"] > 100
    assert_envelope(patient.speak(input="a" * 1001), 400, "input")


def test_a_failure_in_a_later_part_breaks_the_answer(patient):
    submit = patient.engine.submit

    def third_fails(*arguments):
        stream = submit(*arguments)
        if len(patient.engine.submitted) == 3:
            patient.engine.fail_after = 0
        return stream

    patient.engine.submit = third_fails
    try:
        events = read_events(patient.speak(input=LONG, stream_format="sse").text)
    finally:
        del patient.engine.submit
    assert events[-1]["type"] == "error"
    assert not patient.engine.live


def test_a_full_queue_in_the_middle_is_waited_for(patient):
    submit, refused = patient.engine.submit, []

    def full_twice(*arguments):
        if patient.engine.submitted and len(refused) < 2:
            refused.append(1)
            raise QueueFullError("full", 0.01)
        return submit(*arguments)

    patient.engine.submit = full_twice
    try:
        assert patient.speak(input=LONG).status_code == 200
    finally:
        del patient.engine.submit
    patient.engine.submit_error = QueueFullError("full", 1)
    assert_envelope(patient.speak(input=LONG), 429)


def test_a_part_that_runs_away_is_told(patient):
    patient.engine.end_reason = FinishReason.LENGTH
    answer = patient.speak(input=LONG, stream=False)
    assert answer.headers["x-finish-reason"] == "length"


def test_pause_tags_are_silence_when_asked_for(server):
    tagged = "One.[pause:500ms]Two.[pause:250ms]"
    server.speak(input=tagged)
    assert len(server.engine.submitted) == 1
    paused = pcm(server.speak(input=tagged, pause_tags=True, response_format="pcm"))
    one, two = (pcm(server.speak(input=t, response_format="pcm")) for t in ("One.", "Two."))
    assert len(paused) == len(one) + 12000 + len(two) + 6000
    assert not paused[len(one) : len(one) + 12000].any() and not paused[-6000:].any()
    assert_envelope(server.speak(input="[pause:1s]", pause_tags=True), 400, "input")
    assert_envelope(server.speak(input="A[pause:60s]", pause_tags=True), 400, "input")


def test_an_error_after_a_leading_pause_is_still_clean(server):
    server.engine.fail_after = 0
    assert_envelope(server.speak(input="[pause:1s]Hi.", pause_tags=True), 503)


def test_pause_tags_by_settings_can_be_turned_off_by_a_request(start):
    server = start(text=TextSettings(pause_tags=True))
    server.speak(input="One.[pause:500ms]Two.")
    assert len(server.engine.submitted) == 2
    server.speak(input="One.[pause:500ms]Two.", pause_tags=False)
    assert len(server.engine.submitted) == 3


def test_pronunciations_of_settings_and_request(start):
    server = start(text=TextSettings(pronunciations={"SQL": "sequel", "GIF": "gif"}))

    def ids(**fields):
        server.speak(**fields)
        return server.engine.submitted[-1][1].text

    assert ids(input="SQL") == ids(input="sequel")
    assert ids(input="gif", pronunciations={"GIF": "jif"}) == ids(input="jif")
    assert_envelope(server.speak(pronunciations={"a": ""}), 400)
    assert_envelope(server.speak(pronunciations=[1]), 400, "pronunciations")
    grow = {"input": "a " * 2000, "pronunciations": {"a": "x" * 100}}
    assert_envelope(server.speak(**grow), 400, "pronunciations", "string_above_max_length")


def test_a_client_that_leaves_a_long_text_frees_every_part(patient):
    from tests.api.speech.test_streaming import post_and_leave, wait_until_freed

    patient.engine.chunk_delay_s = 0.05
    post_and_leave(patient, {"input": LONG}, 200)
    wait_until_freed(patient.engine)
    assert len(patient.engine.submitted) < 4
