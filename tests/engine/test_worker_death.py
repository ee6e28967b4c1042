"""Workers that are killed, cannot start, outlive nobody and leave nothing behind."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine import (
    CheckpointError,
    EngineClient,
    EngineDeadError,
    GenerationFailedError,
    spawn,
    worker_process,
)
from engine.config import ModelSpec
from engine.protocol import Heartbeat
from engine.spawn import spawn_early, worker_environment
from tests.engine.conftest import CONFIG, copy_checkpoint
from tests.engine.speaking import REFERENCES, collect, prompt, start, submit

ROOT = Path(__file__).resolve().parents[2]


@contextlib.asynccontextmanager
async def running(models: list[ModelSpec], **changes: Any) -> AsyncIterator[EngineClient]:
    config = msgspec.structs.replace(
        CONFIG, **{"max_num_seqs": 4, "kv_cache_memory": "8MB"} | changes
    )
    engine = EngineClient(config, models)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.close()


def pids(engine: EngineClient) -> list[int]:
    return [worker._process.pid for worker in engine._workers if worker._process is not None]


def lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def is_worker(pid: int) -> bool:
    """It has got as far as being the engine's own Python."""
    try:
        return b"engine.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return False


async def until(condition: Callable[[], bool], timeout_s: float = 120) -> float:
    """Seconds it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < timeout_s
        await asyncio.sleep(0.01)
    return time.monotonic() - began


async def test_kill_mid_stream(models: list[ModelSpec], record_property) -> None:
    async with running([models[0], models[5]]) as engine:
        cloned = submit(0, "base-1b7", 3, prompt=prompt(reference=REFERENCES[0].key))
        before = await collect(start(engine, cloned))
        streams = [start(engine, submit(0, num_frames=900)) for _ in range(6)]
        await anext(streams[0])
        (pid,) = pids(engine)
        os.kill(pid, signal.SIGKILL)
        killed = time.monotonic()
        for stream in streams:
            with pytest.raises(EngineDeadError, match="died"):
                await collect(stream)
        assert engine.status == "restarting" and engine.stats == []
        assert engine.workers[0][:3] == ("restarting", 0, None)
        with pytest.raises(EngineDeadError) as caught:
            start(engine, submit(0))
        assert caught.value.retry_after_s >= 1
        await until(lambda: engine.status == "ready")
        assert engine.workers[0].num_restarts == 1
        restart_s = time.monotonic() - killed
        print(f"restart after kill -9: {restart_s:.2f} s")
        record_property("restart_s", restart_s)
        assert pids(engine) != [pid]
        assert await collect(start(engine, cloned)) == before, "the voice was sent anew"


async def test_a_worker_that_stands_still_is_killed_and_comes_back(
    models: list[ModelSpec], record_property
) -> None:
    """SIGSTOP: the process is there, its socket is open, and nothing ever comes again. This side
    standing still is no silence of the worker's.
    """
    async with running(models[:1], heartbeat_timeout_s=4) as engine:
        before = pids(engine)
        await asyncio.sleep(1.0)
        time.sleep(5.0)
        await asyncio.sleep(1.0)
        assert engine.status == "ready" and pids(engine) == before
        streams = [start(engine, submit(0, num_frames=900)) for _ in range(8)]
        await anext(streams[0])
        (pid,) = pids(engine)
        os.kill(pid, signal.SIGSTOP)
        stopped = time.monotonic()
        for stream in streams:
            with pytest.raises(EngineDeadError, match="died"):
                await collect(stream)
        assert engine.status == "restarting"
        await until(lambda: engine.status == "ready")
        restart_s = time.monotonic() - stopped
        record_property("restart_s", restart_s)
        assert pids(engine) != [pid] and not lives(pid)
        assert len(await collect(start(engine, submit(0)))) == 10 * 3840


async def test_what_hangs_while_the_worker_lives(models: list[ModelSpec]) -> None:
    """An utterance of which nothing is heard fails alone; a step that does not end ends the worker,
    whose heart-beats go on and say how long it has been running.
    """
    async with running(models[:1], max_num_seqs=1, request_timeout_s=3) as engine:
        live = submit(0, prompt=prompt(2, streaming_text=True, text_open=True))
        open_ = start(engine, live)
        waiting = start(engine, submit(0))
        with pytest.raises(GenerationFailedError, match="request_timeout_s"):
            await collect(waiting)
        assert open_.is_open, "it waits for its text"
        open_.abort()
        first = start(engine, submit(0, num_frames=900))
        (pid,) = pids(engine)
        for _ in range(40):  # its own beats, which say 0, come between
            engine._workers[0]._heartbeat = Heartbeat(step_s=CONFIG.step_timeout_s + 1)
            await asyncio.sleep(0.05)
        with pytest.raises(EngineDeadError, match="died"):
            await collect(first)
        assert not lives(pid)


def test_a_worker_does_not_inherit_the_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QTTS_API_KEYS", "sk-secret")
    monkeypatch.setenv("HF_HOME", "/models")
    environment = worker_environment()
    assert "sk-secret" not in environment.values() and environment["HF_HOME"] == "/models"


async def test_a_worker_that_cannot_be_spawned_leaves_no_socket(
    models: list[ModelSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    engine = EngineClient(CONFIG, models[:1])
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError):
        await engine.start()
    assert len(os.listdir("/proc/self/fd")) == before


def garbled(path: Path) -> str:
    """A Python whose worker says one thing that is no message, and ends."""
    said = worker_process.HEADER.pack(1) + b"\xc1"
    path.write_text(f"#!{sys.executable}\nimport os, sys\nos.write(int(sys.argv[3]), {said!r})\n")
    path.chmod(0o755)
    return str(path)


async def test_a_worker_that_cannot_be_understood_at_its_start(
    models: list[ModelSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", garbled(tmp_path / "python"))
    with pytest.raises(EngineDeadError, match="before it was ready"):
        async with running(models[:1]):
            pass


async def test_drain_and_close(models: list[ModelSpec]) -> None:
    async with running(models[:1]) as engine:
        long, short = start(engine, submit(0, num_frames=900)), start(engine, submit(0))
        began = time.monotonic()
        await engine.drain(1.0)
        assert time.monotonic() - began >= 1.0 and long.is_open
        assert len(await collect(short)) == 10 * 3840, "what runs goes on"
        assert engine.status == "draining"
        with pytest.raises(EngineDeadError, match="draining"):
            start(engine, submit(0))
        long.abort()
        async with asyncio.timeout(60):  # nothing is left to wait for
            await engine.drain(3600)
        (pid,) = pids(engine)
    assert not lives(pid)


async def test_a_worker_that_cannot_come_back_is_tried_again(
    models: list[ModelSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says what is no message, then does not find its checkpoint, then all is well."""
    monkeypatch.setattr(worker_process, "BACK_OFF_S", (0.01, 0.02, 0.05))
    real = sys.executable
    path, hidden = tmp_path / "checkpoint", tmp_path / "hidden"
    copy_checkpoint(Path(models[0].checkpoint), path)
    async with running([ModelSpec(id=models[0].id, checkpoint=str(path))]) as engine:
        path.rename(hidden)
        first = pids(engine)
        monkeypatch.setattr(sys, "executable", garbled(tmp_path / "python"))
        os.kill(first[0], signal.SIGKILL)
        await until(lambda: engine.status == "restarting" and pids(engine) not in ([], first))
        monkeypatch.setattr(sys, "executable", real)
        first = pids(engine)
        await until(lambda: pids(engine) not in ([], first) and is_worker(*pids(engine)))
        first = pids(engine)
        await until(lambda: pids(engine) not in ([], first))
        hidden.rename(path)
        await until(lambda: engine.status == "ready")
        assert len(await collect(start(engine, submit(0)))) == 10 * 3840
        os.kill(pids(engine)[0], signal.SIGKILL)
        gone = pids(engine)[0]
        await until(lambda: pids(engine) != [gone])
        (starting,) = pids(engine)  # closed while it loads
    assert not lives(starting)


