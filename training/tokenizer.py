"""Byte-level BPE in the Qwen2 file format, small enough that most tokens are two or three letters.

    python -m training.tokenizer [--merges 400]
    -> work/tokenizer/{vocab.json,merges.txt,tokenizer_config.json}

Streaming text feeds one token per 80 ms frame, so tokens must run ahead of the speech: about
2.5 characters per token do, single characters would not.
"""

import argparse
import json
from collections import Counter
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import regex

WORK = Path(__file__).parent / "work"
PIECES = regex.compile(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PLAIN = [
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
]
ADDED = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
    *PLAIN,
    "<|audio_start|>",
    "<|audio_end|>",
    "<tts_pad>",
    "<tts_text_bos>",
    "<tts_text_eod>",
    "<tts_text_bos_single>",
    "<|audio_pad|>",
]


def byte_symbols():
    """Byte value -> the printable character that stands for it in byte-level BPE files."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {b: chr(b) for b in printable}
    for b in range(256):
        table.setdefault(b, chr(256 + len(table) - len(printable)))
    return table


SYMBOL = byte_symbols()


def to_symbols(piece):
    return [SYMBOL[b] for b in piece.encode()]


def merge_once(parts, pair):
    out, i = [], 0
    while i < len(parts):
        if i + 1 < len(parts) and (parts[i], parts[i + 1]) == pair:
            out.append(parts[i] + parts[i + 1])
            i += 2
        else:
            out.append(parts[i])
            i += 1
    return out


def learn(texts, count):
    words = Counter(p for t in texts for p in PIECES.findall(t))
    words = [(to_symbols(w), n) for w, n in words.items()]
    merges = []
    while len(merges) < count:
        pairs = Counter()
        for parts, n in words:
            for pair in pairwise(parts):
                pairs[pair] += n
        best = max(pairs, key=lambda p: (pairs[p], p))
        merges.append(best)
        words = [(merge_once(parts, best) if best[0] in parts else parts, n) for parts, n in words]
    for word in ("assistant", "user"):  # the prompt template needs each as one token
        parts = split(word, merges)
        while len(parts) > 1:
            merges.append((parts[0], parts[1]))
            parts = split(word, merges)
    return merges


def split(piece, merges):
    ranks = {pair: i for i, pair in enumerate(merges)}
    parts = to_symbols(piece)
    while len(parts) > 1:
        best = min(pairwise(parts), key=lambda p: ranks.get(p, 1 << 30))
        if best not in ranks:
            break
        parts = merge_once(parts, best)
    return parts


class Tokenizer:
    def __init__(self, folder=WORK / "tokenizer"):
        self.vocab = json.loads((folder / "vocab.json").read_text())
        lines = (folder / "merges.txt").read_text().splitlines()[1:]
        self.merges = [tuple(line.split(" ")) for line in lines if line]
        self.added = {t: len(self.vocab) + i for i, t in enumerate(ADDED)}
        self.size = len(self.vocab) + len(ADDED)
        self.piece_ids = lru_cache(maxsize=200_000)(self._piece_ids)

    def _piece_ids(self, piece):
        parts = split(piece, self.merges)
        return [self.vocab[p] for p in parts], [len(p) for p in parts]

    def encode(self, text):
        """Plain text -> (ids, number of bytes of each)."""
        ids, widths = [], []
        for piece in PIECES.findall(text):
            a, b = self.piece_ids(piece)
            ids += a
            widths += b
        return ids, widths

    def role(self):
        return [self.added["<|im_start|>"], self.vocab["assistant"], self.vocab[SYMBOL[10]]]


def save(folder, merges):
    folder.mkdir(parents=True, exist_ok=True)
    vocab = {SYMBOL[b]: b for b in range(256)}
    for a, b in merges:
        vocab.setdefault(a + b, len(vocab))
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    decoder = {
        str(len(vocab) + i): {
            "content": t,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": t not in PLAIN,
        }
        for i, t in enumerate(ADDED)
    }
    extra = [t for t in ADDED if t not in PLAIN and t != "<|endoftext|>"]
    config = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": decoder,
        "additional_special_tokens": extra,
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
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--merges", type=int, default=400)
    args = args.parse_args()
    texts = [
        t
        for b in ("examples", "closed")
        for t in (WORK / "text" / f"{b}.txt").read_text().splitlines()
    ]
    merges = learn(texts, args.merges)
    save(WORK / "tokenizer", merges)
    tok = Tokenizer()
    n = sum(len(tok.encode(t)[0]) for t in texts[:5000])
    print(f"{tok.size} tokens, {sum(map(len, texts[:5000])) / n:.2f} characters per token")
    print(tok.role(), [split(w, merges) for w in (" neighbour", " through", "Good", " photograph")])


if __name__ == "__main__":
    main()
