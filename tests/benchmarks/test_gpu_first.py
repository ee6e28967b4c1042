"""The first minutes on a GPU, gone through on a CPU."""

import json
import sys

import pytest

from benchmarks import gpu_bench, gpu_first
from benchmarks.parts import Part


def run(monkeypatch, *options: str) -> int:
    monkeypatch.setattr(sys, "argv", ["gpu_first", "--device", "cpu", *options])
    return gpu_first.main()


@pytest.mark.slow
def test_steps_run_in_order_and_leave_their_results(monkeypatch, tmp_path):
    options = ["--shape", "tiny-0b6", "--batch", "1", "--frames", "2", "--out", str(tmp_path)]
    assert run(monkeypatch, *options, "--steps", "frames,engine") == 0
    frames, engine = json.loads((tmp_path / "gpu-first.json").read_text())["steps"]
    assert (frames["step"], frames["status"]) == ("frames", "done")
    assert frames["value"]["first_difference"] == {"torch": None}
    assert (engine["step"], engine["status"]) == ("engine", "done")
    assert [row["batch"] for row in engine["value"]["rows"]] == [1]


def test_a_failing_step_leaves_its_traceback_and_the_next_one_runs(monkeypatch, tmp_path):
    failing = [sys.executable, "-c", "raise RuntimeError('no such GPU')"]
    speaking = [sys.executable, "-c", "print('[1]')"]
    commands = {"engine": failing, "http": speaking}
    monkeypatch.setattr(gpu_first, "commands", lambda *_: commands)
    monkeypatch.setattr(gpu_first, "NEED_CHECKPOINT", ())
    assert run(monkeypatch, "--steps", "engine,http", "--out", str(tmp_path)) == 1
    assert "Traceback" in (tmp_path / "engine.log").read_text()
    steps = json.loads((tmp_path / "gpu-first.json").read_text())["steps"]
    assert [(s["step"], s["status"]) for s in steps] == [("engine", "failed (1)"), ("http", "done")]


@pytest.mark.parametrize(("status", "code"), [("done", 0), ("skipped", 0), ("failed", 1)])
def test_a_step_fails_with_its_parts(monkeypatch, capsys, tmp_path, status, code):
    monkeypatch.setattr(gpu_bench, "rival_part", lambda *_: Part("rival", status))
    assert run(monkeypatch, "--step", "rivals", "--checkpoint", str(tmp_path)) == code
    assert {part["status"] for part in json.loads(capsys.readouterr().out)} == {status}
