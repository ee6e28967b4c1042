"""Records what the official qwen-tts package does on tiny random checkpoints.

The project's tests rebuild the same checkpoints with engine.dummy.checkpoint (equal SHA-256, kept
in cases.json) and compare; they never need the official package. To record anew, in an environment
of its own, because the package pins an old transformers:

    python -m venv .venv-oracle
    .venv-oracle/bin/pip install torch==2.13.0 qwen-tts==0.1.1 msgspec
    OMP_NUM_THREADS=1 PYTHONPATH=. .venv-oracle/bin/python tests/golden/make_golden.py

(torch 2.13.0 where it means the CPU build.) The package imports torchaudio, onnxruntime and sox for
a tokenizer that is not used here; torchaudio does not load beside this torch: all are stubbed.

Everything runs in float32 on one CPU thread. Output, beside this file:

cases.json  versions, checkpoints, speech, batches, tokenizer, codec_decoder, voice_encoder
speech.npz  arrays of the speech cases, named "<case id>.<array>"
codec.npz   "reference_pcm" (int16, 24 kHz), arrays of the codec and voice encoder cases

A speech case has the arguments of the official call, then
  strings, ids    the tokenised strings (assistant, instruct, reference), the processor's ids
  num_frames      of the answer; stopped: the end token ended it. Otherwise max_new_tokens did,
                  which is one more than the frames: the last token drawn never becomes a frame
  num_samples     of the wave that the official call returns
  min_margin      greedy only: smallest lead of a chosen logit over the next
  eos_row_from    not null: codec_head.weight[2150] was set to 1.125 x this row for the run
  arrays          codes [F, 16] int16
                  prompt [T, H], trailing [N, H]: inputs of the talker, before the first frame
                  hidden [F, H]: normed talker state that chose each frame
                  with a reference: speaker_embedding [H] and, in context, ref_codes [R, 16] int16
                  in a few, wave: int16, rounded from float x 32767
A reference is samples [start, start + num_samples) of reference_pcm / 32768, taken to be at
sample_rate.
"""

import hashlib
import importlib.machinery
import json
import platform
import shutil
import sys
import tempfile
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from case_table import (
    B7,
    BATCHES,
    CHECKPOINTS,
    ENDING_CASES,
    TEXTS,
    SpeechCase,
    greedy_cases,
    sampled_cases,
)

from engine.dummy.checkpoint import write_random_checkpoint

HERE = Path(__file__).parent
CODEC_EOS = 2150
# Too small a lead would let rounding, which differs between machines, choose the code.
LEAST_MARGIN = 1e-4


Arrays = dict[str, np.ndarray]
Record = dict[str, Any]


def main() -> None:
    official = import_official()
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        checkpoints = {name: write_checkpoint(Path(folder), name) for name in sorted(CHECKPOINTS)}
        models = {name: Oracle(official, Path(folder) / name) for name in sorted(CHECKPOINTS)}
        speech, speech_arrays = record_all_speech(models)
        reference = synthetic_speech()
        codec_arrays: Arrays = {"reference_pcm": reference}
        document = {
            "format": 1,
            "versions": versions(),
            "checkpoints": checkpoints,
            "speech": speech,
            "batches": record_batches(models, speech_arrays),
            "tokenizer": record_tokenizer(Path(folder)),
            "codec_decoder": record_codec_decoder(models[B7], codec_arrays),
            "voice_encoder": record_voice_encoder(models[B7], reference, codec_arrays),
        }
    np.savez_compressed(HERE / "speech.npz", **speech_arrays)
    np.savez_compressed(HERE / "codec.npz", **codec_arrays)
    (HERE / "cases.json").write_text(one_record_a_line(document), encoding="utf-8")


def one_record_a_line(document: Record) -> str:
    def lines(value: Any) -> str:
        if not isinstance(value, list):
            return json.dumps(value, ensure_ascii=False)
        return "[\n" + ",\n".join(json.dumps(x, ensure_ascii=False) for x in value) + "\n]"

    return "{\n" + ",\n".join(f'"{key}": {lines(x)}' for key, x in document.items()) + "\n}\n"


