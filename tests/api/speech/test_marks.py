"""That an answer is made by a machine is in the file, in headers and in events."""

import io
import struct
import wave

import av
import mutagen
import numpy as np
import pytest
import soundfile

from qtts_openai.provenance.marks import SOFTWARE, SOURCE_TYPE, STATEMENT, Mark
from qtts_openai.settings import ProvenanceSettings
from qtts_openai.speech.encoders import AudioEncoder
from tests.api.audio import decode, seconds
from tests.api.speech.test_encoders import FORMATS, PCM
from tests.api.test_speech import read_events

WITH_A_PLACE = ("mp3", "opus", "flac", "wav")
# A name as long and strange as the settings allow.
NAMES = ("Qwen/custom", '模型 "ÿ" ' + "x" * 180)


def encode(audio_format: str, mark: Mark | None, cuts: int = 3840) -> tuple[AudioEncoder, bytes]:
    encoder = AudioEncoder(audio_format, mark=mark)
    parts = [encoder.encode(PCM[at : at + cuts]) for at in range(0, len(PCM), cuts)]
    return encoder, b"".join([*parts, encoder.flush()])


def assert_marked(audio_format: str, data: bytes, model: str) -> None:
    """As FFmpeg, and what else reads tags, sees it."""
    with av.open(io.BytesIO(data)) as container:
        found = {**container.metadata, **container.streams.audio[0].metadata}
    said = " ".join(str(value) for value in found.values())
    assert all(word in said for word in (STATEMENT, SOURCE_TYPE, SOFTWARE, model)), found
    if audio_format == "wav":
        # libsndfile reads ASCII only.
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            assert STATEMENT in file.comment and file.software.startswith(SOFTWARE)
        return
    tags = str({name: str(value) for name, value in mutagen.File(io.BytesIO(data)).tags.items()})
    assert SOURCE_TYPE in tags


@pytest.mark.parametrize("audio_format", WITH_A_PLACE)
@pytest.mark.parametrize("model", NAMES, ids=["plain", "strange"])
def test_the_mark_is_read_back(audio_format, model):
    mark = Mark(model, in_wav_streams=True)
    encoder, stream = encode(audio_format, mark)
    assert_marked(audio_format, stream, model)
    assert_marked(audio_format, encoder.with_exact_sizes(stream), model)


@pytest.mark.parametrize("audio_format", FORMATS)
@pytest.mark.parametrize("in_wav_streams", [False, True])
def test_the_mark_changes_no_sample(audio_format, in_wav_streams):
    marked, data = encode(audio_format, Mark("m", in_wav_streams=in_wav_streams))
    plain, unmarked = encode(audio_format, None)
    for one, other in (
        (data, unmarked),
        (marked.with_exact_sizes(data), plain.with_exact_sizes(unmarked)),
    ):
        if audio_format not in WITH_A_PLACE:
            assert one == other
        assert np.array_equal(decode(audio_format, one)[0], decode(audio_format, other)[0])


@pytest.mark.parametrize("audio_format", FORMATS)
def test_the_first_audio_comes_no_later(audio_format):
    """At the same chunk, behind less than a kilobyte; nothing comes before there is audio."""
    encoders = [AudioEncoder(audio_format, mark=mark) for mark in (None, Mark("Qwen/custom"))]
    for at in range(0, len(PCM), 1920):
        plain, marked = (encoder.encode(PCM[at : at + 1920]) for encoder in encoders)
        assert bool(plain) == bool(marked)
        assert len(plain) <= len(marked) <= len(plain) + 1000


# Of mp3, which is lost where two answers are joined: of the encoder's delay, not of speech.
FRAME_S = 576 / 24000


