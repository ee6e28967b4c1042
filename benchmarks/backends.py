"""The talker engines beside one another, on this machine, in one run.

    .venv-vllm/bin/python -m benchmarks.backends            (vLLM's environment has both)

For each, in a process of its own, with the voice in the box: the time from a process that has torch
to a ready engine, steps and frames a second of 1 and of 8 utterances (the talker alone) and the CPU
time of a step, the time to the first audio (with an instruction of 200 tokens that was never heard,
or was), and the most memory. The machine's other load is part
of what is measured; it is printed.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

# With vLLM the predictor has no compiled layers on a CPU; "own, torch" does without them too.
BACKENDS = {
    "own": {},
    "own, torch": {"kernels": "torch"},
    "vllm": {"backend": "vllm"},
}
SENTENCE = tuple(range(40, 70))


def measure(backend: str, num_frames: int) -> dict[str, float]:
    import torch

    from engine.config import EngineConfig, ModelSpec, VllmOptions
    from engine.protocol import AudioChunk, Prompt, SamplingParams, Submit
    from engine.startup import build

    config = EngineConfig(
        **BACKENDS[backend],  # type: ignore[arg-type]
        vllm=VllmOptions(enforce_eager=True),
        device="cpu",
        max_num_seqs=8,
        threads=1,
    )
    began = time.monotonic()
    core, ready = build(config, [ModelSpec(id="m", checkpoint="embedded")])
    found: dict[str, float] = {"start_s": time.monotonic() - began}
    speaker = next(iter(ready.models[0].speakers.values()))

    def submit(id_: int, instruct: tuple[int, ...] = ()) -> Submit:
        speakers = ((speaker, 1.0),)
        prompt = Prompt(role=(0, 0, 0), text=SENTENCE, speakers=speakers, instruct=instruct)
        params = SamplingParams(seed=id_, max_new_tokens=num_frames + 1, ignore_eos=True)
        return Submit(id_, "m", prompt, params)

    def first_audio_ms(submits: list[Submit]) -> float:
        """The median."""
        waits = []
        for one in submits:
            core.add(one)
            began = time.monotonic()
            while not any(isinstance(fact, AudioChunk) for fact in core.step()):
                pass
            waits.append(time.monotonic() - began)
            core.abort(one.id)
        return statistics.median(waits) * 1e3

    known = tuple(range(100, 300))
    found["first_audio_ms"] = first_audio_ms([submit(id_) for id_ in range(100, 110)])
    new = [submit(id_, (id_, *known)) for id_ in range(110, 120)]
    found["first_audio_new_instruct_ms"] = first_audio_ms(new)
    again = [submit(id_, known) for id_ in range(120, 131)]
    found["first_audio_known_instruct_ms"] = first_audio_ms(again)
    for batch in (1, 8):
        core.reset_stats()
        for id_ in range(batch):
            core.talker.add(_sequence(core, submit(id_)), None)
        wall, cpu, steps, frames = time.monotonic(), time.process_time(), 0, 0
        with torch.inference_mode():
            while core.talker.has_work:
                steps += 1
                for seq, codes in core.talker.step().frames:
                    frames += codes is not None
                    seq.num_frames += 1
                    if seq.num_frames == seq.max_frames:
                        core.talker.finish(seq, _length())
        elapsed = time.monotonic() - wall
        found[f"steps_per_s_{batch}"] = steps / elapsed
        found[f"frames_per_s_{batch}"] = frames / elapsed
        found[f"cpu_ms_per_step_{batch}"] = (time.process_time() - cpu) / steps * 1e3
    found["rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return found


def _sequence(core: Any, submit: Any) -> Any:
    from engine.input_processor import build_sequence

    most = core.talker.capacity("m").max_tokens
    return build_sequence(submit, core.checkpoints["m"], core.config, most, 0)


def _length() -> Any:
    from engine.protocol import FinishReason

    return FinishReason.LENGTH


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", choices=BACKENDS)
    parser.add_argument("--frames", type=int, default=100)
    args = parser.parse_args()
    if args.backend:
        print(json.dumps(measure(args.backend, args.frames)))
        return
    results = {}
    for backend in BACKENDS:
        command = [sys.executable, "-m", "benchmarks.backends", "--backend", backend]
        command += ["--frames", str(args.frames)]
        load = os.getloadavg()[0]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        results[backend] = json.loads(done.stdout.splitlines()[-1]) | {"load": load}
    print(
        "| |"
        + "|".join(f" {backend} " for backend in BACKENDS)
        + "|\n|---|"
        + "---:|" * len(BACKENDS)
    )
    for name in results["own"]:
        values = "|".join(f" {results[backend][name]:.4g} " for backend in BACKENDS)
        print(f"| {name} |{values}|")


if __name__ == "__main__":
    main()
