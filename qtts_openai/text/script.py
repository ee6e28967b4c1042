"""A request's text -> what is spoken, part by part.

In: the text as it was sent, the model and the language. Out: a Script: texts to speak (cleaned,
figures in words, cut where the model cannot hold more) and between them seconds of silence.
"""

import math
from collections.abc import Callable, Mapping

import msgspec

from engine import FRAME_S, ModelInfo
from qtts_openai.errors import invalid
from qtts_openai.schemas import SpeechRequest
from qtts_openai.settings import Settings
from qtts_openai.text import characters, pipeline, scripts
from qtts_openai.text.pauses import Part, split_pauses
from qtts_openai.text.pipeline import TextOptions
from qtts_openai.text.prompt_builder import languages_of
from qtts_openai.text.pronounce import pronounce
from qtts_openai.text.segments import Size, split_sentences

# An utterance that is expected to fill this share of a model's frames has room to be slower.
SHARE_OF_FRAMES = 0.5
# Silence costs what speaking for as long would, in characters.
CHARS_PER_S = 15


Preparer = Callable[[Mapping[str, str], str], str]


class Script(msgspec.Struct, frozen=True):
    """`unspoken`: scripts of letters that the model has no sound for. `num_chars`: what it counts
    for a limit: the text as sent, what pronunciations add to it, and silence.
    """

    parts: tuple[Part, ...]
    unspoken: tuple[str, ...]
    num_chars: int


class ScriptWriter:
    def __init__(self, settings: Settings) -> None:
        self.limits = settings.limits
        self.options = settings.text
        self.models = {model.id: model for model in settings.models}

    def check(self, request: SpeechRequest) -> None:
        """What was sent is what limits are about; no step has touched it yet."""
        longest = max(self.limits.max_input_chars, self.options.max_long_chars)
        check_length(request.input, longest, "input")
        check_length(request.instructions or "", self.limits.max_instructions_chars, "instructions")
        check_length(request.ref_text or "", self.limits.max_input_chars, "ref_text")
        if not characters.has_text(request.input):
            raise _nothing_to_speak()

    def write(self, request: SpeechRequest, model: ModelInfo, language: str) -> Script:
        """Takes up to half a second for the longest texts: not on the event loop."""
        options = self._text_options(request, model)
        language = _spoken_language(request.input, model, language)
        parts: list[Part] = []
        num_chars = float(len(request.input))
        for part in self._pauses(request):
            if isinstance(part, float):
                num_chars += CHARS_PER_S * part
            else:
                part, added = self._prepare(part, request, options, language)
                num_chars += added
            parts.append(part)
        parts = [part for part in parts if isinstance(part, float) or part.strip()]
        texts = [part for part in parts if isinstance(part, str)]
        if not texts:
            raise _nothing_to_speak()
        unspoken = self._unspoken("\n".join(texts), model)
        pieces = split_sentences(parts, self._size(request, model), language)
        return Script(tuple(pieces), unspoken, math.ceil(num_chars))

    def preparer(self, request: SpeechRequest, model: ModelInfo, language: str) -> Preparer:
        """For text that comes in segments: nothing that looks at more than one of them. The first
        argument is words and how to say them.
        """
        options = self._text_options(request, model)
        skip = (*options.skip, "wrapped_lines", "line_marks", "last_mark")
        options = msgspec.structs.replace(options, skip=skip)

        def prepare(said: Mapping[str, str], text: str) -> str:
            spoken = _spoken_language(text, model, language)
            text = pronounce(pipeline.clean(text, options, spoken), said)
            return pipeline.speakable(text, options, spoken)

        return prepare

    def _pauses(self, request: SpeechRequest) -> list[Part]:
        options = self.options
        use_tags = options.pause_tags if request.pause_tags is None else request.pause_tags
        if not use_tags:
            return [request.input]
        return split_pauses(request.input, options.max_pause_s, options.max_total_pause_s)

    def _text_options(self, request: SpeechRequest, model: ModelInfo) -> TextOptions:
        of_model = self.models[model.id].normalize if model.id in self.models else None
        options = self.options
        return TextOptions(
            request.normalize or of_model or options.normalize,
            options.skip_steps,
            options.emoji,
            options.code_blocks,
        )

    def _prepare(
        self, text: str, request: SpeechRequest, options: TextOptions, language: str
    ) -> tuple[str, int]:
        """-> the text as it is spoken, and how many characters pronunciations added."""
        text = pipeline.clean(text, options, language)
        said = {**self.options.pronunciations, **request.pronunciations}
        spoken = pronounce(text, said)
        longest = max(self.limits.max_input_chars, self.options.max_long_chars)
        if spoken is not text:
            check_length(spoken, 2 * longest, "pronunciations")
        return pipeline.speakable(spoken, options, language), max(0, len(spoken) - len(text))

    def _unspoken(self, text: str, model: ModelInfo) -> tuple[str, ...]:
        languages = languages_of(model)
        found = scripts.unspoken(text, languages)
        refuses = self.options.unknown_scripts == "refuse"
        if found and refuses and scripts.is_all_unspoken(text, languages):
            names = ", ".join(name.title() for name in languages)
            message = f"input: model {model.id!r} speaks {names} and has no sound for this script"
            raise invalid(f"{message} ({', '.join(found)}).", "input", "unsupported_script")
        return found

    def _size(self, request: SpeechRequest, model: ModelInfo) -> Size:
        """How long a piece may be. A request that limits the frames of its utterance means one,
        unless its text is a long one.
        """
        is_long = len(request.input) > self.limits.max_input_chars
        chars: list[float] = [self.options.segment_chars] if is_long else []
        if request.max_new_tokens is not None:
            return Size(*chars)
        of_model = self.models[model.id].segment_chars if model.id in self.models else None
        chars += [of_model] if of_model is not None else []
        seconds = min(self.options.segment_s, SHARE_OF_FRAMES * model.max_frames * FRAME_S)
        return Size(min(chars, default=float("inf")), seconds)


def check_length(text: str, limit: int, param: str) -> None:
    if len(text) > limit:
        message = f"{param}: {len(text)} characters, and at most {limit} are accepted."
        raise invalid(message, param, "string_above_max_length")


def _nothing_to_speak() -> Exception:
    return invalid("input: there is no text to speak.", "input", "empty_string")


def _spoken_language(text: str, model: ModelInfo, language: str) -> str:
    """The one the request names, or the only one of the model, or what the script looks like."""
    if language != "auto":
        return language
    languages = languages_of(model)
    return languages[0] if len(languages) == 1 else pipeline.guess(text)
