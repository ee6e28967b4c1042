"""Steps of a full batch, timed, and the parts of one: see bench.py for the regime."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from engine.config import EngineConfig
from engine.core import EngineCore
from engine.protocol import FRAME_S, Prompt, Ready, SamplingParams, Submit
from engine.runner.own_talker import OwnTalkerEngine
from engine.runner.talker_runner import TalkerRunner
from engine.runner.transfer import Download, upload
from engine.scheduler.sequence import Sequence

WARM_UP = 4
ALONE = 20
PROMPT_TOKENS = 64  # no less than a prompt of NUM_TEXT ids takes
NUM_TEXT = 30
MODEL = "m"


class Stopwatch:
    """Seconds spent inside methods, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def on(self, owner: Any, method: str, name: str) -> Iterator[None]:
        inner, had = getattr(owner, method), vars(owner).get(method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return inner(*args, **kwargs)
            finally:
                spent = time.perf_counter() - started
                self.seconds[name] = self.seconds.get(name, 0.0) + spent

        setattr(owner, method, timed)
        try:
            yield
        finally:
            delattr(owner, method) if had is None else setattr(owner, method, had)


@torch.inference_mode()
def measure(core: EngineCore, batch: int, frames: int) -> dict[str, Any]:
    """Seconds per step of a full batch, and where they went."""
    start_all(core, batch, spoken(frames))
    for _ in range(WARM_UP):
        core.step()
    measured = _on_gpu if own_talker(core).runners[MODEL].device.type == "cuda" else _on_cpu
    row = measured(core, batch, frames)
    for seq_id in list(core.sequences):
        core.abort(seq_id)
    while core.has_work:
        core.step()
    core.talker.check_integrity()
    core.num_frames = 0
    return {"batch": batch, "real_time": batch * FRAME_S / row["step_s"], **row}


def own_talker(core: EngineCore) -> OwnTalkerEngine:
    assert isinstance(core.talker, OwnTalkerEngine)
    return core.talker


def spoken(frames: int) -> int:
    """Frames that a sequence may speak: timed and untimed ones, and those of parts run alone."""
    return WARM_UP + frames + 3 * ALONE


def fits(ready: Ready, config: EngineConfig, batch: int, frames: int) -> bool:
    blocks = -(-(PROMPT_TOKENS + spoken(frames)) // config.block_size)
    return batch <= ready.num_rows and batch * blocks <= ready.num_blocks


def start_all(core: EngineCore, batch: int, frames: int) -> None:
    """Sequences of so many frames, until each of them has spoken."""
    submit_all(core, batch, frames)
    while any(seq.num_frames == 0 for seq in core.sequences.values()):
        core.step()
        assert len(core.sequences) == batch, "a sequence ended before the last one began"


def submit_all(core: EngineCore, batch: int, frames: int) -> None:
    speakers = list(core.checkpoints[MODEL].info.speakers.values()) or [0]
    for i in range(batch):
        prompt = Prompt(
            role=(0, 1, 2),
            text=tuple(range(10, 10 + NUM_TEXT)),
            speakers=((speakers[i % len(speakers)], 1.0),),
        )
        params = SamplingParams(max_new_tokens=frames + 1, ignore_eos=True, seed=i)
        core.add(Submit(i, MODEL, prompt, params))


def timed_steps(core: EngineCore, batch: int, frames: int) -> float:
    """Seconds of one step."""
    made, started = core.num_frames, time.perf_counter()
    for _ in range(frames):
        core.step()
    elapsed = time.perf_counter() - started
    assert core.num_frames - made == batch * frames, "a sequence did not speak in every step"
    return elapsed / frames


def _on_cpu(core: EngineCore, batch: int, frames: int) -> dict[str, Any]:
    runner, codec, watch = own_talker(core).runners[MODEL], core.codecs[MODEL], Stopwatch()
    with (
        watch.on(runner.frame, "_feed_back", "talker"),
        watch.on(runner, "frame", "frame"),
        watch.on(codec, "_advance", "codec"),
    ):
        step_s = timed_steps(core, batch, frames)
    spent = {name: s / frames for name, s in watch.seconds.items()}
    split = {"talker": spent["talker"], "predictor": spent["frame"] - spent["talker"]}
    split["codec"] = spent.get("codec", 0.0)
    return {"step_s": step_s, "split_s": split | {"rest": step_s - sum(split.values())}}


def _on_gpu(core: EngineCore, batch: int, frames: int) -> dict[str, Any]:
    watch = Stopwatch()
    with watch.on(Download, "result", "waiting"):
        step_s = timed_steps(core, batch, frames)
    runner, codec = own_talker(core).runners[MODEL], core.codecs[MODEL]
    seqs = own_talker(core).scheduler.running
    own = torch.cuda.current_stream()
    whole = device_seconds(frame_alone(runner, seqs, feed_back=True), own)
    predictor = device_seconds(frame_alone(runner, seqs, feed_back=False), own)
    chunk = core.config.chunk_ramp[-1]
    rows, codes = [seq.row for seq in seqs], [[[0] * runner.config.num_code_groups] * chunk] * batch
    chunk_s = device_seconds(lambda: codec.decode(rows, codes), codec.stream or own)
    split = {"talker": whole - predictor, "predictor": predictor, "codec": chunk_s / chunk}
    host = step_s - watch.seconds["waiting"] / frames
    return {"step_s": step_s, "split_s": split | {"rest": host}}


def frame_alone(runner: TalkerRunner, seqs: list[Sequence], feed_back: bool) -> Callable[[], Any]:
    """The runner's work for a frame of `seqs`; without `feed_back` what follows the talker."""
    rows, graphs = [seq.row for seq in seqs], runner.frames
    runner.backend.begin(seqs)
    if graphs is not None:
        return lambda: graphs(rows, feed_back)
    at = upload(rows, runner.device)
    return lambda: runner.frame(at, feed_back)


def device_seconds(run: Callable[[], Any], stream: torch.cuda.Stream) -> float:
    """Of one run, by the device's clock around ALONE of them in a row."""
    torch.cuda.synchronize()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    run()
    start.record(stream)
    for _ in range(ALONE):
        run()
    end.record(stream)
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3 / ALONE
