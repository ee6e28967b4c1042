"""The configs of Qwen3-TTS checkpoints, of published and tiny shapes, for random weights.

A tiny shape keeps every id, name and branch of the published one of its size (1.7B: the code
predictor is narrower than the talker and has a projection; 0.6B: equal widths, none) and shrinks
widths, depths and the text vocabulary only.
"""

from typing import Any, Literal

ModelType = Literal["custom_voice", "voice_design", "base"]
Shape = Literal["tiny-0b6", "tiny-1b7", "0.6B", "1.7B"]
Config = dict[str, Any]

# config.json carries this key, so that its loader can say that it makes noise.
MARKER = "qtts_random_weights"

_LANGUAGES = {
    "chinese": 2055, "english": 2050, "german": 2053, "italian": 2070, "portuguese": 2071,
    "spanish": 2054, "japanese": 2058, "korean": 2064, "french": 2061, "russian": 2069,
    "beijing_dialect": 2074, "sichuan_dialect": 2062,
}  # fmt: skip
_SPEAKERS = {
    "serena": 3066, "vivian": 3065, "uncle_fu": 3010, "ryan": 3061, "aiden": 2861,
    "ono_anna": 2873, "sohee": 2864, "eric": 2875, "dylan": 2878,
}  # fmt: skip
_DIALECTS = {"eric": "sichuan_dialect", "dylan": "beijing_dialect"}


def random_checkpoint_config(model_type: ModelType, shape: Shape, tokens: dict[str, int]) -> Config:
    """The content of config.json. `tokens` maps words and added tokens of the tokenizer to ids."""
    tiny = shape.startswith("tiny")
    config = {
        "architectures": ["Qwen3TTSForConditionalGeneration"],
        "model_type": "qwen3_tts",
        MARKER: True,
        "tokenizer_type": "qwen3_tts_tokenizer_12hz",
        "tts_model_size": "0b6" if shape in ("tiny-0b6", "0.6B") else "1b7",
        "tts_model_type": model_type,
        "assistant_token_id": tokens["assistant"],
        "im_start_token_id": tokens["<|im_start|>"],
        "im_end_token_id": tokens["<|im_end|>"],
        "tts_pad_token_id": tokens["<tts_pad>"],
        "tts_bos_token_id": tokens["<tts_text_bos>"],
        "tts_eos_token_id": tokens["<tts_text_eod>"],
        "talker_config": _talker_config(model_type, shape, 640 if tiny else 151936),
        "transformers_version": "4.57.3",
    }
    if model_type == "base":
        config["speaker_encoder_config"] = _speaker_encoder_config(shape)
    return config


def _talker_config(model_type: ModelType, shape: Shape, text_vocab_size: int) -> Config:
    if shape.startswith("tiny"):
        widths = _decoder_widths(64, 128, layers=3, heads=4, kv_heads=2, head_dim=32)
        sections, text_hidden = [6, 5, 5], 48
    else:
        hidden = 1024 if shape == "0.6B" else 2048
        widths = _decoder_widths(hidden, 3 * hidden, layers=28, heads=16, kv_heads=8, head_dim=128)
        sections, text_hidden = [24, 20, 20], 2048
    speakers = _SPEAKERS if model_type == "custom_voice" else {}
    return {
        **widths,
        "model_type": "qwen3_tts_talker",
        "code_predictor_config": _code_predictor_config(shape),
        "vocab_size": 3072,
        "num_code_groups": 16,
        "text_vocab_size": text_vocab_size,
        "text_hidden_size": text_hidden,
        "max_position_embeddings": 32768,
        "position_id_per_seconds": 13,
        "rope_scaling": {
            "interleaved": True,
            "mrope_section": sections,
            "rope_type": "default",
            "type": "default",
        },
        "codec_pad_id": 2148,
        "codec_bos_id": 2149,
        "codec_eos_token_id": 2150,
        "codec_think_id": 2154,
        "codec_nothink_id": 2155,
        "codec_think_bos_id": 2156,
        "codec_think_eos_id": 2157,
        "codec_language_id": _LANGUAGES,
        "spk_id": speakers,
        "spk_is_dialect": {name: _DIALECTS.get(name, False) for name in speakers},
    }


def _code_predictor_config(shape: Shape) -> Config:
    if shape.startswith("tiny"):
        hidden = 64 if shape == "tiny-0b6" else 32
        widths = _decoder_widths(hidden, 64, layers=2, heads=4, kv_heads=2, head_dim=16)
    else:
        widths = _decoder_widths(1024, 3072, layers=5, heads=16, kv_heads=8, head_dim=128)
    return {
        **widths,
        "model_type": "qwen3_tts_talker_code_predictor",
        "layer_types": ["full_attention"] * widths["num_hidden_layers"],
        "vocab_size": 2048,
        "num_code_groups": 16,
        "max_position_embeddings": 65536,
        "rope_scaling": None,
    }


def _decoder_widths(
    hidden: int, intermediate: int, *, layers: int, heads: int, kv_heads: int, head_dim: int
) -> Config:
    return {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "attention_bias": False,
        "attention_dropout": 0,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000,
        "sliding_window": None,
        "use_cache": True,
        "use_sliding_window": False,
    }


