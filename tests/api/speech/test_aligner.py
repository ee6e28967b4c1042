"""CTC alignment: the path on scores that are known, and a small random model where transformers
is installed (its times mean nothing, their shapes do)."""

import json
from pathlib import Path

import numpy as np
import pytest

from qtts_openai.speech.aligner import Aligner, align
from qtts_openai.speech.words import Word

LETTERS = "|abcdefghijklmnopqrstuvwxyz'"


def test_the_path_is_where_the_letters_are() -> None:
    # a a - b - - b b - : a double letter needs the blank between
    heard, blank = [1, 1, 0, 2, 0, 0, 2, 2, 0], 0
    scores = np.log(np.full((len(heard), 3), 0.05))
    scores[np.arange(len(heard)), heard] = np.log(0.9)
    assert align(scores, [1, 2, 2], blank) == [(0, 2), (3, 4), (6, 8)]


def test_every_letter_has_a_frame_even_where_nothing_fits() -> None:
    spans = align(np.log(np.full((5, 4), 0.25)), [1, 2, 3], 0)
    assert all(a < b for a, b in spans) and [a for a, _ in spans] == sorted(a for a, _ in spans)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("ctc")
    vocab = {"<pad>": 0, "<unk>": 1, **{letter: i + 2 for i, letter in enumerate(LETTERS)}}
    (folder / "vocab.json").write_text(json.dumps(vocab))
    tokenizer = transformers.Wav2Vec2CTCTokenizer(
        str(folder / "vocab.json"), pad_token="<pad>", unk_token="<unk>", word_delimiter_token="|"
    )
    features = transformers.Wav2Vec2FeatureExtractor(sampling_rate=16_000)
    transformers.Wav2Vec2Processor(features, tokenizer).save_pretrained(folder)
    config = transformers.Wav2Vec2Config(
        vocab_size=len(vocab), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, conv_dim=(16,) * 7, num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2, pad_token_id=0,
    )  # fmt: skip
    transformers.Wav2Vec2ForCTC(config).save_pretrained(folder)
    return folder


async def test_a_model_gives_each_word_its_time(checkpoint: Path) -> None:
    aligner = Aligner(str(checkpoint))
    noise = np.random.default_rng(0).normal(0, 3000, 48_000).astype("<i2").tobytes()
    estimated = [Word(text, 0.0, 0.0) for text in ("Hello", "there,", "\u4f60", "friend.")]
    words = await aligner.words(noise, estimated, speed=1.0)
    assert words is not None and [word.text for word in words] == [w.text for w in estimated]
    bounds = [bound for word in words for bound in (word.start_s, word.end_s)]
    assert bounds == sorted(bounds) and bounds[0] >= 0 and bounds[-1] <= 2.0
    assert words[0].start_s < words[0].end_s
    assert await aligner.words(noise * 40, estimated, speed=1.0) is None, "too long"
    aligner.close()
