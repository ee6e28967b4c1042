# ruff: noqa: RUF001  (texts of many scripts are the point)
"""What make_golden.py records: speech cases and texts for the tokenizer."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

GREEDY = {"do_sample": False, "subtalker_dosample": False}
LONG_REFERENCE = {"start": 0, "num_samples": 60000, "sample_rate": 24000}  # 32 frames
SHORT_REFERENCE = {"start": 90000, "num_samples": 9600, "sample_rate": 24000}  # 5 frames


@dataclass(frozen=True)
class SpeechCase:
    id: str
    checkpoint: str
    text: str
    num_frames: int
    language: str = "Auto"
    speaker: str | None = None
    instruct: str | None = None
    streaming_text: bool = False
    reference: dict[str, int] | None = None
    ref_text: str | None = None
    x_vector_only: bool = False
    sampling: dict[str, Any] = field(default_factory=lambda: dict(GREEDY))
    seed: int | None = None
    eos_row_from: int | None = None
    keep_wave: bool = False


ENGLISH = "Hello world, you hear speech."
CHINESE = "你好，世界。今天天气很好！"
GERMAN = "Grüße aus München: 12 Uhr."
DEEP = "A deep and calm voice."
CV6, CV7 = "custom_voice/tiny-0b6", "custom_voice/tiny-1b7"
VD6, VD7 = "voice_design/tiny-0b6", "voice_design/tiny-1b7"
B6, B7 = "base/tiny-0b6", "base/tiny-1b7"
CHECKPOINTS = (CV6, CV7, VD6, VD7, B6, B7)
REF_TEXT = "The user is with you."


def custom_voice_cases() -> Iterator[SpeechCase]:
    yield SpeechCase(
        "cv7_english", CV7, ENGLISH, 16, language="English", speaker="Vivian", keep_wave=True
    )
    yield SpeechCase("cv7_auto", CV7, ENGLISH, 16, speaker="ryan")
    yield SpeechCase(
        "cv7_stream", CV7, ENGLISH, 16, language="english", speaker="Aiden", streaming_text=True
    )
    yield SpeechCase("cv7_stream_exhausted", CV7, "Hi!", 24, speaker="Sohee", streaming_text=True)
    yield SpeechCase("cv7_stream_one_token", CV7, "a", 8, speaker="Serena", streaming_text=True)
    yield SpeechCase("cv7_whole_one_token", CV7, "a", 8, speaker="Serena")
    yield SpeechCase(
        "cv7_instruct", CV7, ENGLISH, 12, language="English", speaker="Vivian", instruct="Whisper."
    )
    yield SpeechCase(
        "cv7_instruct_stream",
        CV7,
        CHINESE,
        12,
        language="Chinese",
        speaker="uncle_fu",
        instruct="用悲伤的语气说",
        streaming_text=True,
    )
    yield SpeechCase("cv7_eric_auto", CV7, CHINESE, 10, speaker="Eric")
    yield SpeechCase("cv7_eric_chinese", CV7, CHINESE, 10, language="Chinese", speaker="eric")
    yield SpeechCase(
        "cv7_dylan_auto_stream", CV7, CHINESE, 10, speaker="Dylan", streaming_text=True
    )
    yield SpeechCase("cv7_dylan_english", CV7, ENGLISH, 10, language="English", speaker="Dylan")
    yield SpeechCase(
        "cv7_long", CV7, ENGLISH + " " + GERMAN, 60, language="German", speaker="Ono_Anna"
    )
    yield SpeechCase("cv7_lines", CV7, "Hello\n\nworld\n", 8, language="Korean", speaker="Sohee")
    yield SpeechCase(
        "cv7_special_text", CV7, "Hello <|im_end|> world", 8, language="English", speaker="Ryan"
    )
    yield SpeechCase(
        "cv7_no_penalty",
        CV7,
        ENGLISH,
        24,
        speaker="ryan",
        sampling=GREEDY | {"repetition_penalty": 1.0},
    )
    yield SpeechCase(
        "cv7_penalty",
        CV7,
        ENGLISH,
        24,
        speaker="ryan",
        sampling=GREEDY | {"repetition_penalty": 1.5},
    )
    yield SpeechCase(
        "cv6_english", CV6, ENGLISH, 16, language="English", speaker="Vivian", keep_wave=True
    )
    yield SpeechCase(
        "cv6_stream", CV6, GERMAN, 16, language="German", speaker="Aiden", streaming_text=True
    )
    yield SpeechCase("cv6_auto", CV6, CHINESE, 10, speaker="serena")
    yield SpeechCase(
        "cv6_instruct_dropped",
        CV6,
        ENGLISH,
        10,
        language="English",
        speaker="Vivian",
        instruct="Whisper.",
    )
    yield SpeechCase("cv6_eric_chinese", CV6, CHINESE, 10, language="Chinese", speaker="Eric")
    yield SpeechCase("cv6_dylan_auto", CV6, CHINESE, 10, speaker="Dylan")
    yield SpeechCase("cv6_dylan_english", CV6, ENGLISH, 10, language="English", speaker="Dylan")


def voice_design_cases() -> Iterator[SpeechCase]:
    for size, name in (("6", VD6), ("7", VD7)):
        yield SpeechCase(f"vd{size}_auto", name, ENGLISH, 12, instruct=DEEP)
        yield SpeechCase(f"vd{size}_english", name, ENGLISH, 12, "English", instruct=DEEP)
        yield SpeechCase(
            f"vd{size}_stream",
            name,
            CHINESE,
            12,
            "Chinese",
            instruct="低沉的男声",
            streaming_text=True,
        )
    yield SpeechCase("vd7_auto_stream", VD7, GERMAN, 12, instruct=DEEP, streaming_text=True)
    yield SpeechCase("vd7_no_instruct", VD7, GERMAN, 8, "English", instruct="")


def base_cases() -> Iterator[SpeechCase]:
    x_vector = {"reference": LONG_REFERENCE, "x_vector_only": True}
    long = {"reference": LONG_REFERENCE, "ref_text": REF_TEXT}
    short = {"reference": SHORT_REFERENCE, "ref_text": REF_TEXT}
    for size, name in (("6", B6), ("7", B7)):
        yield SpeechCase(f"base{size}_xvec_whole", name, ENGLISH, 12, "English", **x_vector)
        yield SpeechCase(
            f"base{size}_xvec_stream", name, ENGLISH, 12, streaming_text=True, **x_vector
        )
        yield SpeechCase(f"base{size}_icl_whole", name, ENGLISH, 12, "English", **long)
        yield SpeechCase(
            f"base{size}_icl_stream_text_left",
            name,
            GERMAN,
            12,
            "German",
            streaming_text=True,
            **short,
        )
    yield SpeechCase("base7_icl_whole_auto", B7, CHINESE, 12, **short)
    yield SpeechCase(
        "base7_icl_stream_text_short",
        B7,
        "Hi!",
        12,
        "English",
        streaming_text=True,
        keep_wave=True,
        **long,
    )
    yield SpeechCase("base7_icl_stream_auto", B7, GERMAN, 16, streaming_text=True, **short)
    resampled = LONG_REFERENCE | {"sample_rate": 16000, "num_samples": 30000}
    yield SpeechCase(
        "base7_xvec_resampled", B7, ENGLISH, 8, "English", reference=resampled, x_vector_only=True
    )


def greedy_cases() -> list[SpeechCase]:
    return [*custom_voice_cases(), *voice_design_cases(), *base_cases()]


# Run again with the end token's row made like the code chosen at this frame: (id, source, frame).
# At frame 0 the end token is still held back (two tokens at least).
ENDING_CASES = (
    ("cv7_ends", "cv7_english", 6),
    ("cv7_ends_held_back", "cv7_auto", 0),
    ("vd6_ends", "vd6_english", 3),
    ("base7_icl_ends", "base7_icl_whole", 5),
)
BATCHES = (
    ["cv7_auto", "cv7_whole_one_token", "cv7_eric_auto"],
    ["cv7_stream", "cv7_stream_one_token", "cv7_dylan_auto_stream"],
    ["vd7_auto", "vd7_english"],
)


def sampled_cases() -> Iterator[SpeechCase]:
    """Torch's random numbers: the parameters at work, not something to reproduce elsewhere."""
    cases = {case.id: case for case in greedy_cases()}
    settings = (
        ("cv7_english", 1, {}),
        ("cv7_stream", 2, {"temperature": 1.2, "top_p": 0.8, "subtalker_top_p": 0.7}),
        ("cv6_english", 3, {"top_k": 5, "subtalker_top_k": 3, "subtalker_temperature": 0.5}),
        ("vd7_auto", 4, {"subtalker_dosample": False}),
        ("base7_icl_whole", 5, {"do_sample": False, "subtalker_dosample": True}),
        ("base6_xvec_stream", 6, {"temperature": 0.3, "repetition_penalty": 1.3}),
    )
    for id, seed, sampling in settings:
        sampling = {"do_sample": True, "subtalker_dosample": True} | sampling
        yield replace(cases[id], id=f"{id}_sampled", sampling=sampling, seed=seed, keep_wave=False)


TEXTS = [
    *(
        "",
        "Hello world",
        "HelloWorld iPhone OpenAI's",
        "don'tknow",
        "DON'T you're I'll we'd IT'S",
        "12 345 1.5",
    ),
    *(
        "你好，世界。",
        "今日は、元気？",
        "안녕하세요",
        "Привет, мир!",
        "Grüße",
        "x\u0301 e\u0301 \u00e9",
        "ǅ Ⅷ ½ ٣",
    ),
    *(
        "\U0001f600 ok \U0001f469\u200d\U0001f4bb",
        "a\nb\r\nc\n\n\nd",
        "!\n/ //\n/",
        "  two  spaces \t tab  ",
        " lead",
        "trail ",
    ),
    *(
        "<|im_end|>",
        "<|im_start|>user\n",
        "< |im_end|>",
        "<tts_pad>x<think>",
        "|im_end|>",
        "<|audio_pad|>\n",
        "\u00a0nbsp\u3000wide",
    ),
    *(
        "user assistant",
        "the the the",
        "co-operate; semi:colon (brackets) [x] {y} \"q\" 'q'",
        "\x00\x7f",
        "ﬁ ﬀ ™",
    ),
]
