"""config.json of a checkpoint, decoded into frozen structs. Unknown keys are the official package's
and are ignored.
"""

import json
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from engine.errors import CheckpointError


class DecoderConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What the talker's and the code predictor's Qwen3 layers have in common."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1_000_000.0
    vocab_size: int


class PredictorConfig(DecoderConfig, frozen=True, kw_only=True):
    num_code_groups: int = 16


class TalkerConfig(DecoderConfig, frozen=True, kw_only=True):
    code_predictor_config: PredictorConfig
    text_hidden_size: int
    text_vocab_size: int
    num_code_groups: int = 16
    codec_bos_id: int
    codec_eos_token_id: int
    codec_pad_id: int
    codec_think_id: int
    codec_nothink_id: int
    codec_think_bos_id: int
    codec_think_eos_id: int
    codec_language_id: dict[str, int]
    spk_id: dict[str, int] = {}
    spk_is_dialect: dict[str, str | bool] = {}

    @property
    def num_codes(self) -> int:
        """Codebook-0 codes: the rows of the codec vocabulary before the 1,024 control rows."""
        return self.vocab_size - 1024


def layer_weights(c: DecoderConfig) -> int:
    """Weights of a net's decoder layers that every pass multiplies with."""
    heads = (2 * c.num_attention_heads + 2 * c.num_key_value_heads) * c.head_dim
    return c.num_hidden_layers * c.hidden_size * (heads + 3 * c.intermediate_size)


class SpeakerEncoderConfig(msgspec.Struct, frozen=True, kw_only=True):
    enc_dim: int
    sample_rate: int = 24_000
    mel_dim: int = 128
    enc_channels: tuple[int, ...] = (512, 512, 512, 512, 1536)
    enc_kernel_sizes: tuple[int, ...] = (5, 3, 3, 3, 1)
    enc_dilations: tuple[int, ...] = (1, 2, 3, 4, 1)
    enc_attention_channels: int = 128
    enc_res2net_scale: int = 8
    enc_se_channels: int = 128


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Top level of config.json."""

    model_type: Literal["qwen3_tts"]
    tts_model_type: Literal["custom_voice", "voice_design", "base"]
    tts_model_size: str
    tokenizer_type: Literal["qwen3_tts_tokenizer_12hz"]
    tts_pad_token_id: int
    tts_bos_token_id: int
    tts_eos_token_id: int
    talker_config: TalkerConfig
    speaker_encoder_config: SpeakerEncoderConfig | None = None
    qtts_random_weights: bool = False
    qtts_speaker_gains_db: dict[str, float] = {}
    qtts_uses_ref_text: bool = True

    @property
    def supports_instruct(self) -> bool:
        """Base takes none; the small CustomVoice was not trained on them, and the official package
        drops them there."""
        small_custom = self.tts_model_type == "custom_voice" and self.tts_model_size == "0b6"
        return self.tts_model_type != "base" and not small_custom


class GenerationConfig(msgspec.Struct, frozen=True, kw_only=True):
    """generation_config.json: the sampling defaults of a checkpoint."""

    do_sample: bool = True
    repetition_penalty: float = 1.05
    temperature: float = 0.9
    top_p: float = 1.0
    top_k: int = 50
    subtalker_dosample: bool = True
    subtalker_temperature: float = 0.9
    subtalker_top_p: float = 1.0
    subtalker_top_k: int = 50
    max_new_tokens: int = 2048


class CodecDecoderConfig(msgspec.Struct, frozen=True, kw_only=True):
    latent_dim: int
    codebook_dim: int
    codebook_size: int
    decoder_dim: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10_000.0
    sliding_window: int = 72
    num_quantizers: int = 16
    upsample_rates: tuple[int, ...] = (8, 5, 4, 3)
    upsampling_ratios: tuple[int, ...] = (2, 2)


class CodecConfig(msgspec.Struct, frozen=True, kw_only=True):
    """speech_tokenizer/config.json. `encoder_config` stays a dict: it is the Mimi configuration of
    transformers.
    """

    model_type: Literal["qwen3_tts_tokenizer_12hz"]
    encoder_valid_num_quantizers: int = 16
    output_sample_rate: int = 24_000
    decode_upsample_rate: int = 1_920
    decoder_config: CodecDecoderConfig
    encoder_config: dict[str, Any]


T = TypeVar("T")


def read_config(path: Path, type_: type[T]) -> T:
    """Decode one JSON file; CheckpointError names the file and the offending key."""
    try:
        return msgspec.convert(json.loads(path.read_bytes()), type_, strict=False)
    except FileNotFoundError:
        raise CheckpointError(
            f"{path}: file is missing; is {path.parent} a complete checkpoint?"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: not valid JSON ({error})") from None
    except msgspec.ValidationError as error:
        raise CheckpointError(f"{path}: {error}") from None
