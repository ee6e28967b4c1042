"""The codec against the official package's, and against itself for every way to cut a stream."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.config import ModelSpec
from engine.layers.linear import can_pack
from engine.loader.checkpoint import load, load_codec
from engine.models.codec_decoder import CONV_CONTEXT, CodecDecoder
from engine.models.codec_encoder import CodecEncoder
from engine.models.speaker_encoder import SpeakerEncoder, mel_filters
from engine.native.codec import NativeConvolutions
from engine.native.decoder import library
from engine.runner.codec_runner import CodecRunner
from tests.models import golden

CPU, FP32 = torch.device("cpu"), torch.float32
DECODER = golden.CASES["codec_decoder"]
ENCODER = golden.CASES["voice_encoder"]
NUM_ROWS = 5


@pytest.fixture(scope="module")
def decoder(checkpoints: dict[str, Path]) -> CodecDecoder:
    return load_codec(checkpoints["base/tiny-0b6"], FP32, CPU)


def runner(decoder: CodecDecoder, *, official: bool = False) -> CodecRunner:
    with torch.inference_mode():
        return CodecRunner(decoder, NUM_ROWS, 512, official=official)


def as_float(pcm: bytes) -> np.ndarray:
    return np.frombuffer(pcm, "<i2").astype(np.float32) / 32767


def random_codes(num_frames: int, seed: int) -> list[list[int]]:
    return np.random.default_rng(seed).integers(0, 2048, (num_frames, 16)).tolist()


@cache  # a decoder for all of this file; long cases are asked for twice
def golden_wave(decoder: CodecDecoder, id_: str, official: bool) -> np.ndarray:
    codes = golden.arrays("codec")[f"{id_}.codes"].tolist()
    return as_float(runner(decoder, official=official).decode([0], [codes]).result()[0])


@pytest.mark.parametrize("case", DECODER, ids=[case["id"] for case in DECODER])
@pytest.mark.parametrize("official", [False, True], ids=["exact", "official"])
def test_equals_official(decoder: CodecDecoder, case: dict, official: bool) -> None:
    """Both modes up to 300 frames; beyond them only the mode that restarts as the package does."""
    if case["num_frames"] > 300 and not official:
        pytest.skip("the official package restarts its decoder here; exact streaming does not")
    data = golden.arrays("codec")
    wave = golden_wave(decoder, case["id"], official)
    assert len(wave) == case["num_samples"]
    if case["num_frames"] <= 40:
        expected = data[f"{case['id']}.wave"].astype(np.float32) / 32767
    else:
        wave, expected = wave[data[f"{case['id']}.positions"]], data[f"{case['id']}.samples"]
    np.testing.assert_allclose(wave, expected, atol=1e-4)


def test_exact_differs_from_official_restarts(decoder: CodecDecoder) -> None:
    """The reason for the two modes: past 300 frames the official restart shows."""
    exact, official = (golden_wave(decoder, "decode_330", mode) for mode in (False, True))
    border = 300 * 1920
    np.testing.assert_allclose(exact[:border], official[:border], atol=1e-4)
    assert np.abs(exact[border:] - official[border:]).max() > 1e-3


@settings(max_examples=10, deadline=None)
@example(cuts=[40, 40, 1, 40], seed=0)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=5), st.integers(0, 2**16))
def test_streaming_equals_whole(decoder: CodecDecoder, cuts: list[int], seed: int) -> None:
    codes = random_codes(sum(cuts), seed)
    codec = runner(decoder)
    whole = as_float(codec.decode([0], [codes]).result()[0])
    parts, start = [], 0
    for cut in cuts:
        parts.append(as_float(codec.decode([1], [codes[start : start + cut]]).result()[0]))
        start += cut
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-4)


@pytest.fixture(scope="module", params=["packed", "compiled"])
def packed(request: pytest.FixtureRequest, checkpoints: dict[str, Path]) -> CodecDecoder:
    """As a server on a CPU has it, without and with a compiler."""
    if not can_pack(FP32):
        pytest.skip("no packed products on this machine")
    decoder = load_codec(checkpoints["base/tiny-0b6"], FP32, CPU)
    if request.param == "compiled":
        if library() is None:
            pytest.skip("nothing is compiled for this machine")
        decoder.fused = NativeConvolutions(decoder)
    decoder.pack_()
    return decoder


@settings(max_examples=6, deadline=None)
@given(
    chunks=st.lists(st.tuples(st.sampled_from([1, 2, 4, 8, 12]), st.integers(0, 3)), max_size=6),
    seed=st.integers(0, 2**16),
)
@example(chunks=[(1, 0), (2, 3), (4, 0), (8, 1), (12, 2), (3, 0)], seed=1)
def test_no_cut_and_no_company_changes_a_byte(
    packed: CodecDecoder, chunks: list[tuple[int, int]], seed: int
) -> None:
    """chunks: frames of the stream, and how many others are decoded with it."""
    codes = random_codes(sum(size for size, _ in chunks) + 1, seed)
    codec, parts, start = runner(packed), b"", 0
    for size, num_others in [*chunks, (1, 0)]:
        frames = [codes[start : start + size], *([random_codes(size, seed + 1)] * num_others)]
        parts += codec.decode(list(range(1 + num_others)), frames).result()[0]
        start += size
    assert parts == codec.decode([4], [codes]).result()[0]


@settings(max_examples=5, deadline=None)
@given(st.lists(st.sampled_from([1, 2, 4]), min_size=3, max_size=10), st.integers(0, 2**16))
def test_rows_do_not_meet(decoder: CodecDecoder, steps: list[int], seed: int) -> None:
    """Streams decoded together, one of them joining late, equal the same streams alone."""
    total = sum(steps)
    streams = [random_codes(total, seed + i) for i in range(3)]
    alone = [as_float(runner(decoder).decode([0], [codes]).result()[0]) for codes in streams]
    codec, taken, parts = runner(decoder), [0, 0, 0], [[], [], []]
    for i, step in enumerate(steps):
        rows = [r for r in range(3) if i >= r]
        frames = [streams[r][taken[r] : taken[r] + step] for r in rows]
        for r, pcm in zip(rows, codec.decode(rows, frames).result(), strict=True):
            parts[r].append(as_float(pcm))
            taken[r] += step
    for r in range(3):
        got = np.concatenate(parts[r])
        np.testing.assert_allclose(got, alone[r][: len(got)], atol=1e-4)


@pytest.mark.parametrize("official", [False, True], ids=["exact", "official"])
@pytest.mark.parametrize("num_primed", [1, CONV_CONTEXT - 1, CONV_CONTEXT + 1, 90])
def test_snapshot_continues_a_reference(
    decoder: CodecDecoder, num_primed: int, official: bool
) -> None:
    """Starting from a snapshot equals decoding the reference first and dropping its audio."""
    codes = random_codes(num_primed + 10, 7)
    codec = runner(decoder, official=official)
    whole = as_float(codec.decode([0], [codes]).result()[0])
    codec.start(2, codec.snapshot(torch.tensor(codes[:num_primed])))
    wave = as_float(codec.decode([2], [codes[num_primed:]]).result()[0])
    np.testing.assert_allclose(wave, whole[num_primed * 1920 :], atol=1e-4)


def test_row_starts_silent_again(decoder: CodecDecoder) -> None:
    codec = runner(decoder)
    codes = random_codes(6, 3)
    first = codec.decode([0], [codes]).result()[0]
    codec.start(0)
    assert codec.decode([0], [codes]).result()[0] == first


@pytest.fixture(scope="module")
def encoders(checkpoints: dict[str, Path]) -> tuple[SpeakerEncoder, CodecEncoder]:
    path = checkpoints["base/tiny-0b6"]
    checkpoint = load(ModelSpec(id="m", checkpoint=str(path)), path, FP32, CPU)
    assert checkpoint.speaker_encoder is not None and checkpoint.codec_encoder is not None
    return checkpoint.speaker_encoder, checkpoint.codec_encoder


@pytest.mark.parametrize("case", ENCODER, ids=[case["id"] for case in ENCODER])
def test_reference_equals_official(
    encoders: tuple[SpeakerEncoder, CodecEncoder], case: dict
) -> None:
    speaker_encoder, codec_encoder = encoders
    wave = torch.from_numpy(golden.reference_wave(case["reference"]))
    data = golden.arrays("codec")
    np.testing.assert_array_equal(codec_encoder(wave), data[f"{case['id']}.codes"])
    expected = data[f"{case['id']}.speaker_embedding"]
    np.testing.assert_allclose(speaker_encoder(wave), expected, atol=1e-5)


def test_mel_filters_cover_the_band() -> None:
    filters = mel_filters(128)
    assert filters.shape == (128, 513)
    assert (filters >= 0).all() and (filters.sum(axis=1) > 0).all()