async def test_least_loaded_first_and_closing_fails_what_is_open(models: list[ModelSpec]) -> None:
    async with running(models[:1], data_parallel_size=2) as engine:
        workers = engine._workers
        assert len(set(pids(engine))) == 2

        def loads() -> list[int]:
            return [len(worker.streams) for worker in workers]

        streams = [start(engine, submit(0, num_frames=900)) for _ in range(4)]
        assert loads() == [2, 2]
        for stream in streams:
            if stream.id in workers[1].streams:
                stream.abort()
        start(engine, submit(0, num_frames=900))
        assert loads() == [2, 1]
        os.kill(pids(engine)[0], signal.SIGKILL)
        await until(lambda: workers[0].status == "restarting")
        assert engine.status == "ready"
        assert len(await collect(start(engine, submit(0)))) == 10 * 3840, "the other one serves"
        last, open_ = pids(engine), start(engine, submit(0, num_frames=900))
        await anext(open_)
    assert not any(lives(pid) for pid in last)
    with pytest.raises(EngineDeadError, match="stopped"):
        await collect(open_)
    with pytest.raises(EngineDeadError):
        start(engine, submit(0))


PARENT = """
import asyncio, sys
from engine import EngineClient
from engine.config import EngineConfig, ModelSpec
from tests.engine.conftest import CONFIG
from tests.engine.speaking import submit

async def main():
    engine = EngineClient(CONFIG, [ModelSpec(id="custom_voice-0b6", checkpoint=sys.argv[1])])
    await engine.start()
    if sys.argv[2] == "busy":
        one = submit(0, num_frames=900)
        await anext(engine.submit(one.model, one.prompt, one.params))
    print(engine._workers[0]._process.pid, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.mark.parametrize("state", ["idle", "busy"])
async def test_a_worker_does_not_outlive_its_client(models: list[ModelSpec], state: str) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, models[0].checkpoint, state],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
        text=True,
    )
    with parent:
        assert parent.stdout is not None
        pid = int(await asyncio.to_thread(parent.stdout.readline))
        assert lives(pid)
        parent.kill()
        assert await until(lambda: not lives(pid), 10) < 5


async def test_a_bad_checkpoint_is_told_without_a_traceback(
    models: list[ModelSpec], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "checkpoint"
    copy_checkpoint(Path(models[0].checkpoint), path)
    weights = path / "model.safetensors"
    data = weights.read_bytes()
    weights.unlink()
    weights.write_bytes(data[: len(data) // 2])
    engine = EngineClient(CONFIG, [ModelSpec(id="m", checkpoint=str(path))])
    with pytest.raises(CheckpointError, match=f"{weights}: cannot be read"):
        await engine.start()
    assert not any(lives(pid) for pid in pids(engine))
    assert "Traceback" not in capfd.readouterr().err


async def test_a_start_that_is_given_up_leaves_no_process(models: list[ModelSpec]) -> None:
    engine = EngineClient(CONFIG, models[:1])
    task = asyncio.create_task(engine.start())
    await until(lambda: bool(pids(engine)))
    (pid,) = pids(engine)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not lives(pid)


async def test_a_process_that_was_begun_early_is_taken(models: list[ModelSpec]) -> None:
    spawn_early()
    (early,) = spawn._early
    async with running(models[:1]) as engine:
        assert pids(engine) == [early.process.pid]
    assert not spawn._early and not lives(early.process.pid)


async def test_one_that_died_early_is_no_help_and_no_harm(models: list[ModelSpec]) -> None:
    spawn_early()
    spawn._early[0].process.kill()
    spawn._early[0].process.wait()
    async with running(models[:1]) as engine:
        assert await collect(start(engine, submit(0)))


async def test_one_that_stands_by_takes_over_and_is_replaced(models: list[ModelSpec]) -> None:
    async with running(models[:1], standby=True) as engine:
        (worker,) = engine._workers
        await until(lambda: worker._standby is not None)
        first = worker._standby
        os.kill(pids(engine)[0], signal.SIGKILL)
        await until(lambda: engine.status == "ready" and worker._process is first.process, 60)
        await until(lambda: worker._standby not in (None, first))
        assert await collect(start(engine, submit(0)))
        # One that has died is no help, and no harm.
        next_ones = [pids(engine)[0], worker._standby.process.pid]
        os.kill(next_ones[1], signal.SIGKILL)
        await until(lambda: not lives(next_ones[1]))
        await asyncio.sleep(0.1)
        os.kill(next_ones[0], signal.SIGKILL)
        await until(lambda: engine.status == "restarting")
        await until(lambda: engine.status == "ready", 60)
        last = [*pids(engine), worker._standby.process.pid if worker._standby else 0]
    await until(lambda: not any(lives(pid) for pid in last if pid))
