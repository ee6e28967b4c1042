"""A Submit (what the client wants) -> a Sequence (what the scheduler runs).

In: ids and sampling parameters, some of them None. Out: a Sequence with the checkpoint's defaults
filled in, the length of its prompt in tokens, and its frame budget: how many frames of 80 ms it may
take. The budget is fixed here, once, because a sequence reserves KV blocks for all of it when it
starts. No tensors. Raises InvalidPromptError for what cannot run.
"""

import math
import random
from typing import TypeVar

from engine.config import EngineConfig, Sampling
from engine.errors import InvalidPromptError
from engine.loader.checkpoint import Checkpoint
from engine.models.config import GenerationConfig
from engine.protocol import FRAMES_PER_TOKEN, Prompt, SamplingParams, Submit
from engine.runner.prompt_embeds import prompt_shape
from engine.scheduler.sequence import Sequence

# A guard cut below this share of the expected frames to fit memory would cut speech.
MIN_FACTOR = 1.5


def build_sequence(
    submit: Submit,
    checkpoint: Checkpoint,
    config: EngineConfig,
    max_tokens: int,
    num_ref_frames: int,
) -> Sequence:
    """`max_tokens`: KV positions that the memory has for one sequence.

    InvalidPromptError names the request's field when the prompt cannot run on this checkpoint or
    in this memory.
    """
    prompt = submit.prompt
    _check(prompt, checkpoint)
    num_prompt_tokens, num_trailing = prompt_shape(prompt, num_ref_frames)
    room = min(config.max_model_len, max_tokens) - num_prompt_tokens
    max_frames = _frame_budget(submit, checkpoint.generation, config, room)
    return Sequence(
        id=submit.id,
        model=submit.model,
        prompt=prompt,
        sampling=_sampling(submit.params, checkpoint.generation),
        num_prompt_tokens=num_prompt_tokens,
        max_frames=max_frames,
        num_trailing=min(num_trailing, max_frames),
        text_open=prompt.text_open,
        is_alone=submit.is_alone,
        guarded=submit.params.max_new_tokens is None,
    )


def _check(prompt: Prompt, checkpoint: Checkpoint) -> None:
    c = checkpoint.config.talker_config
    text_ids = prompt.role + prompt.text + prompt.instruct + prompt.reference_text
    codec_ids = [row for row, _ in prompt.speakers]
    if prompt.language_id is not None:
        codec_ids.append(prompt.language_id)
    if not prompt.text:
        raise InvalidPromptError("there is no text to speak", param="input")
    check_text(text_ids, checkpoint)
    if not all(0 <= i < c.vocab_size for i in codec_ids):
        raise InvalidPromptError(
            "a speaker or language id lies outside the codec vocabulary", param="voice"
        )
    if not all(math.isfinite(weight) for _, weight in prompt.speakers):
        raise InvalidPromptError("a speaker's weight is not a number", param="voice")
    if prompt.text_open and (not prompt.streaming_text or prompt.reference_text):
        raise InvalidPromptError(
            "live text needs the streaming-text layout without a reference transcript",
            param="input",
        )


def check_text(ids: tuple[int, ...], checkpoint: Checkpoint) -> None:
    if not all(0 <= i < checkpoint.config.talker_config.text_vocab_size for i in ids):
        raise InvalidPromptError(
            "a text id lies outside the checkpoint's vocabulary", param="input"
        )


def _frame_budget(
    submit: Submit, generation: GenerationConfig, config: EngineConfig, room: int
) -> int:
    """Most frames this utterance may have. N sampled tokens give N - 1 frames."""
    asked = submit.params.max_new_tokens
    if asked is not None:
        if asked < 2:
            raise InvalidPromptError("max_new_tokens must be at least 2", param="max_new_tokens")
        least = frames = min(asked - 1, config.max_frames)
    elif submit.prompt.text_open:
        frames = min(config.open_text_frames, config.max_frames)
        least = frames // 4
    else:
        prompt = submit.prompt
        expected = prompt.expected_frames or FRAMES_PER_TOKEN * len(prompt.text)
        guard = config.guard_frames_base + math.ceil(config.guard_factor * expected)
        frames = min(guard, generation.max_new_tokens - 1, config.max_frames)
        least = min(frames, math.ceil(MIN_FACTOR * expected))
    if least > room:
        raise InvalidPromptError(
            f"the text needs room for {least} frames of speech and the engine has {max(room, 0)}: "
            "shorten it, or raise engine.kv_cache_memory",
            param="input" if asked is None else "max_new_tokens",
        )
    return min(frames, room)


def _sampling(params: SamplingParams, defaults: GenerationConfig) -> Sampling:
    """Request over generation_config.json. A request's temperature 0 makes both nets greedy."""
    temperature = _or(params.temperature, defaults.temperature if defaults.do_sample else 0.0)
    subtalker = defaults.subtalker_temperature if defaults.subtalker_dosample else 0.0
    if params.temperature == 0:
        subtalker = 0.0
    return Sampling(
        temperature=temperature,
        top_k=_or(params.top_k, defaults.top_k),
        top_p=_or(params.top_p, defaults.top_p),
        repetition_penalty=_or(params.repetition_penalty, defaults.repetition_penalty),
        subtalker_temperature=_or(params.subtalker_temperature, subtalker),
        subtalker_top_k=_or(params.subtalker_top_k, defaults.subtalker_top_k),
        subtalker_top_p=_or(params.subtalker_top_p, defaults.subtalker_top_p),
        seed=params.seed if params.seed is not None else random.getrandbits(63),
        ignore_eos=params.ignore_eos,
    )


T = TypeVar("T")


def _or(value: T | None, default: T) -> T:
    return default if value is None else value
