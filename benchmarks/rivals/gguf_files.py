"""A checkpoint as qwentts.cpp reads it: talker.gguf and codec.gguf. Run by versus.py with the
Python of that rival's environment, which has numpy and gguf; imports nothing of this project.

    python gguf_files.py CHECKPOINT FOLDER --form Q8_0

Matrices of talker, predictor and the codec's transformer take the form, as the rival's own files
do; tables of codes, norms and biases stay float32, convolutions are float16. Of the codec only what
decodes is written: nothing is cloned here.
"""

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, quants  # type: ignore[import-not-found]
from gguf_names import CODEC, TALKER, renamed  # beside this file

BLOCK = 32  # weights that share a scale


def tensors(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Of a safetensors file, in float32; numpy has no bfloat16."""
    size = int(np.fromfile(path, "<u8", 1)[0])
    with path.open("rb") as file:
        file.seek(8)
        header = json.loads(file.read(size))
    data = np.memmap(path, np.uint8, "r", 8 + size)
    for name, about in header.items():
        if name == "__metadata__":
            continue
        raw = data[slice(*about["data_offsets"])]
        if about["dtype"] == "BF16":
            values = (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)
        elif about["dtype"] in ("F32", "F16"):
            values = raw.view({"F32": "<f4", "F16": "<f2"}[about["dtype"]]).astype(np.float32)
        else:
            continue  # counters
        yield name, values.reshape(about["shape"])


def add(writer: GGUFWriter, name: str, values: np.ndarray, form: str) -> None:
    kind = GGMLQuantizationType[form]
    if values.ndim == 3 and "vq_" not in name:
        writer.add_tensor(name, values.astype(np.float16))
    elif values.ndim == 2 and "codebook" not in name and values.shape[1] % BLOCK == 0:
        writer.add_tensor(name, quants.quantize(values, kind), raw_dtype=kind)
    else:
        writer.add_tensor(name, values)


def put(writer: GGUFWriter, prefix: str, values: dict[str, Any]) -> None:
    for name, value in values.items():
        key = f"{prefix}.{name}"
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        elif value and isinstance(value[0], int):
            writer.add_key_value(key, list(value), *array_of_u32())
        elif value:
            writer.add_array(key, value)


def array_of_u32() -> tuple[Any, Any]:
    from gguf import GGUFValueType

    return GGUFValueType.ARRAY, GGUFValueType.UINT32


def shape_of(c: dict[str, Any]) -> dict[str, Any]:
    return {
        "embedding_length": c["hidden_size"],
        "feed_forward_length": c["intermediate_size"],
        "block_count": c["num_hidden_layers"],
        "attention.head_count": c["num_attention_heads"],
        "attention.head_count_kv": c["num_key_value_heads"],
        "attention.key_length": c["head_dim"],
        "attention.layer_norm_rms_epsilon": float(c["rms_norm_eps"]),
        "vocab_size": c["vocab_size"],
        "rope.freq_base": float(c["rope_theta"]),
    }


def write_talker(source: Path, target: Path, form: str) -> None:
    config = json.loads((source / "config.json").read_text())
    c, writer = config["talker_config"], GGUFWriter(target, "qwen3-tts")
    about = {
        "tokenizer_type": config["tokenizer_type"],
        "model_size": config["tts_model_size"],
        "model_type": config["tts_model_type"],
        "num_code_groups": c["num_code_groups"],
    }
    put(writer, "qwen3-tts", about)
    rope = {"rope.mrope_section": [24, 20, 20], "rope.mrope_interleaved": False}
    put(writer, "qwen3-tts.talker", shape_of(c) | rope)
    put(writer, "qwen3-tts.code_pred", shape_of(c["code_predictor_config"]))
    codec = {f"{n}_id": c[f"codec_{n}_id"] for n in ("pad", "bos", "think", "nothink")}
    codec |= {f"think_{n}_id": c[f"codec_think_{n}_id"] for n in ("bos", "eos")}
    languages, speakers = c["codec_language_id"], c["spk_id"]
    codec |= {
        "eos_id": c["codec_eos_token_id"],
        "language_names": list(languages),
        "language_ids": list(languages.values()),
        "speaker_names": list(speakers),
        "speaker_ids": [one[0] if isinstance(one, list) else one for one in speakers.values()],
        "speaker_dialects": [c["spk_is_dialect"].get(one) or "" for one in speakers],
    }
    put(writer, "qwen3-tts.codec", codec)
    names = ("im_start", "im_end", "tts_pad", "tts_bos", "tts_eos")
    put(writer, "qwen3-tts.text", {f"{n}_id": config[f"{n}_token_id"] for n in names})
    put(writer, "generation", json.loads((source / "generation_config.json").read_text()))
    vocab = json.loads((source / "vocab.json").read_text("utf-8"))
    known = {number: token for token, number in vocab.items()}
    extra = json.loads((source / "tokenizer_config.json").read_text("utf-8"))
    known |= {int(n): t["content"] for n, t in extra.get("added_tokens_decoder", {}).items()}
    tokens = [known.get(number, f"[{number}]") for number in range(max(known) + 1)]
    merges = (source / "merges.txt").read_text("utf-8").splitlines()
    merges = [line for line in merges if line and not line.startswith("#version")]
    put(writer, "tokenizer.ggml", {"model": "gpt2", "tokens": tokens, "merges": merges})
    for name, values in tensors(source / "model.safetensors"):
        if not name.startswith("speaker_encoder."):
            add(writer, renamed(name, TALKER), values, form)
    finish(writer)


def write_codec(source: Path, target: Path, form: str) -> None:
    c = json.loads((source / "config.json").read_text())["decoder_config"]
    writer = GGUFWriter(target, "qwen3-tts-tokenizer")
    known = {k: v for k, v in c.items() if isinstance(v, int | float) and k != "rope_theta"}
    known |= {"rope_theta": float(c["rope_theta"]), "rms_norm_eps": float(c["rms_norm_eps"])}
    known |= {
        "codebook_dim_internal": c["codebook_dim"] // 2,
        "vector_quantization_hidden_dim": c["codebook_dim"],
    }
    put(writer, "qwen3-tts-tokenizer.decoder", known)
    sums: dict[str, np.ndarray] = {}
    usage: dict[str, np.ndarray] = {}
    for name, values in tensors(source / "model.safetensors"):
        if book := re.match(r"decoder\.quantizer\.rvq_(\w+)\.vq\.layers\.(\d+)\._codebook\.", name):
            kept = usage if name.endswith("cluster_usage") else sums
            kept[f"tok_dec.vq_{book[1]}.{book[2]}.codebook"] = values
        elif name.startswith("decoder.") and ".input_proj." not in name.partition("quantizer")[2]:
            add(writer, renamed(name, CODEC), values, form)
    for name, total in sums.items():
        add(writer, name, total / np.maximum(usage[name], 1e-5)[:, None], form)
    finish(writer)


def finish(writer: GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--form", choices=("BF16", "Q8_0", "Q4_0"), default="Q8_0")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    write_talker(args.checkpoint, args.folder / "talker.gguf", args.form)
    write_codec(args.checkpoint / "speech_tokenizer", args.folder / "codec.gguf", args.form)


if __name__ == "__main__":
    main()