def import_official() -> Any:
    for name in ("sox", "onnxruntime", "torchaudio", "torchaudio.compliance.kaldi"):
        stub_module(name)
    torch.set_num_threads(1)
    from qwen_tts import Qwen3TTSModel

    return Qwen3TTSModel


def stub_module(name: str) -> None:
    parent, _, child = name.rpartition(".")
    if parent and parent not in sys.modules:
        stub_module(parent)
    module = types.ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    sys.modules[name] = module
    if parent:
        setattr(sys.modules[parent], child, module)


def versions() -> Record:
    names = ("torch", "transformers", "qwen-tts", "tokenizers", "librosa", "numpy")
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in names}


def write_checkpoint(folder: Path, name: str) -> Record:
    model_type, shape = name.split("/")
    options = {"model_type": model_type, "shape": shape, "seed": 0, "dtype": "bfloat16"}
    write_random_checkpoint(folder / name, **options)
    files = ("model.safetensors", "speech_tokenizer/model.safetensors", "vocab.json", "merges.txt")
    return options | {"sha256": {file: sha256(folder / name / file) for file in files}}


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def synthetic_speech(num_samples: int = 288000) -> np.ndarray:
    """Twelve seconds of gliding, swelling buzz and a little noise: int16, integer arithmetic only.

    Multiples of 64, so that the file compresses. The 8 is a choice of noise with which no codebook
    search below is nearly a tie.
    """
    t = np.arange(num_samples, dtype=np.int64)
    glide = 120 + np.abs(t // 40 % 240 - 120)  # Hz, a triangle
    phase = np.cumsum(glide) * 65536 // 24000 % 65536
    buzz = np.abs(phase - 32768) - 16384 + (phase * 5 % 65536 - 32768) // 4
    swell = np.abs(t % 9000 - 4500)  # 0 .. 4500, silent every 0.375 s
    noise = (t * t * 7919 + t * 104729 + 8) % 2003 - 1001
    pcm = buzz * swell // 9000 + noise // 2
    return (pcm // 64 * 64).astype(np.int16)


def as_wave(reference: Record) -> tuple[np.ndarray, int]:
    start = reference["start"]
    pcm = synthetic_speech()[start : start + reference["num_samples"]]
    return pcm.astype(np.float32) / np.float32(32768), reference["sample_rate"]


def as_pcm(wave: np.ndarray) -> np.ndarray:
    return np.round(wave.astype(np.float64) * 32767).astype(np.int16)


# ------------------------------------------------------------------------------ one model


class Oracle:
    """The official model of one checkpoint, with taps on what goes in and out of its talker."""

    def __init__(self, official: Any, path: Path) -> None:
        self.tts = official.from_pretrained(str(path), dtype=torch.float32)
        self.codec = self.tts.model.speech_tokenizer
        self.codes: list[torch.Tensor] = []
        self.hidden: list[torch.Tensor] = []
        self.inputs: Record = {}
        self.talker_inputs: Record = {}
        self.talker_logits: list[torch.Tensor] = []
        self.predictor_logits: list[torch.Tensor] = []
        self._tap()

    def _tap(self) -> None:
        model, talker = self.tts.model, self.tts.model.talker
        generate, talker_generate = model.generate, talker.generate

        def tapped_generate(**inputs: Any) -> Any:
            self.inputs = inputs
            self.talker_logits.clear()
            self.predictor_logits.clear()
            self.codes, self.hidden = generate(**inputs)
            return self.codes, self.hidden

        def tapped_talker_generate(**inputs: Any) -> Any:
            self.talker_inputs = inputs
            return talker_generate(**inputs)

        model.generate, talker.generate = tapped_generate, tapped_talker_generate
        talker.codec_head.register_forward_hook(
            lambda module, inputs, output: self.talker_logits.append(output[0, -1].clone())
        )
        for head in talker.code_predictor.lm_head:
            head.register_forward_hook(
                lambda module, inputs, output: self.predictor_logits.append(output[0, -1].clone())
            )

    def speak(self, cases: list[SpeechCase]) -> list[np.ndarray]:
        """Run cases of one kind as one batch; returns the waves."""
        first = cases[0]
        arguments: Record = {
            "text": [case.text for case in cases],
            "language": [case.language for case in cases],
            "non_streaming_mode": not first.streaming_text,
            "max_new_tokens": first.num_frames + 1,
            **first.sampling,
        }
        kind = first.checkpoint.split("/")[0]
        if kind == "custom_voice":
            arguments |= {"speaker": [case.speaker for case in cases]}
        if kind != "base" and first.instruct is not None:
            arguments |= {"instruct": [case.instruct for case in cases]}
        if first.reference is not None:
            prompt = self.voice_prompt(first)
            arguments |= {"voice_clone_prompt": prompt}
        if first.seed is not None:
            torch.manual_seed(first.seed)
        calls = {
            "custom_voice": self.tts.generate_custom_voice,
            "voice_design": self.tts.generate_voice_design,
            "base": self.tts.generate_voice_clone,
        }
        waves, sample_rate = calls[kind](**arguments)
        assert sample_rate == 24000
        return waves

    def voice_prompt(self, case: SpeechCase) -> Any:
        return self.tts.create_voice_clone_prompt(
            as_wave(case.reference), case.ref_text, case.x_vector_only
        )

    @contextmanager
    def end_row(self, like: int | None) -> Iterator[None]:
        """Make the end token's logit 1.125 times that of code `like`, so that speech ends."""
        weight = self.tts.model.talker.codec_head.weight
        before = weight[CODEC_EOS].clone()
        if like is not None:
            weight[CODEC_EOS] = weight[like] * 1.125
        yield
        weight[CODEC_EOS] = before


def lead(logits: torch.Tensor) -> float:
    best, second = logits.topk(2).values.tolist()
    return best - second


def least_margin(oracle: Oracle, case: SpeechCase) -> float | None:
    """Smallest lead over all greedy choices; replays them, to know that the rules are these."""
    if case.seed is not None:
        return None
    penalty = case.sampling.get("repetition_penalty", 1.05)
    chosen: list[int] = []
    leads = [lead(logits) for logits in oracle.predictor_logits]
    for step, logits in enumerate(oracle.talker_logits):
        seen = torch.tensor(sorted(set(chosen)), dtype=torch.long)
        old = logits[seen]
        logits[seen] = torch.where(old < 0, old * penalty, old / penalty)
        end = logits[CODEC_EOS].clone()
        logits[2048:] = -torch.inf
        if step >= 2:
            logits[CODEC_EOS] = end
        leads.append(lead(logits))
        chosen.append(int(logits.argmax()))
    assert chosen[: len(oracle.codes[0])] == oracle.codes[0][:, 0].tolist(), case.id
    return min(leads)


# ------------------------------------------------------------------------------ recordings


def record_all_speech(models: dict[str, Oracle]) -> tuple[list[Record], Arrays]:
    records, arrays = [], {}
    cases = [*greedy_cases(), *sampled_cases()]
    for case in cases:
        record_speech(models[case.checkpoint], case, records, arrays)
    for id, source, frame in ENDING_CASES:
        case = next(case for case in cases if case.id == source)
        row = int(arrays[f"{source}.codes"][frame, 0])
        record_speech(
            models[case.checkpoint], replace(case, id=id, eos_row_from=row), records, arrays
        )
    return records, arrays


def record_speech(oracle: Oracle, case: SpeechCase, records: list[Record], arrays: Arrays) -> None:
    with oracle.end_row(case.eos_row_from):
        [wave] = oracle.speak([case])
    [codes], [hidden] = oracle.codes, oracle.hidden
    margin = least_margin(oracle, case)
    assert margin is None or margin > LEAST_MARGIN, (case.id, margin)
    taken = {
        "codes": codes.numpy().astype(np.int16),
        "hidden": hidden.numpy(),
        "prompt": oracle.talker_inputs["inputs_embeds"][0].numpy(),
        "trailing": oracle.talker_inputs["trailing_text_hidden"][0].numpy(),
    }
    if case.reference is not None:
        [item] = oracle.voice_prompt(case)
        taken["speaker_embedding"] = item.ref_spk_embedding.numpy()
        if item.ref_code is not None:
            taken["ref_codes"] = item.ref_code.numpy().astype(np.int16)
    if case.keep_wave:
        taken["wave"] = as_pcm(wave)
    arrays.update({f"{case.id}.{name}": array for name, array in taken.items()})
    asked = asdict(case)
    limit = asked.pop("num_frames") + 1
    asked.pop("keep_wave")
    asked["sampling"] = asked["sampling"] | {"max_new_tokens": limit}
    records.append(
        asked
        | {
            "strings": tokenised_strings(case, oracle.inputs),
            "ids": token_ids(oracle.inputs),
            "num_frames": len(codes),
            "stopped": len(codes) < limit - 1,
            "num_samples": len(wave),
            "min_margin": margin,
            "arrays": sorted(taken),
        }
    )
    print(case.id, len(codes), margin, file=sys.stderr)


def token_ids(inputs: Record) -> Record:
    """Ids of the assistant, instruct and reference strings as they reached the model."""

    def first(name: str) -> list[int] | None:
        ids = (inputs.get(name) or [None])[0]
        return None if ids is None else ids[0].tolist()

    return {
        "assistant": first("input_ids"),
        "instruct": first("instruct_ids"),
        "reference": first("ref_ids"),
    }


def tokenised_strings(case: SpeechCase, inputs: Record) -> Record:
    ids = token_ids(inputs)
    start, end = "<|im_start|>", "<|im_end|>\n"
    strings = {
        "assistant": f"{start}assistant\n{case.text}{end}{start}assistant\n",
        "instruct": f"{start}user\n{case.instruct}{end}",
        "reference": f"{start}assistant\n{case.ref_text}{end}",
    }
    return {name: text if ids[name] is not None else None for name, text in strings.items()}


def record_batches(models: dict[str, Oracle], arrays: Arrays) -> list[Record]:
    """Cases run together, left-padded: are their codes those of the case alone?"""
    cases = {case.id: case for case in greedy_cases()}
    records = []
    for ids in BATCHES:
        batch = [cases[id] for id in ids]
        oracle = models[batch[0].checkpoint]
        waves = oracle.speak(batch)
        alone = [arrays[f"{id}.codes"] for id in ids]
        equal = [
            bool(np.array_equal(codes.numpy()[: len(want)], want[: len(codes)]))
            for codes, want in zip(oracle.codes, alone, strict=True)
        ]
        records.append({"ids": ids, "equal_alone": equal, "num_samples": [len(w) for w in waves]})
    return records


def record_tokenizer(folder: Path) -> list[Record]:
    """Ids with the stock Qwen2 regex and with the one the package puts in for local directories.

    It does so only for vocabularies of more than 100,000 entries: the second one is padded.
    """
    from transformers import AutoProcessor

    stock = AutoProcessor.from_pretrained(folder / B7, fix_mistral_regex=True)
    padded = folder / "padded"
    shutil.copytree(folder / B7, padded, ignore=shutil.ignore_patterns("*.safetensors"))
    vocab = json.loads((padded / "vocab.json").read_text(encoding="utf-8"))
    vocab |= {f"unused{i}": i for i in range(len(stock.tokenizer), 102000)}
    (padded / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    patched = AutoProcessor.from_pretrained(padded, fix_mistral_regex=True)

    def ids(processor: Any, text: str) -> list[int]:
        if not text:
            return []
        ids = processor(text=text, return_tensors="pt", padding=True)["input_ids"][0].tolist()
        tokens = processor.tokenizer.convert_ids_to_tokens(ids)
        return stock.tokenizer.convert_tokens_to_ids(tokens)  # padding moved the added ones

    return [
        {"text": text, "stock": ids(stock, text), "mistral": ids(patched, text)} for text in TEXTS
    ]


def record_codec_decoder(oracle: Oracle, arrays: Arrays) -> list[Record]:
    """Random codes and the official wave: whole for short ones, selected samples for long ones."""
    records = []
    for num_frames in (1, 2, 3, 7, 24, 40, 300, 330):
        id = f"decode_{num_frames}"
        codes = np.random.Philox(key=num_frames).random_raw(num_frames * 16) % 2048
        codes = codes.astype(np.int64).reshape(num_frames, 16)
        [wave], _ = oracle.codec.decode([{"audio_codes": torch.from_numpy(codes)}])
        arrays[f"{id}.codes"] = codes.astype(np.int16)
        record: Record = {"id": id, "num_frames": num_frames, "num_samples": len(wave)}
        if num_frames <= 40:
            arrays[f"{id}.wave"] = as_pcm(wave)
        else:
            positions = selected_samples(num_frames)
            arrays[f"{id}.positions"] = positions
            arrays[f"{id}.samples"] = wave[positions]
        exact = wave.astype(np.float64)
        record["rms"] = float(np.sqrt(np.mean(exact**2)))
        record["peak"] = float(np.abs(exact).max())
        records.append(record)
    return records


def selected_samples(num_frames: int) -> np.ndarray:
    """Every 97th sample, and all around the start, the chunk border at frame 300 and the end."""
    last = num_frames * 1920
    border = np.arange(300 * 1920 - 480, 300 * 1920 + 480)
    near = np.concatenate([np.arange(480), border, np.arange(last - 480, last)])
    positions = np.union1d(np.arange(0, last, 97), near)
    return positions[positions < last].astype(np.int32)


def record_voice_encoder(oracle: Oracle, pcm: np.ndarray, arrays: Arrays) -> list[Record]:
    """Reference audio -> codes and speaker embedding, lengths on and off the frame grid."""
    records = []
    slices = (
        *((0, 12000, 24000), (0, 24000, 24000), (24000, 24001, 24000), (50000, 30719, 24000)),
        *((50000, 30720, 24000), (50000, 30721, 24000), (100000, 100000, 24000)),
        *((0, 288000, 24000), (0, 32000, 16000), (0, 60000, 44100)),
    )
    for start, num_samples, sample_rate in slices:
        id = f"encode_{start}_{num_samples}_{sample_rate}"
        reference = {"start": start, "num_samples": num_samples, "sample_rate": sample_rate}
        with quantiser_leads() as leads:
            [item] = oracle.tts.create_voice_clone_prompt(as_wave(reference), "x")
        arrays[f"{id}.codes"] = item.ref_code.numpy().astype(np.int16)
        arrays[f"{id}.speaker_embedding"] = item.ref_spk_embedding.numpy()
        margins = torch.stack(leads[:16], dim=1).flatten().sort().values
        records.append(
            {
                "id": id,
                "reference": reference,
                "num_frames": len(item.ref_code),
                "smallest_leads": [round(float(x), 7) for x in margins[:5]],
            }
        )
    return records


@contextmanager
def quantiser_leads() -> Iterator[list[torch.Tensor]]:
    """Collects, per codebook in order of use, by how much the nearest row [F] beats the next."""
    from transformers.models.mimi.modeling_mimi import MimiEuclideanCodebook as Codebook

    quantize, leads = Codebook.quantize, []

    def tapped(self: Any, hidden: torch.Tensor) -> torch.Tensor:
        nearest = torch.cdist(hidden.double(), self.embed.double()).topk(2, largest=False).values
        leads.append(nearest[:, 1] - nearest[:, 0])
        return quantize(self, hidden)

    Codebook.quantize = tapped
    try:
        yield leads
    finally:
        Codebook.quantize = quantize


if __name__ == "__main__":
    main()
