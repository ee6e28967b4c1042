"""The listener, the onset and the percentiles on arrivals made by hand."""

import base64
import itertools
import json
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtts_openai.load.audio_body import BodyError, PcmBody, open_body
from qtts_openai.load.audio_clock import Arrival, audible_onset, onset_times, percentiles, play
from tests.api.load.stub_server import WAV_HEADER

MS = 1000  # a sample rate at which times in ms are sample counts
WINDOW = 240  # samples of 10 ms at 24 kHz


def arrivals(*pairs: tuple[int, int]) -> list[Arrival]:
    """(ms, samples at 1000 Hz)"""
    return [Arrival(at / MS, num) for at, num in pairs]


def test_no_underrun_while_data_comes_in_time():
    playback = play(arrivals((50, 80), (130, 80), (140, 500)), MS)
    assert playback.starts_s == pytest.approx([0.05, 0.13, 0.21])
    assert (playback.num_underruns, playback.gap_s) == (0, 0)


def test_each_wait_is_one_underrun_and_the_end_is_none():
    playback = play(arrivals((50, 80), (150, 10), (155, 20), (200, 1)), MS)
    assert playback.num_underruns == 2
    assert playback.gap_s == pytest.approx(0.020 + 0.020)
    assert playback.starts_s == pytest.approx([0.05, 0.15, 0.16, 0.2])


def test_nothing_is_no_underrun():
    assert play([], MS).num_underruns == 0


def step_by_step(stream: list[tuple[int, int]]) -> tuple[int, int]:
    """(underruns, ticks of gap) by moving a playhead one tick at a time."""
    underruns = gap = buffered = 0
    starved = False
    for now in range(stream[0][0], stream[-1][0]):
        buffered += sum(num for at, num in stream if at == now)
        if buffered:
            buffered -= 1
            starved = False
        else:
            gap += 1
            underruns += not starved
            starved = True
    return underruns, gap


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 30)), min_size=1, max_size=8).map(
        lambda steps: [(sum(s for s, _ in steps[: i + 1]), n) for i, (_, n) in enumerate(steps)]
    )
)
def test_equal_to_a_playhead_moved_by_hand(stream):
    exact = 1024  # ticks per second without rounding
    playback = play([Arrival(at / exact, num) for at, num in stream], exact)
    assert (playback.num_underruns, playback.gap_s * exact) == step_by_step(stream)


@given(
    st.lists(
        st.tuples(st.floats(0, 1), st.integers(1, 4000), st.integers(1, 4000)),
        min_size=1,
        max_size=10,
    )
)
def test_cutting_what_arrives_together_changes_nothing(pieces):
    pieces.sort()
    whole = play([Arrival(at, a + b) for at, a, b in pieces], 24000)
    cut = play([Arrival(at, n) for at, a, b in pieces for n in (a, b)], 24000)
    assert cut.num_underruns == whole.num_underruns
    assert cut.gap_s == pytest.approx(whole.gap_s)
    assert cut.starts_s[::2] == pytest.approx(whole.starts_s)


def pcm(*levels: int) -> bytes:
    """One window of each level."""
    return np.repeat(np.array(levels, "<i2"), WINDOW).tobytes()


def test_the_threshold_is_minus_45_dbfs():
    assert audible_onset(pcm(184), 24000) is None
    assert audible_onset(pcm(185), 24000) == 0
    assert audible_onset(pcm(0, 0, -185, 9000), 24000) == 2 * WINDOW


def test_a_loud_sample_is_not_a_loud_window_and_part_of_a_window_is_none():
    click = np.zeros(WINDOW, "<i2")
    click[7] = 2000  # 129 RMS
    assert audible_onset(click.tobytes(), 24000) is None
    assert audible_onset(pcm(0) + pcm(9000)[:-2], 24000) is None
    assert audible_onset(b"", 24000) is None
    assert audible_onset(b"\1", 24000) is None


