"""The prompts of the official models, whole text or token by token, for all three families."""

from typing import NamedTuple

import numpy as np

from training.talker_model import CONTROL, ENGLISH

C = CONTROL
NEWLINE = "Ċ"


class Prompt(NamedTuple):
    """Text and codec ids of the prompt (-1 = none), the frames' text ids, place of the first text
    token, place of a speaker embedding (-1 = none), frames of a reference at the prompt's end.
    """

    text: list[int]
    codec: list[int]
    trailing: list[int]
    start: int
    vector_at: int
    reference: np.ndarray
    pad: int  # the text id beside a frame that has no text


def instruction(tok, words):
    """<|im_start|>user\\n...<|im_end|>\\n"""
    newline = tok.vocab[NEWLINE]
    head = [tok.added["<|im_start|>"], tok.vocab["user"], newline]
    return [*head, *tok.encode(words)[0], tok.added["<|im_end|>"], newline]


def build(tok, body, *, speaker=None, vector=False, instruct="", english, streaming, heard=None):
    """`speaker`: a codec row. `heard`: text ids and codes [R, 16] of a reference."""
    pad, bos, eos = (tok.added[t] for t in ("<tts_pad>", "<tts_text_bos>", "<tts_text_eod>"))
    if english:
        head = [C["codec_think_id"], C["codec_think_bos_id"], ENGLISH, C["codec_think_eos_id"]]
    else:
        head = [C["codec_nothink_id"], C["codec_think_bos_id"], C["codec_think_eos_id"]]
    before = (instruction(tok, instruct) if instruct else []) + tok.role()
    vector_at = len(before) + len(head) if vector else -1
    head += [-1] if vector else [speaker] if speaker is not None else []
    head.append(C["codec_pad_id"])
    text = before + [pad] * (len(head) - 1) + [bos]
    codec = [-1] * len(before) + head
    start = len(text)
    heard_text, reference = heard if heard is not None else ([], np.zeros((0, 16), np.uint8))
    spoken = [C["codec_bos_id"], *(int(code) for code in reference[:, 0])]
    body, start = [*heard_text, *body], start + len(heard_text)
    if streaming:
        now, trailing = [*body, eos][: len(spoken)], [*body, eos][len(spoken) :]
        text += now + [pad] * (len(spoken) - len(now))
        return Prompt(text, codec + spoken, trailing, start, vector_at, reference, pad)
    text += [*body, eos] + [pad] * len(spoken)
    codec += [C["codec_pad_id"]] * (len(body) + 1) + spoken
    return Prompt(text, codec, [], start, vector_at, reference, pad)