@pytest.mark.parametrize("model", NAMES, ids=["plain", "strange"])
def test_marked_mp3_answers_can_be_concatenated(model):
    """FFmpeg, strictly, and mpg123 read on; nothing is heard of the tags."""
    mark = Mark(model)
    assert b"\xff" not in mark.id3() + mark.id3v1() and len(mark.id3v1()) == 128
    one = encode("mp3", mark)[1]
    alone = decode("mp3", one)[0].astype(int)
    joined = [decode("mp3", one * 3)[0], soundfile.read(io.BytesIO(one * 3), dtype="int16")[0]]
    for samples in joined:
        assert 3 * len(alone) - len(samples) <= 2 * 576 + 1200
        steps = [np.abs(np.diff(part.astype(int))).max() for part in (samples, alone)]
        assert steps[0] <= steps[1] * 1.2
    # The second answer is in it, sample by sample.
    middle = alone[len(alone) // 4 : len(alone) // 2]
    at = len(alone) - 576 + len(alone) // 4
    assert np.abs(joined[0][at : at + len(middle)] - middle).max() <= 2


def test_mp3_in_an_unmarked_stream_decodes_the_same_without_a_place_to_seek():
    one = encode("mp3", Mark("m"))[1]
    parser, frames = av.CodecContext.create("mp3", "r"), []
    for at in range(0, len(one), 1000):
        for packet in parser.parse(one[at : at + 1000]):
            frames += parser.decode(packet) if not bytes(packet).startswith(b"ID3") else []
    for packet in parser.parse(None):
        frames += parser.decode(packet)
    assert sum(frame.samples for frame in frames) >= len(PCM) // 2 - 576


def test_marked_opus_answers_can_be_concatenated():
    parts = [encode("opus", Mark("m"))[1] for _ in range(3)]
    assert seconds("opus", b"".join(parts)) == pytest.approx(6.0, abs=0.05)


def chunks_of(data: bytes) -> list[tuple[bytes, int]]:
    found, at = [], 12
    while at < len(data):
        name, size = struct.unpack("<4sI", data[at : at + 8])
        found.append((name, size))
        at += 8 + size + size % 2
    assert at == len(data)
    return found


def test_a_wav_file_keeps_its_header_of_44_bytes():
    encoder, stream = encode("wav", Mark("m"))
    assert stream[36:44] == b"data" + b"\xff" * 4 and stream[44:] == PCM
    whole = encoder.with_exact_sizes(stream)
    assert int.from_bytes(whole[4:8], "little") == len(whole) - 8
    assert [name for name, _ in chunks_of(whole)] == [b"fmt ", b"data", b"bext", b"LIST"]
    assert whole[44:].startswith(PCM)
    with wave.open(io.BytesIO(whole)) as file:
        assert file.readframes(file.getnframes()) == PCM


def test_a_wav_stream_is_marked_before_its_samples_on_request():
    encoder, stream = encode("wav", Mark("m", in_wav_streams=True))
    assert stream.endswith(PCM)
    with wave.open(io.BytesIO(stream)) as file:
        assert file.readframes(len(PCM)) == PCM
    whole = encoder.with_exact_sizes(stream)
    assert len(whole) == len(stream)
    assert [name for name, _ in chunks_of(whole)] == [b"fmt ", b"bext", b"LIST", b"data"]


def test_id3_and_bext_have_the_sizes_they_say():
    tag = Mark("m" * 200).id3()
    assert tag[:3] == b"ID3"
    size = sum(byte << shift for byte, shift in zip(tag[6:10], (21, 14, 7, 0), strict=True))
    assert size == len(tag) - 10
    riff = Mark("m").riff()
    assert riff[:4] == b"bext" and int.from_bytes(riff[4:8], "little") == 602


# ---- over HTTP ----


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("audio_format", FORMATS)
def test_every_answer_says_it(server, audio_format, stream):
    answer = server.speak(response_format=audio_format, stream=stream)
    assert answer.headers["x-synthetic-speech"].startswith("ai-generated; ")
    assert 'model="Qwen/custom"' in answer.headers["x-synthetic-speech"]
    if audio_format in WITH_A_PLACE and (audio_format, stream) != ("wav", True):
        assert_marked(audio_format, answer.content, "Qwen/custom")


def test_events_and_batches_say_it(server):
    first, *_, done = read_events(server.speak(stream_format="sse").text)
    told = {"software": SOFTWARE, "model": "Qwen/custom", "digital_source_type": SOURCE_TYPE}
    assert first["synthetic_speech"] == done["synthetic_speech"] == told
    body = {"model": "tts-1", "voice": "alloy", "items": [{"input": "Hi."}, {"input": ""}]}
    good, bad = server.http.post("/audio/speech/batch", json=body).json()["results"]
    assert good["synthetic_speech"] == told and "synthetic_speech" not in bad


def test_it_can_be_turned_off(start):
    server = start(provenance=ProvenanceSettings(mark=False))
    answer = server.speak(stream=False)
    assert "x-synthetic-speech" not in answer.headers
    assert not answer.content.startswith(b"ID3")
    events = read_events(server.speak(stream_format="sse").text)
    assert not any("synthetic_speech" in event for event in events)


def test_joined_answers_of_a_server_play_to_their_end(server):
    parts = [server.speak(input=text).content for text in ("One.", "Two and two.")]
    total = sum(seconds("mp3", part) for part in parts)
    assert seconds("mp3", b"".join(parts)) == pytest.approx(total - FRAME_S, abs=0.001)
    assert all(part.startswith(b"ID3") for part in parts)
