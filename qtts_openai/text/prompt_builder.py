"""Text -> token ids, in the layouts that the Qwen3-TTS models were trained with.

In: a text, perhaps an instruction, a language, speakers and the text of a reference. Out: a Prompt
of ids (engine.protocol). A text is tokenised together with its chat template and cut out by
position, because the tokenizer may merge characters of both. The control tokens are added by id, so
a text that spells one stays text. What is tokenised, and which ids of it are kept:

    <|im_start|>assistant\\n{text}<|im_end|>\\n<|im_start|>assistant\\n   role [:3], text [3:-5]
    <|im_start|>assistant\\n{reference text}<|im_end|>\\n                 reference_text [3:-2]
    <|im_start|>user\\n{instruction}<|im_end|>\\n                         instruct, all of it
"""

import json
import re
from pathlib import Path
from typing import Literal

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE

from engine import CheckpointError, ModelInfo, Prompt
from qtts_openai.errors import invalid
from qtts_openai.text.duration_estimate import expected_frames

QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
MISTRAL_SPLIT = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

IM_START, IM_END = "<|im_start|>", "<|im_end|>"

Pretokenizer = Literal["qwen", "mistral"]

# ISO 639-1 codes, and the letters Kokoro's clients send as lang_code.
_LANGUAGE_CODES = {
    "zh": "chinese",
    "en": "english",
    "ja": "japanese",
    "jp": "japanese",
    "ko": "korean",
    "de": "german",
    "fr": "french",
    "ru": "russian",
    "pt": "portuguese",
    "es": "spanish",
    "it": "italian",
    "a": "english",
    "b": "english",
    "e": "spanish",
    "f": "french",
    "i": "italian",
    "j": "japanese",
    "p": "portuguese",
    "z": "chinese",
}


def load_tokenizer(directory: Path, pretokenizer: Pretokenizer = "qwen") -> Tokenizer:
    """Qwen2's byte-level BPE from vocab.json, merges.txt and the added tokens of
    tokenizer_config.json.
    """
    files = [directory / name for name in ("vocab.json", "merges.txt", "tokenizer_config.json")]
    for file in files:
        if not file.is_file():
            raise CheckpointError(f"{file} is missing; the text tokenizer needs it")
    try:
        model = BPE.from_file(str(files[0]), str(files[1]))
    except Exception as error:  # the library raises nothing narrower
        raise CheckpointError(f"{files[0]} and merges.txt cannot be read: {error}") from error
    tokenizer = Tokenizer(model)
    split = Regex(QWEN_SPLIT if pretokenizer == "qwen" else MISTRAL_SPLIT)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(split, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    _add_tokens(tokenizer, files[2])
    return tokenizer


def _add_tokens(tokenizer: Tokenizer, config: Path) -> None:
    try:
        added = json.loads(config.read_text("utf-8")).get("added_tokens_decoder", {})
    except (ValueError, AttributeError) as error:
        raise CheckpointError(f"{config} cannot be read: {error}") from error
    for number, fields in sorted(added.items(), key=lambda item: int(item[0])):
        # All are special, also those that a file says are not, such as <think>: see PromptBuilder.
        tokenizer.add_tokens([AddedToken(**{**fields, "special": True})])
        got = tokenizer.token_to_id(fields["content"])
        if got != int(number):
            raise CheckpointError(
                f"{config}: token {fields['content']!r} has id {got}, the file says {number}"
            )


def find_language(name: str, model: ModelInfo, lenient: bool = False) -> str:
    """A language of `model` by English name or code, any case ("English", "en", "en-US"); "auto"
    stays so.

    `lenient` takes what is unknown as auto.
    """
    wanted = name.strip().lower() or "auto"
    wanted = (
        _LANGUAGE_CODES.get(wanted) or _LANGUAGE_CODES.get(re.split("[-_]", wanted)[0]) or wanted
    )
    spoken = languages_of(model)
    if lenient and wanted not in spoken:
        return "auto"
    if wanted != "auto" and wanted not in spoken:
        known = ", ".join(["Auto", *(language.title() for language in spoken)])
        raise invalid(
            f"language: model {model.id!r} does not speak {name!r}; use one of {known}.", "language"
        )
    return wanted


def languages_of(model: ModelInfo) -> list[str]:
    """What a request may name; dialects are reached only through their speakers."""
    return [language for language in model.languages if not language.endswith("_dialect")]


class PromptBuilder:
    """Builds prompts for one loaded checkpoint."""

    def __init__(self, model: ModelInfo, pretokenizer: Pretokenizer = "qwen") -> None:
        self.model = model
        self.tokenizer = load_tokenizer(Path(model.path), pretokenizer)
        # From here on what looks like an added token is only text.
        self.tokenizer.encode_special_tokens = True
        self._start, self._end = self._control_id(IM_START), self._control_id(IM_END)

    def build(
        self,
        text: str,
        *,
        language: str = "auto",
        instruct: str | None = None,
        speakers: tuple[tuple[int, float], ...] = (),
        reference: str | None = None,
        reference_text: str | None = None,
        streaming_text: bool = False,
    ) -> Prompt:
        """`language` as find_language gives it; `speakers` are (codec row, weight)."""
        ids = (*self._turn("assistant", text), self._start, *self._ids("assistant\n"))
        return Prompt(
            role=ids[:3],
            text=ids[3:-5],
            instruct=self._turn("user", instruct) if instruct else (),
            language_id=self._language_id(language, speakers),
            speakers=speakers,
            reference=reference,
            reference_text=self._reference_ids(reference_text) if reference_text else (),
            streaming_text=streaming_text,
            expected_frames=expected_frames(text),
        )

    def text_ids(self, segment: str) -> tuple[int, ...]:
        """Of a part of a text that begins where a token does: with the space before a word."""
        return self._ids(segment)

    def _reference_ids(self, text: str) -> tuple[int, ...]:
        return self._turn("assistant", text)[3:-2]

    def _control_id(self, token: str) -> int:
        number = self.tokenizer.token_to_id(token)
        if number is None:
            raise CheckpointError(f"{self.model.path}: tokenizer_config.json lacks {token}")
        return number

    def _turn(self, role: str, text: str) -> tuple[int, ...]:
        return (self._start, *self._ids(f"{role}\n{text}"), self._end, *self._ids("\n"))

    def _language_id(self, language: str, speakers: tuple[tuple[int, float], ...]) -> int | None:
        """A speaker of a dialect speaks it where the language is auto or Chinese."""
        if language in ("auto", "chinese") and len(speakers) == 1:
            names = {row: name for name, row in self.model.speakers.items()}
            language = self.model.speaker_dialects.get(names[speakers[0][0]], language)
        return None if language == "auto" else self.model.languages[language]

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(text, add_special_tokens=False).ids)
