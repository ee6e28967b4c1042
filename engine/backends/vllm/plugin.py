"""What vLLM loads in every process, by the entry point `vllm.general_plugins`: how it reads the
official config.json, and which class runs it.
"""

from typing import Any

from transformers import AutoConfig, Qwen3Config
from vllm import ModelRegistry

ARCHITECTURE = "Qwen3TTSForConditionalGeneration"


class Qwen3TTSConfig(Qwen3Config):
    """config.json, whose talker vLLM sees as a plain Qwen3; `talker_config` is kept as it stands.

    The talker's three multimodal position rows are always equal, which is plain rotation.
    """

    model_type = "qwen3_tts"

    def __init__(self, talker_config: dict[str, Any] | None = None, **others: Any) -> None:
        talker = talker_config or {}
        layers = {k: v for k, v in talker.items() if k in LAYER_KEYS}
        rope = {"rope_type": "default", "rope_theta": talker.get("rope_theta", 1e6)}
        others = {k: v for k, v in others.items() if k not in ("rope_parameters", *LAYER_KEYS)}
        super().__init__(**layers, rope_parameters=rope, tie_word_embeddings=False, **others)
        self.talker_config = talker
        self.architectures = [ARCHITECTURE]


LAYER_KEYS = (
    "attention_bias",
    "head_dim",
    "hidden_act",
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "rms_norm_eps",
    "vocab_size",
)


def register() -> None:
    AutoConfig.register("qwen3_tts", Qwen3TTSConfig, exist_ok=True)
    if ARCHITECTURE not in ModelRegistry.get_supported_archs():
        ModelRegistry.register_model(ARCHITECTURE, "engine.backends.vllm.model:TalkerForVllm")
