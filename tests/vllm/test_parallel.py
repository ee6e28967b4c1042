"""Two ranks, each a process of vLLM's beside our worker: they say what our own engine says, and
kill -9 of the worker ends as it does there.
"""

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from engine import EngineClient, EngineDeadError
from engine.config import ModelSpec, VllmOptions
from engine.protocol import SamplingParams, Submit
from tests.engine.conftest import build_core, models
from tests.engine.speaking import REFERENCES, collect, prompt, say, start, submit
from tests.engine.test_worker_death import lives, pids, running, until
from tests.vllm.conftest import CONFIG

__all__ = ["models"]
CLONED = Submit(
    0,
    "base-1b7",
    prompt(reference=REFERENCES[0].key, reference_text=(5, 6)),
    SamplingParams(seed=3, max_new_tokens=17, ignore_eos=True),
)


def descendants(pid: int) -> list[int]:
    found = [
        int(child)
        for thread in Path(f"/proc/{pid}/task").iterdir()
        for child in (thread / "children").read_text().split()
    ]
    return [one for child in found for one in (child, *descendants(child))]


def processes(engine: EngineClient) -> list[int]:
    (pid,) = pids(engine)
    return [pid, *descendants(pid)]


async def says(engine: EngineClient) -> np.ndarray:
    pcm = await collect(start(engine, CLONED))
    return np.frombuffer(pcm, "<i2").astype(np.int32)


async def test_two_ranks_and_kill_mid_stream(models: list[ModelSpec]) -> None:
    own = build_core([models[5]], max_num_seqs=1, kv_cache_memory="2MB")
    expected = say(own, CLONED).samples
    same = {name: getattr(CONFIG, name) for name in ("backend", "max_model_len")}
    two = VllmOptions(enforce_eager=True, tensor_parallel_size=2)
    async with running([models[5]], **same, vllm=two) as engine:
        assert np.abs(await says(engine) - expected).max() <= 1
        first = processes(engine)
        assert len(first) >= 3, "a worker, and a process for each rank"
        streams = [start(engine, submit(0, "base-1b7", 400)) for _ in range(6)]
        await anext(streams[0])
        os.kill(first[0], signal.SIGKILL)
        for stream in streams:
            with pytest.raises(EngineDeadError, match="died"):
                await collect(stream)
        assert engine.status == "restarting" and engine.stats == []
        await until(lambda: not any(map(lives, first)), 60)
        await until(lambda: engine.status == "ready", 1200)
        assert engine.workers[0].num_restarts == 1
        assert np.abs(await says(engine) - expected).max() <= 1, "its voice was sent anew"
        last = processes(engine)
    await until(lambda: not any(map(lives, last)), 60)
