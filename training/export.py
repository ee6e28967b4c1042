"""Trained weights -> checkpoint directories in the official layout.

    python -m training.export [OUT] [--families voice_design,base] [--codec codec.pt]

OUT is engine/data unless it is named. Three families from one talker: named voices, described
voices, and cloning, which adds the speaker encoder. In engine/data CustomVoice has the codec of
all, and the engine knows; elsewhere each has its own. bfloat16 throughout to stay small. The codec
encoder is a stand-in of the right names and shapes: these codes are not learnt from sound, so there
is nothing to encode with, and Base says that it has no use for a transcript.
"""

import argparse
import json
import shutil
from pathlib import Path

import msgspec
import torch
from safetensors.torch import save_file

from engine.models.speaker_encoder import SpeakerEncoder
from training.codec_model import CONFIG as DECODER
from training.codec_model import CodecDecoder
from training.speaker_train import CONFIG as SPEAKER_ENCODER
from training.talker_model import CONTROL, ENGLISH, PREDICTOR, SPEAKER_ROWS, TALKER, Talker
from training.tokenizer import Tokenizer

WORK = Path(__file__).parent / "work"
SHIPPED = Path(__file__).parent.parent / "engine" / "data"
ENCODER = {
    "_frame_rate": 12.5,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "audio_channels": 1,
    "codebook_dim": 4,
    "codebook_size": 64,
    "compress": 2,
    "dilation_growth_rate": 2,
    "dtype": "float32",
    "head_dim": 8,
    "hidden_act": "gelu",
    "hidden_size": 16,
    "initializer_range": 0.02,
    "intermediate_size": 16,
    "kernel_size": 7,
    "last_kernel_size": 3,
    "layer_scale_initial_scale": 0.01,
    "max_position_embeddings": 8000,
    "model_type": "mimi",
    "norm_eps": 1e-05,
    "num_attention_heads": 2,
    "num_filters": 2,
    "num_hidden_layers": 1,
    "num_key_value_heads": 2,
    "num_quantizers": 32,
    "num_residual_layers": 1,
    "num_semantic_quantizers": 1,
    "pad_mode": "constant",
    "residual_kernel_size": 3,
    "rope_theta": 10000.0,
    "sampling_rate": 24000,
    "sliding_window": 250,
    "trim_right_ratio": 1.0,
    "upsample_groups": 16,
    "upsampling_ratios": [8, 6, 5, 4],
    "use_cache": False,
    "use_causal_conv": True,
    "use_conv_shortcut": False,
    "use_streaming": False,
    "vector_quantization_hidden_dimension": 4,
}
GENERATION = {
    "do_sample": True,
    "repetition_penalty": 1.0,
    "temperature": 0.3,
    "top_p": 1.0,
    "top_k": 5,
    "subtalker_dosample": False,
    "subtalker_temperature": 0.3,
    "subtalker_top_p": 1.0,
    "subtalker_top_k": 5,
    "max_new_tokens": 1500,
}