@given(st.integers(0, 250), st.integers(0, 2 * WINDOW - 1))
def test_onset_behind_any_silence(num_silent, odd_bytes):
    quiet = np.random.default_rng(num_silent).integers(-100, 100, num_silent * WINDOW)
    data = quiet.astype("<i2").tobytes() + pcm(3000, 3000) + b"\0" * odd_bytes
    assert audible_onset(bytearray(data), 24000) == num_silent * WINDOW


def test_onset_is_dated_by_arrival_and_by_ear():
    """100 ms of silence, of which 60 ms come at once; the loud window straddles two arrivals."""
    stream = arrivals((50, 60), (70, 45), (300, 50))
    playback = play(stream, MS)
    assert onset_times(stream, playback, 100, MS) == pytest.approx((0.3, 0.15))
    assert onset_times(stream, playback, 0, MS) == pytest.approx((0.05, 0.05))
    assert onset_times(stream, playback, 90, MS) == pytest.approx((0.07, 0.14))
    assert onset_times(stream, playback, 110, MS) == pytest.approx((0.3, 0.305))


def test_percentiles():
    assert percentiles([]) is None
    assert percentiles([3.0]) == {"p50": 3, "p95": 3, "p99": 3, "max": 3, "mean": 3}
    named = percentiles([5, 1, 4, 2, 3])
    assert named == pytest.approx({"p50": 3, "p95": 4.8, "p99": 4.96, "max": 5, "mean": 3})
    assert percentiles(list(range(101)))["p99"] == 99


@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=50))
def test_percentiles_as_the_standard_library_has_them(values):
    named = percentiles(values)
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    expected = (cuts[49], cuts[94], cuts[98], max(values))
    assert tuple(named[k] for k in ("p50", "p95", "p99", "max")) == pytest.approx(expected)


def sse(data: bytes) -> bytes:
    """Events of 700 bytes each, as a server might write them: with comments and event lines."""
    lines = [b": hello", b""]
    for at in range(0, len(data), 700):
        audio = base64.b64encode(data[at : at + 700]).decode()
        event = json.dumps({"type": "speech.audio.delta", "audio": audio}).encode()
        lines += [b"event: speech.audio.delta", b"data: " + event + b"\r", b""]
    return b"\n".join([*lines, b'data: {"type":"speech.audio.done","usage":{}}', b"", b""])


LISTED = WAV_HEADER[:36] + b"LIST\5\0\0\0hello\0" + WAV_HEADER[36:]
SPEECH = np.arange(2000, dtype="<i2").tobytes()


@pytest.mark.parametrize("head", [b"", WAV_HEADER, LISTED], ids=["pcm", "wav", "wav with a list"])
@pytest.mark.parametrize("content_type", ["audio/pcm", "text/event-stream; charset=utf-8"])
@given(cuts=st.lists(st.integers(0, 6000), max_size=8).map(sorted))
def test_a_body_is_the_same_however_it_is_cut(head, content_type, cuts):
    data = head + SPEECH if content_type == "audio/pcm" else sse(head + SPEECH)
    body = open_body({"content-type": content_type}, 16000)
    edges = [0, *cuts, len(data)]
    parts = [body.feed(data[a:b]) for a, b in itertools.pairwise(edges) if a <= b]
    body.finish()
    assert b"".join(parts) == SPEECH
    assert body.rate_hz == (24000 if head else 16000)


def test_the_rate_is_read_from_headers():
    assert open_body({"content-type": "audio/pcm;rate=16000;channels=1"}, 24000).rate_hz == 16000
    assert open_body({"x-sample-rate": "48000"}, 24000).rate_hz == 48000


@pytest.mark.parametrize("content_type", ["audio/mpeg", "audio/ogg", "application/json"])
def test_what_is_not_pcm_is_refused(content_type):
    with pytest.raises(BodyError, match=content_type):
        open_body({"content-type": content_type}, 24000)
    with pytest.raises(BodyError, match="compressed"):
        PcmBody(24000).feed(b"ID3\4rest")
    stereo = WAV_HEADER[:22] + b"\2\0" + WAV_HEADER[24:]
    with pytest.raises(BodyError, match="2 channels"):
        PcmBody(24000).feed(stereo)
