"""The voice in the box says what it is told, in about the time that takes, and then stops.

Whether it can be understood is for `make listen`. Lengths are compared with its teacher's for the
same text (tests/golden/make_teacher_frames.py).
"""

import json
from collections.abc import Iterator
from functools import cache
from itertools import count, islice
from pathlib import Path

import msgspec
import numpy as np
import pytest

from engine.config import EngineConfig, ModelSpec
from engine.protocol import SAMPLE_RATE_HZ, SAMPLES_PER_FRAME, FinishReason, SamplingParams, Submit
from engine.startup import build
from qtts_openai.speech.loudness import amplify
from qtts_openai.text.prompt_builder import PromptBuilder
from qtts_openai.voices.presets import VoiceTable
from tests.engine.speaking import Speaker, Utterance, say, speak
from training.loudness import integrated_lufs

FRAMES = json.loads((Path(__file__).parents[1] / "golden" / "teacher_frames.json").read_text())
SENTENCES, SHORT = FRAMES["sentences"], FRAMES["short"]
SPEAKERS = ("ava", "max")  # in the order of the golden file
SLACK_FRAMES = 4
# With nothing to say the voice may hesitate; letters of other scripts may become a few sounds.
SILENCE_FRAMES, SOON_FRAMES = 25, 63
SPELT_FRAMES = 100  # the teacher itself takes up to 79 for these
PITCH = 8  # the codebook that holds it; 0 is unvoiced
FOREIGN = [
    "Привет, как дела? Меня зовут Анна.",
    "你好,世界。今天天气很好。",
    "こんにちは、元気ですか。",
    "안녕하세요.",
    "مرحبا بالعالم",
    "🙂🎉👍",
    "I am happy 🙂.",
    "naïve café, déjà vu",
    "éàüßñ",
    "\u200b\u200b",
    "~~~ *** ___ ###",
    "\n\n\n",
]
UNKNOWN = [
    "Xylqtr brontiplex wug.",
    "supercalifragilisticexpialidocious",
    "qqqqqqqqqqqqqqqq",
    "HTTP/2 TLS 1.3 x86_64",
    "foo@example.com",
    "The blorp zindled a frumious gwark.",
]


class Voice:
    """The shipped checkpoint in a core of its own."""

    def __init__(self) -> None:
        config = EngineConfig(
            device="cpu", threads=1, max_num_seqs=16, max_model_len=2048, kv_cache_memory="64MB"
        )
        self.core, ready = build(config, [ModelSpec("voice", "embedded")])
        self.prompts = PromptBuilder(ready.models[0])
        self.ids = count(1)

    def submit(
        self, text: str, speaker: str = "ava", *, seed: int = 1, language: str = "english", **more
    ) -> Submit:
        row = self.prompts.model.speakers[speaker]
        prompt = self.prompts.build(text, speakers=((row, 1.0),), language=language, **more)
        return Submit(next(self.ids), "voice", prompt, SamplingParams(seed=seed))


@pytest.fixture(scope="module")
def voice() -> Iterator[Voice]:
    voice = Voice()
    yield voice
    voice.core.close()


def read_all(voice: Voice, texts: list[str], speaker: str, **more) -> dict[str, Utterance]:
    """All at the same time."""
    submits = {text: voice.submit(text, speaker, **more) for text in texts}
    heard = speak(voice.core, submits.values())
    return {text: heard[submit.id] for text, submit in submits.items()}


@cache  # several tests hear the same
def sentences(voice: Voice, speaker: str, streaming: bool) -> dict[str, Utterance]:
    return read_all(voice, list(SENTENCES), speaker, streaming_text=streaming)


def assert_spoken(said: Utterance, natural_frames: int) -> None:
    """Ended by itself, about as long as natural, loud enough and not too loud."""
    assert said.finished is not None and said.finished.reason is FinishReason.STOP
    num_frames = len(said.codes)
    assert 0.6 * natural_frames <= num_frames <= 1.5 * natural_frames + SLACK_FRAMES
    assert len(said.samples) == num_frames * SAMPLES_PER_FRAME
    level = np.sqrt(np.mean(np.square(said.samples / 32768)))
    assert 0.01 < level < 0.4
    assert np.mean(np.abs(said.samples) >= 32767) < 1e-3, "clipped"
    assert np.abs(said.samples).max() < 32767


def too_long(said: dict[str, Utterance], most_frames: dict[str, int]) -> dict[str, int]:
    """Frames of those that did not end by themselves or spoke for longer than they may."""
    return {
        text: len(one.codes)
        for text, one in said.items()
        if len(one.codes) > most_frames[text]
        or (one.finished and one.finished.reason) is not FinishReason.STOP
    }


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streaming"])
@pytest.mark.parametrize("speaker", SPEAKERS)
def test_sentences_are_spoken_and_end(voice: Voice, speaker: str, streaming: bool):
    said = sentences(voice, speaker, streaming)
    for text, frames in SENTENCES.items():
        assert_spoken(said[text], frames[SPEAKERS.index(speaker)])