def _speaker_encoder_config(shape: Shape) -> Config:
    if not shape.startswith("tiny"):
        return {"enc_dim": 1024 if shape == "0.6B" else 2048, "sample_rate": 24000}
    return {
        "enc_dim": 64,
        "sample_rate": 24000,
        "mel_dim": 128,
        "enc_channels": [32, 32, 32, 32, 96],
        "enc_kernel_sizes": [5, 3, 3, 3, 1],
        "enc_dilations": [1, 2, 3, 4, 1],
        "enc_attention_channels": 16,
        "enc_res2net_scale": 8,
        "enc_se_channels": 16,
    }


def random_codec_config(shape: Shape) -> Config:
    """The content of speech_tokenizer/config.json."""
    tiny = shape.startswith("tiny")
    return {
        "architectures": ["Qwen3TTSTokenizerV2Model"],
        "model_type": "qwen3_tts_tokenizer_12hz",
        "encoder_valid_num_quantizers": 16,
        "input_sample_rate": 24000,
        "output_sample_rate": 24000,
        "encode_downsample_rate": 1920,
        "decode_upsample_rate": 1920,
        "decoder_config": _codec_decoder_config(tiny),
        "encoder_config": _codec_encoder_config(tiny),
        "transformers_version": "4.57.3",
    }


def _codec_decoder_config(tiny: bool) -> Config:
    return {
        "latent_dim": 48 if tiny else 1024,
        "codebook_dim": 32 if tiny else 512,
        "codebook_size": 2048,
        "decoder_dim": 64 if tiny else 1536,
        "hidden_size": 32 if tiny else 512,
        "intermediate_size": 64 if tiny else 1024,
        "num_hidden_layers": 2 if tiny else 8,
        "num_attention_heads": 4 if tiny else 16,
        "num_key_value_heads": 4 if tiny else 16,
        "head_dim": 16 if tiny else 64,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "layer_scale_initial_scale": 0.01,
        "max_position_embeddings": 8000,
        "num_quantizers": 16,
        "num_semantic_quantizers": 1,
        "rms_norm_eps": 1e-05,
        "rope_theta": 10000,
        "semantic_codebook_size": 4096,
        "sliding_window": 72,
        "upsample_rates": [8, 5, 4, 3],
        "upsampling_ratios": [2, 2],
        "vector_quantization_hidden_dimension": 32 if tiny else 512,
    }


def _codec_encoder_config(tiny: bool) -> Config:
    return {
        "model_type": "mimi",
        "_frame_rate": 12.5,
        "sampling_rate": 24000,
        "audio_channels": 1,
        "hidden_size": 32 if tiny else 512,
        "intermediate_size": 64 if tiny else 2048,
        "num_filters": 4 if tiny else 64,
        "num_hidden_layers": 2 if tiny else 8,
        "num_attention_heads": 2 if tiny else 8,
        "num_key_value_heads": 2 if tiny else 8,
        "head_dim": 16 if tiny else 64,
        "upsample_groups": 32 if tiny else 512,
        "codebook_dim": 16 if tiny else 256,
        "vector_quantization_hidden_dimension": 16 if tiny else 256,
        "codebook_size": 2048,
        "num_quantizers": 32,
        "num_semantic_quantizers": 1,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "compress": 2,
        "dilation_growth_rate": 2,
        "dtype": "float32",
        "hidden_act": "gelu",
        "initializer_range": 0.02,
        "kernel_size": 7,
        "last_kernel_size": 3,
        "residual_kernel_size": 3,
        "layer_scale_initial_scale": 0.01,
        "max_position_embeddings": 8000,
        "norm_eps": 1e-05,
        "num_residual_layers": 1,
        "pad_mode": "constant",
        "rope_theta": 10000.0,
        "sliding_window": 250,
        "trim_right_ratio": 1.0,
        "upsampling_ratios": [8, 6, 5, 4],
        "use_cache": False,
        "use_causal_conv": True,
        "use_conv_shortcut": False,
        "use_streaming": False,
    }


GENERATION_CONFIG: Config = {
    "do_sample": True,
    "repetition_penalty": 1.05,
    "temperature": 0.9,
    "top_p": 1.0,
    "top_k": 50,
    "subtalker_dosample": True,
    "subtalker_temperature": 0.9,
    "subtalker_top_p": 1.0,
    "subtalker_top_k": 50,
    "max_new_tokens": 8192,
}
PREPROCESSOR_CONFIG: Config = {
    "padding_side": "left",
    "padding_value": 0.0,
    "processor_class": "Qwen3TTSProcessor",
    "return_attention_mask": True,
}
CODEC_PREPROCESSOR_CONFIG: Config = {
    "feature_extractor_type": "EncodecFeatureExtractor",
    "feature_size": 1,
    "sampling_rate": 24000,
    "padding_side": "right",
    "padding_value": 0.0,
    "return_attention_mask": True,
    "chunk_length_s": None,
    "overlap": None,
}
CODEC_CONFIGURATION: Config = {"framework": "pytorch", "task": "feature-extraction"}