def encoder_shapes(c):
    """Name -> shape of the codec encoder's tensors."""
    hidden, inner, width, size = (
        c["hidden_size"],
        c["intermediate_size"],
        c["codebook_dim"],
        c["codebook_size"],
    )
    shapes, top = {}, c["num_filters"]

    def conv(name, *shape):
        shapes[f"encoder.encoder.layers.{name}.conv.weight"] = shape
        shapes[f"encoder.encoder.layers.{name}.conv.bias"] = shape[:1]

    conv("0", top, 1, c["kernel_size"])
    for i, rate in enumerate(reversed(c["upsampling_ratios"])):
        conv(f"{3 * i + 1}.block.1", top // 2, top, 3)
        conv(f"{3 * i + 1}.block.3", top, top // 2, 1)
        conv(f"{3 * i + 3}", 2 * top, top, 2 * rate)
        top *= 2
    conv("14", hidden, top, c["last_kernel_size"])
    for i in range(c["num_hidden_layers"]):
        prefix = f"encoder.encoder_transformer.layers.{i}."
        shapes |= {f"{prefix}self_attn.{p}_proj.weight": (hidden, hidden) for p in "qkvo"}
        shapes |= {
            f"{prefix}mlp.fc1.weight": (inner, hidden),
            f"{prefix}mlp.fc2.weight": (hidden, inner),
        }
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes |= {f"{prefix}{norm}.weight": (hidden,), f"{prefix}{norm}.bias": (hidden,)}
        shapes |= {f"{prefix}{s}_layer_scale.scale": (hidden,) for s in ("self_attn", "mlp")}
    shapes["encoder.downsample.conv.weight"] = (hidden, hidden, 4)
    for branch, count in (("semantic", 1), ("acoustic", c["num_quantizers"] - 1)):
        prefix = f"encoder.quantizer.{branch}_residual_vector_quantizer."
        shapes |= {
            f"{prefix}input_proj.weight": (width, hidden, 1),
            f"{prefix}output_proj.weight": (hidden, width, 1),
        }
        for i in range(count):
            book = f"{prefix}layers.{i}.codebook."
            shapes |= {
                f"{book}initialized": (1,),
                f"{book}cluster_usage": (size,),
                f"{book}embed_sum": (size, width),
            }
    return shapes


def stand_in_encoder():
    torch.manual_seed(0)
    ones = ("initialized", "cluster_usage", "layernorm.weight")
    return {
        name: torch.ones(shape) if name.endswith(ones) else 0.1 * torch.randn(shape)
        for name, shape in encoder_shapes(ENCODER).items()
    }


def main_config(tok, family):
    sections = DECODER["head_dim"] // 2
    common = {
        "attention_bias": False,
        "attention_dropout": 0,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "sliding_window": None,
        "use_cache": True,
        "use_sliding_window": False,
    }
    predictor = (
        common
        | PREDICTOR
        | {
            "layer_types": ["full_attention"] * PREDICTOR["num_hidden_layers"],
            "max_position_embeddings": 65536,
            "model_type": "qwen3_tts_talker_code_predictor",
            "rope_scaling": None,
        }
    )
    talker = (
        common
        | TALKER
        | CONTROL
        | {
            "code_predictor_config": predictor,
            "codec_language_id": {"english": ENGLISH},
            "spk_id": SPEAKER_ROWS if family == "custom_voice" else {},
            "spk_is_dialect": dict.fromkeys(SPEAKER_ROWS, False)
            if family == "custom_voice"
            else {},
            "max_position_embeddings": 32768,
            "model_type": "qwen3_tts_talker",
            "position_id_per_seconds": 13,
            "rope_scaling": {
                "interleaved": True,
                "rope_type": "default",
                "type": "default",
                "mrope_section": [sections - 20, 10, 10],
            },
        }
    )
    extra = {}
    if family == "base":
        extra = {
            "speaker_encoder_config": msgspec.to_builtins(SPEAKER_ENCODER),
            "qtts_uses_ref_text": False,
        }
    return extra | {
        "architectures": ["Qwen3TTSForConditionalGeneration"],
        "assistant_token_id": tok.vocab["assistant"],
        "im_end_token_id": tok.added["<|im_end|>"],
        "im_start_token_id": tok.added["<|im_start|>"],
        "tts_bos_token_id": tok.added["<tts_text_bos>"],
        "tts_eos_token_id": tok.added["<tts_text_eod>"],
        "tts_pad_token_id": tok.added["<tts_pad>"],
        "model_type": "qwen3_tts",
        "tokenizer_type": "qwen3_tts_tokenizer_12hz",
        "tts_model_size": "tiny",
        "tts_model_type": family,
        "talker_config": talker,
        "transformers_version": "4.57.3",
    }


def codec_config():
    return {
        "architectures": ["Qwen3TTSTokenizerV2Model"],
        "model_type": "qwen3_tts_tokenizer_12hz",
        "encoder_valid_num_quantizers": 16,
        "input_sample_rate": 24000,
        "output_sample_rate": 24000,
        "decode_upsample_rate": 1920,
        "encode_downsample_rate": 1920,
        "decoder_config": DECODER,
        "encoder_config": ENCODER,
        "transformers_version": "4.57.3",
    }


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n")


def write_weights(path, tensors):
    save_file(
        {k: v.detach().to(torch.bfloat16).contiguous() for k, v in tensors.items()},
        path,
        metadata={"format": "pt"},
    )
    path.chmod(0o644)  # safetensors makes it the writer's alone


def speaker_tensors(state):
    """The speaker encoder's tensors under the official names."""
    model = SpeakerEncoder(SPEAKER_ENCODER)
    model.load_state_dict(state)
    return {name: parameter.view for name, parameter in model.weight_map()}


def write_checkpoint(out, tok, family, tensors):
    """A checkpoint directory without its codec."""
    out.mkdir(parents=True, exist_ok=True)
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        shutil.copy(WORK / "tokenizer" / name, out / name)
    write_json(out / "config.json", main_config(tok, family))
    write_json(out / "generation_config.json", GENERATION)
    write_json(
        out / "preprocessor_config.json",
        {
            "padding_side": "left",
            "padding_value": 0.0,
            "processor_class": "Qwen3TTSProcessor",
            "return_attention_mask": True,
        },
    )
    write_weights(out / "model.safetensors", tensors)


def write_codec(codec_dir, codec):
    codec_dir.mkdir(parents=True, exist_ok=True)
    write_json(codec_dir / "config.json", codec_config())
    write_json(
        codec_dir / "configuration.json", {"framework": "pytorch", "task": "feature-extraction"}
    )
    write_json(
        codec_dir / "preprocessor_config.json",
        {
            "chunk_length_s": None,
            "feature_extractor_type": "EncodecFeatureExtractor",
            "feature_size": 1,
            "overlap": None,
            "padding_side": "right",
            "padding_value": 0.0,
            "return_attention_mask": True,
            "sampling_rate": 24000,
        },
    )
    write_weights(codec_dir / "model.safetensors", codec.exported() | stand_in_encoder())


def parse():
    args = argparse.ArgumentParser()
    args.add_argument("out", nargs="?", type=Path, default=SHIPPED)
    args.add_argument("--families", default="custom_voice,voice_design,base")
    args.add_argument("--codec", default="codec.pt", help="in work/")
    return args.parse_args()


def without_breath(codec):
    """Breathy voices are sung as clear ones: with the noise that the codec has learnt for them,
    two to five times as many words are misheard. A whisper stays one.
    """
    rows = codec.tables.data[15]
    rows[8:16] = rows[16:24] = rows[:8].clone()
    return codec


def main():
    args = parse()
    tok, talker, codec = Tokenizer(), Talker(), CodecDecoder()
    files = {"talker": "talker.pt", "codec": args.codec, "speaker": "speaker.pt"}
    states = {name: torch.load(WORK / f, map_location="cpu") for name, f in files.items()}
    talker.load_state_dict(states["talker"]["model"])
    codec.load_state_dict(states["codec"]["model"])
    codec = without_breath(codec)
    if args.out == SHIPPED:
        steps = {name: state["step"] for name, state in states.items()}
        write_json(WORK.parent / "state.json", steps)  # for restore.py
        write_codec(SHIPPED / "custom_voice" / "speech_tokenizer", codec)
    for family in args.families.split(","):
        tensors = {f"talker.{k}": v for k, v in talker.state_dict().items()}
        if family == "base":
            tensors |= speaker_tensors(states["speaker"]["model"])
        write_checkpoint(args.out / family, tok, family, tensors)
        if args.out != SHIPPED:
            write_codec(args.out / family / "speech_tokenizer", codec)
    size = sum(p.stat().st_size for p in args.out.rglob("*") if p.is_file())
    print(f"{args.out}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
