"""Token ids by which vLLM's prefix cache knows a prompt: equal ids, with an equal salt, mean equal
rows. What they are is of no other use: rows come from our tables.
"""

import hashlib
import itertools

from engine.protocol import Prompt
from engine.runner.prefix_cache import prefix_key
from engine.runner.prompt_embeds import prefix_length

# In place of text ids, which are 0 and above: the text's end, no text, and what precedes it.
END, NOTHING, BEFORE = -1, -2, -3


class PromptIds:
    """The salt stands for everything before the text. A recording has a number in it, which is not
    given again once the recording is forgotten.
    """

    def __init__(self, first: int) -> None:
        """first: ids from there on are no codes, which follow a prompt in the same chain."""
        self._first = first - BEFORE
        self._numbers = itertools.count()
        self._of_reference: dict[str, int] = {}

    def salt(self, prompt: Prompt) -> str:
        reference = prompt.reference or ""
        if reference and reference not in self._of_reference:
            self._of_reference[reference] = next(self._numbers)
        key = (prefix_key(prompt), self._of_reference.get(reference))
        return hashlib.sha256(repr((key, prompt.streaming_text)).encode()).hexdigest()

    def forget(self, reference: str) -> None:
        self._of_reference.pop(reference, None)

    def ids(self, prompt: Prompt, num_tokens: int) -> list[int]:
        """One for each position of a prompt of that length."""
        text = [*prompt.reference_text, *prompt.text, *([] if prompt.text_open else [END])]
        num_before = prefix_length(prompt)
        # Behind or beside it are C(bos) and a recording's frames, known by their place.
        after = text[: num_tokens - num_before]
        ids = [BEFORE] * num_before + after
        ids += [NOTHING] * (num_tokens - len(ids))
        return [self._first + id_ for id_ in ids]
