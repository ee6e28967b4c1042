"""The CustomVoice prompt of the official models, whole text or token by token."""

from talker_model import CONTROL, ENGLISH, SPEAKERS

C = CONTROL


def build(tok, body, speaker, english, streaming):
    """-> text and codec ids of the prompt (-1 = none), the frames' text ids, place of body[0]."""
    pad, bos, eos = (tok.added[t] for t in ("<tts_pad>", "<tts_text_bos>", "<tts_text_eod>"))
    if english:
        head = [C["codec_think_id"], C["codec_think_bos_id"], ENGLISH, C["codec_think_eos_id"]]
    else:
        head = [C["codec_nothink_id"], C["codec_think_bos_id"], C["codec_think_eos_id"]]
    head += [list(SPEAKERS.values())[speaker], C["codec_pad_id"]]
    text = tok.role() + [pad] * (len(head) - 1) + [bos]
    codec = [-1] * 3 + head
    start = len(text)
    if streaming:
        return text + body[:1], [*codec, C["codec_bos_id"]], [*body[1:], eos], start
    text += [*body, eos, pad]
    codec += [C["codec_pad_id"]] * (len(body) + 1) + [C["codec_bos_id"]]
    return text, codec, [], start
