"""A small byte-level BPE tokenizer in the file layout of Qwen2's, for random-weight checkpoints.

Every Qwen2 tokenizer class loads it: 256 bytes, a few whole words, then the 33 added tokens in
their official order. Only the ids are smaller than the published ones.
"""

import json
from itertools import pairwise
from pathlib import Path

# In id order, as in the published tokenizers (there: 151643 .. 151675); the value says "special".
ADDED_TOKENS = {
    "<|endoftext|>": True,
    "<|im_start|>": True,
    "<|im_end|>": True,
    "<|object_ref_start|>": True,
    "<|object_ref_end|>": True,
    "<|box_start|>": True,
    "<|box_end|>": True,
    "<|quad_start|>": True,
    "<|quad_end|>": True,
    "<|vision_start|>": True,
    "<|vision_end|>": True,
    "<|vision_pad|>": True,
    "<|image_pad|>": True,
    "<|video_pad|>": True,
    "<tool_call>": False,
    "</tool_call>": False,
    "<|fim_prefix|>": False,
    "<|fim_middle|>": False,
    "<|fim_suffix|>": False,
    "<|fim_pad|>": False,
    "<|repo_name|>": False,
    "<|file_sep|>": False,
    "<tool_response>": False,
    "</tool_response>": False,
    "<think>": False,
    "</think>": False,
    "<|audio_start|>": True,
    "<|audio_end|>": True,
    "<tts_pad>": True,
    "<tts_text_bos>": True,
    "<tts_text_eod>": True,
    "<tts_text_bos_single>": True,
    "<|audio_pad|>": True,
}

# "assistant" and "user" must be single tokens: prompts are sliced by position.
_WORDS = (
    *("assistant", "user", "the", "and", "ing", "er", "Hello", "World", "hello", "world", "you"),
    *(" the", " and", " of", " to", " is", " a", " world", " you", " speech", " voice", " with"),
    # Where the pre-tokeniser cuts decides whether these come out whole, so ids show which it is.
    *("iPhone", "HelloWorld", "OpenAI", "tknow", "12", "x\u0301", "!\n/", "\n\n", "n't"),
)


def write_random_tokenizer(out: Path) -> dict[str, int]:
    """Write the three tokenizer files into `out`; returns the id of each word and added token."""
    vocab, merges = _build_bpe()
    added = {token: len(vocab) + i for i, token in enumerate(ADDED_TOKENS)}
    (out / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (out / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    config = json.dumps(_tokenizer_config(added), indent=2, ensure_ascii=False)
    (out / "tokenizer_config.json").write_text(config + "\n", encoding="utf-8")
    return vocab | added


def _byte_symbols() -> list[str]:
    """Of each byte the printable stand-in: printable Latin-1 is itself, the rest is U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    stand_ins = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(stand_ins)) for byte in range(256)]


def _build_bpe() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges that make each of _WORDS one token.

    Joins, left to right, the pieces that earlier merges leave of a word.
    """
    symbols = _byte_symbols()
    vocab = {symbol: i for i, symbol in enumerate(sorted(symbols))}
    merges: list[tuple[str, str]] = []
    for text in _WORDS:
        word = "".join(symbols[byte] for byte in text.encode())
        left, *rest = _bpe(word, merges)
        for right in rest:
            merges.append((left, right))
            left += right
            vocab.setdefault(left, len(vocab))
        assert _bpe(word, merges) == [word]
    return vocab, merges


def _bpe(word: str, merges: list[tuple[str, str]]) -> list[str]:
    pieces = list(word)
    while True:
        pairs = list(pairwise(pieces))
        known = [pair for pair in pairs if pair in merges]
        if not known:
            return pieces
        at = pairs.index(min(known, key=merges.index))
        pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]


def _tokenizer_config(added: dict[str, int]) -> dict[str, object]:
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    return {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(i): {"content": token, **flags, "special": ADDED_TOKENS[token]}
            for token, i in added.items()
        },
        "additional_special_tokens": [t for t, special in ADDED_TOKENS.items() if special][1:],
        "audio_bos_token": "<|audio_start|>",
        "audio_eos_token": "<|audio_end|>",
        "audio_token": "<|audio_pad|>",
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 131072,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
