"""The shipped checkpoint -> work/*.pt, so that training goes on from it on another machine.

    python -m training.restore [CHECKPOINT]      default ../engine/data/voice

The tokenizer comes along. The optimisers start anew; the schedules continue at the steps noted in
state.json, which export.py writes.
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from training.codec_model import CodecDecoder
from training.codec_train import ShapeHeads
from training.talker_model import Talker

HERE = Path(__file__).parent
WORK = HERE / "work"


def codec_state(tensors):
    """Official names -> the names of codec_model.CodecDecoder."""
    state = {
        name.removeprefix("decoder."): t
        for name, t in tensors.items()
        if name.startswith("decoder.") and ".quantizer." not in name
    }
    book = "decoder.quantizer.rvq_{}.vq.layers.{}._codebook.embedding_sum"
    tables = [tensors[book.format("first", 0)]]
    tables += [tensors[book.format("rest", i)] for i in range(15)]
    state["tables"] = torch.stack(tables)
    for branch in ("first", "rest"):
        project = tensors[f"decoder.quantizer.rvq_{branch}.output_proj.weight"]
        state[f"{branch}_out.weight"] = project[..., 0]
    return {name: t.float() for name, t in state.items()}


def main():
    default = HERE.parent / "engine" / "data" / "voice"
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else default
    steps = json.loads((HERE / "state.json").read_text())
    (WORK / "tokenizer").mkdir(parents=True, exist_ok=True)
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        shutil.copy(source / name, WORK / "tokenizer" / name)
    talker, codec = Talker(), CodecDecoder()
    tensors = load_file(source / "model.safetensors")
    tensors = {k: t.float() for k, t in tensors.items() if k.startswith("talker.")}
    talker.load_state_dict({k.removeprefix("talker."): t for k, t in tensors.items()})
    codec.load_state_dict(codec_state(load_file(source / "speech_tokenizer" / "model.safetensors")))
    torch.save({"model": talker.state_dict(), "step": steps["talker"]}, WORK / "talker.pt")
    heads = ShapeHeads(codec.config["latent_dim"]).state_dict()
    state = {"model": codec.state_dict(), "heads": heads, "step": steps["codec"]}
    torch.save(state, WORK / "codec.pt")


if __name__ == "__main__":
    main()