@pytest.mark.parametrize(("streaming", "most_ms"), [(False, 160), (True, 340)])
@pytest.mark.parametrize("speaker", SPEAKERS)
def test_the_first_sound_comes_soon(voice: Voice, speaker: str, streaming: bool, most_ms: int):
    """In its audio; docs/api.md says what `non_streaming_mode: false` adds."""
    said = list(sentences(voice, speaker, streaming).values())
    silent = [np.argmax(np.abs(one.samples) > 330) / SAMPLE_RATE_HZ * 1000 for one in said]
    assert max(silent) < most_ms


@pytest.mark.parametrize("speaker", SPEAKERS)
def test_every_frame_names_its_voice(voice: Voice, speaker: str):
    """Code 13 of this codec; a wrong one makes the decoder slur."""
    for said in sentences(voice, speaker, False).values():
        assert {frame[13] for frame in said.codes} == {SPEAKERS.index(speaker)}


@pytest.mark.parametrize("speaker", SPEAKERS)
def test_no_language_named(voice: Voice, speaker: str):
    texts = list(SENTENCES)[:4]
    said = read_all(voice, texts, speaker, language="auto")
    for text in texts:
        assert_spoken(said[text], SENTENCES[text][SPEAKERS.index(speaker)])


def test_both_speakers_are_equally_loud(voice: Voice):
    table, levels = VoiceTable({}, [], [voice.prompts.model]), []
    for speaker in SPEAKERS:
        gain_db = table.gain_db(table.voices[speaker], voice.prompts.model)
        said = sentences(voice, speaker, False)
        pcm = b"".join(one.samples.astype("<i2").tobytes() for one in said.values())
        louder = np.frombuffer(amplify(pcm, 10 ** (gain_db / 20)), "<i2")
        assert np.abs(louder).max() < 32767, "clipped"
        levels.append(integrated_lufs(louder))
    assert abs(levels[0] - levels[1]) <= 1 and all(abs(level + 18) <= 1 for level in levels)


def test_live_text(voice: Voice):
    """The same as text that was there from the start, when it comes in time."""
    text = "Where did you put the scissors?"
    whole = voice.submit(text, streaming_text=True)
    ids = whole.prompt.text
    opening = msgspec.structs.replace(whole.prompt, text=ids[:2], text_open=True)
    live = Submit(next(voice.ids), "voice", opening, whole.params)
    with Speaker(voice.core) as speaker:
        speaker.add(live)
        speaker.step()
        voice.core.append(live.id, ids[2:], True)
        speaker.run([whole])
    assert speaker.heard[live.id].codes == speaker.heard[whole.id].codes


def test_a_seed_says_the_same_alone_and_in_company(voice: Voice):
    texts = list(SENTENCES)[1:3]
    again = {text: say(voice.core, voice.submit(text)) for text in texts}
    for text, said in read_all(voice, texts, "ava").items():
        assert said.codes == again[text].codes
        # Chunks are cut by the clock, which can move a sample by one step of 16 bits.
        assert np.abs(said.samples - again[text].samples).max() <= 1


def test_her_voice_is_higher_than_his(voice: Voice):
    text = "Where did you put the scissors?"
    ava, max_ = (np.array(sentences(voice, who, False)[text].codes) for who in SPEAKERS)
    pitches = [np.median(codes[codes[:, PITCH] > 0, PITCH]) for codes in (ava, max_)]
    assert pitches[0] > pitches[1] + 10, "in steps of 2.5 %"


@pytest.mark.parametrize("every", [2, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("speaker", SPEAKERS)
def test_short_inputs_end_soon(voice: Voice, speaker: str, every: int):
    """One takes the even ones, the other the odd ones; `make test-slow` has both say all."""
    index = SPEAKERS.index(speaker)
    asked = islice(SHORT.items(), index % every, None, every)
    natural = {text: frames[index] for text, frames in asked}
    most = {text: 2 * n + SLACK_FRAMES if n else SILENCE_FRAMES for text, n in natural.items()}
    assert too_long(read_all(voice, list(natural), speaker), most) == {}


@pytest.mark.parametrize(("speaker", "streaming"), [("ava", False), ("max", True)])
def test_what_it_does_not_know_ends_too(voice: Voice, speaker: str, streaming: bool):
    said = read_all(voice, FOREIGN + UNKNOWN, speaker, streaming_text=streaming)
    most = dict.fromkeys(FOREIGN, SOON_FRAMES) | dict.fromkeys(UNKNOWN, SPELT_FRAMES)
    assert too_long(said, most) == {}
