"""The shipped checkpoint -> work/*.pt, so that training goes on from it on another machine.

    python -m training.restore [CHECKPOINT]      default ../engine/data/base, which has all nets

The tokenizer comes along. The optimisers start anew; the schedules continue at the steps noted in
state.json, which export.py writes.
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from engine.loader.checkpoint import codec_weights
from engine.models.speaker_encoder import SpeakerEncoder
from training.codec_model import CodecDecoder
from training.codec_train import ShapeHeads
from training.speaker_train import CONFIG as SPEAKER_ENCODER
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
    default = HERE.parent / "engine" / "data" / "base"
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else default
    steps = json.loads((HERE / "state.json").read_text())
    (WORK / "tokenizer").mkdir(parents=True, exist_ok=True)
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        shutil.copy(source / name, WORK / "tokenizer" / name)
    talker, codec = Talker(), CodecDecoder()
    tensors = {k: t.float() for k, t in load_file(source / "model.safetensors").items()}
    spoken = {k: t for k, t in tensors.items() if k.startswith("talker.")}
    talker.load_state_dict({k.removeprefix("talker."): t for k, t in spoken.items()})
    codec.load_state_dict(codec_state(load_file(codec_weights(source))))
    torch.save({"model": talker.state_dict(), "step": steps["talker"]}, WORK / "talker.pt")
    if len(spoken) < len(tensors):
        speaker = SpeakerEncoder(SPEAKER_ENCODER)
        for name, parameter in speaker.weight_map():
            parameter.view.copy_(tensors[name])
        state = {"model": speaker.state_dict(), "step": steps["speaker"]}
        torch.save(state, WORK / "speaker.pt")
    heads = ShapeHeads(codec.config["latent_dim"]).state_dict()
    state = {"model": codec.state_dict(), "heads": heads, "step": steps["codec"]}
    torch.save(state, WORK / "codec.pt")


if __name__ == "__main__":
    main()
