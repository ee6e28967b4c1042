"""Keys and values of prompt beginnings that come again: instruction, voice and language.

An application speaks with one voice and one instruction all day; only the text is new. What comes
before the text is prefilled once and copied from then on.
"""

from collections import OrderedDict
from collections.abc import Callable

from torch import Tensor

from engine.protocol import Prompt
from engine.runner.prompt_embeds import prefix_length

# KV positions kept in all: for the published checkpoints 115 kB each.
MAX_PREFIX_TOKENS = 1024

Key = tuple[object, ...]
# slots(n): a sequence's KV slots of positions 0 .. n - 1; asked for only when something is copied.
Slots = Callable[[int], Tensor]


def prefix_key(prompt: Prompt) -> Key:
    """Prompts of equal keys begin with the same rows."""
    return (prompt.reference, prompt.role, prompt.instruct, prompt.language_id, prompt.speakers)


class PrefixCache:
    """The least recently used go first."""

    def __init__(self, kv_cache: Tensor) -> None:
        """kv_cache [layers, 2, num_blocks, block_size, kv_heads, D], one checkpoint's."""
        self.slots_of = kv_cache.flatten(2, 3)  # [layers, 2, slots, kv_heads, D], a view
        self.kept: OrderedDict[Key, Tensor] = OrderedDict()

    def restore(self, prompt: Prompt, slots: Slots) -> int:
        """Write a known beginning to the sequence's slots; its length, or 0."""
        known = self.kept.get(prefix_key(prompt))
        if known is None:
            return 0
        self.kept.move_to_end(prefix_key(prompt))
        length = known.shape[2]
        self.slots_of[:, :, slots(length)] = known
        return length

    def keep(self, prompt: Prompt, slots: Slots) -> None:
        """Remember the beginning of a prompt that has just been prefilled into its slots."""
        key, length = prefix_key(prompt), prefix_length(prompt)
        if key in self.kept or length > MAX_PREFIX_TOKENS:
            return
        self.kept[key] = self.slots_of[:, :, slots(length)].clone()
        while sum(kept.shape[2] for kept in self.kept.values()) > MAX_PREFIX_TOKENS:
            self.kept.popitem(last=False)

    def forget(self, reference: str) -> None:
        """Drop the beginnings that hold a reference voice."""
        for key in [key for key in self.kept if key[0] == reference]:
            del self.kept[key]
