"""What a GPU run consists of, as far as it can run without one."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import gpu_bench, gpu_check, gpu_report, gpu_serve, logbook
from benchmarks.parts import Budget, Part, run_part

ROOT = Path(__file__).parents[2]
ABOUT = {
    "date": "2030-01-02T03:04:05+00:00",
    "machine": {"cpu": "C", "cores": 2, "gpus": ["G, 1 MiB, 5.1"]},
    "versions": {"python": "3.12", "torch": "2.11", "triton": None},
}


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_budget_is_shared_until_it_is_spent():
    clock = Clock()
    budget = Budget(60, clock)
    assert budget.share(5, 40) == 40
    clock.now += 50
    assert budget.left_s() == 10
    assert budget.share(5, 40) == 10
    assert budget.share(20, 40) is None
    clock.now += 50
    assert budget.left_s() == 0


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


@pytest.mark.parametrize(
    ("code", "status", "note"),
    [
        ("print('table'); print('{\"a\": 1}')", "done", ""),
        ("print('table')", "failed", "no JSON on the last line: table"),
        ("raise SystemExit('a\\nwhat went wrong')", "failed", "what went wrong"),
        ("pass", "failed", "no JSON on the last line: it said nothing"),
        ("raise SystemExit(3)", "failed", "it said nothing"),
    ],
)
def test_a_part_is_its_last_line(code, status, note):
    part = run_part("p", python(code), Budget(60))
    assert (part.name, part.status, part.note) == ("p", status, note)
    assert part.result == ({"a": 1} if status == "done" else None)


def test_what_a_failed_part_wrote_is_kept_whole(capfd):
    run_part("p", python("print('table'); raise RuntimeError('wrong')"), Budget(60))
    errors = capfd.readouterr().err
    assert errors.startswith("p:\nTraceback") and "RuntimeError: wrong" in errors


def test_a_part_that_is_late_is_stopped_with_its_children():
    child = "import subprocess, sys; print('row 1', flush=True); "
    child += "subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    part = run_part("p", python(child), Budget(60), least_s=0, most_s=2)
    assert (part.status, part.note) == ("timed out", "after 2 s; it said last: row 1")
    assert part.seconds < 20


def test_a_part_that_cannot_end_in_time_does_not_begin():
    part = run_part("p", ["/nowhere"], Budget(10), least_s=30)
    assert (part.status, part.note) == ("skipped", "10 s were left, 30 needed")


def engine_part(shape: str, weights: str, step_s: float) -> Part:
    split = {"talker": step_s / 2, "predictor": step_s / 4, "codec": step_s / 4, "rest": 0.0}
    floor = {name: seconds / 2 for name, seconds in split.items() if name != "rest"}
    row = {"batch": 1, "step_s": step_s, "real_time": 2.0, "split_s": split, "floor_s": floor}
    known = {"bandwidth_bytes_s": 4e12, "flop_s": {"bfloat16": 7e14}}
    result = {"machine": known, "memory_bytes": {"kv_cache": 5e9}, "quantization": weights}
    return Part(f"engine {shape} {weights}", "done", "", 1.0, result | {"rows": [row]})


def http_part(rate: float) -> Part:
    times = {"p50": 0.02, "p95": 0.03, "p99": 0.04}
    result = {
        "num_good": 9, "num_requests": 10, "ttfb_s": times, "first_playable_s": None,
        "underrun_share": 0.25, "audio_s_per_s": 20.0, "peak_in_flight": 7,
    }  # fmt: skip
    document = {"result": result, "options": {"rate": rate}}
    return Part(f"http {rate:g}/s", "done", "", 1.0, document)


def rival_part(name: str, frames_s: float) -> Part:
    result = {"frames_per_s": frames_s, "versions": {"qwen-tts": "0.1.1"}}
    return Part(f"rival {name} 1.7B", "done", "", 1.0, result)


def report(*parts: Part) -> str:
    return gpu_report.section({**ABOUT, "parts": [vars(part) for part in parts]})


def test_the_report_has_a_table_of_each_kind():
    text = report(
        engine_part("1.7B", "none", 0.004),
        engine_part("1.7B", "int8", 0.003),
        Part("http start", "done"),
        http_part(20),
        rival_part("official", 25.0),
        Part("rival faster 1.7B", "skipped", "it is missing"),
    )
    lines = text.splitlines()
    assert lines[0] == "### 2030-01-02: G, 1 MiB, 5.1; python 3.12, torch 2.11"
    assert "4000 GB/s" in text and "700 TFLOP/s in bfloat16" in text
    assert (
        "| 1.7B | none | 1 | 4.00 | 2.0 | 2.00 / 1.00 | 1.00 / 0.50 | 1.00 / 0.50 | 0.00 | 50% |"
        in lines
    )
    assert "| 20 | 9 / 10 | 20.0 / 30.0 / 40.0 | - | 25.0% | 20.0 | 7 |" in lines
    assert "| official | 1.7B | qwen-tts 0.1.1 | 25.0 | 10.0x |" in lines
    assert "- rival faster 1.7B: skipped, it is missing" in lines
    assert "- 1.7B none: GB of kv cache 5.00" in lines


def test_the_report_of_nothing_says_what_was_left_out():
    text = report(Part("engine 1.7B full", "failed", "no GPU"))
    assert "|" not in text
    assert "- engine 1.7B full: failed, no GPU" in text


def test_entries_go_to_the_end_and_end_the_silence(tmp_path):
    file = tmp_path / "RESULTS.md"
    file.write_text(f"# R\n\n## On a GPU\n\n{logbook.NOTHING_YET}More.\n")
    logbook.append("first\n", file)
    logbook.append("second", file)
    assert file.read_text() == "# R\n\n## On a GPU\n\nMore.\n\nfirst\n\nsecond\n"


def test_results_claim_no_gpu_figure_that_is_not_there():
    last = logbook.RESULTS.read_text("utf-8").rpartition("\n## ")[2]
    assert last.startswith("On a GPU\n")
    assert (logbook.NOTHING_YET in last) != ("\n### 20" in last or "\n**20" in last)


JUNIT = """<?xml version="1.0"?><testsuites>
<testsuite name="pytest" errors="0" failures="0" skipped="1" tests="4" time="2.5">
<testcase name="a"/><testcase name="b"><skipped message="soxr is missing"/></testcase>
</testsuite></testsuites>"""


def test_parity_is_entered_only_if_proved():
    result = gpu_check.read_junit(JUNIT)
    assert (result["passed"], result["failures"], result["skipped"]) == (3, 0, 1)
    assert gpu_check.proves_parity(result, on_gpu=True, status=0)
    assert not gpu_check.proves_parity(result, on_gpu=False, status=0)
    assert not gpu_check.proves_parity(result, on_gpu=True, status=1)
    assert not gpu_check.proves_parity(None, on_gpu=True, status=0)
    assert not gpu_check.proves_parity({**result, "passed": 0}, on_gpu=True, status=0)
    assert gpu_check.entry(ABOUT, result) == (
        "**2030-01-02, parity** (`make gpu-check`), G, 1 MiB, 5.1; python 3.12, torch 2.11: "
        "3 passed, 0 failed in 2 s; 1 skipped: soxr is missing."
    )


def dry_run(tmp_path: Path, *more: str) -> list[str]:
    options = ["--device", "cpu", "--shapes", "tiny-0b6", "--quick", "--threads", "1"]
    return [*options, "--frames", "2", "--batch", "1", "--out", str(tmp_path), *more]


def test_a_missing_server_and_missing_rivals_are_one_line_each(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_bench, "SERVER", "import json, no_such_module")
    args = gpu_bench.parse(dry_run(tmp_path, "--rivals", str(tmp_path)))
    [part] = gpu_bench.http_parts(args, tmp_path, gpu_bench.LOADS, Budget(60))
    note = "the server cannot run here: ModuleNotFoundError: No module named 'no_such_module'"
    assert (part.status, part.note) == ("skipped", note)
    monkeypatch.setattr(gpu_bench, "RIVALS", {"official": "no_such_module"})
    part = gpu_bench.rival_part(args, "official", "tiny-0b6", tmp_path, Budget(60))
    assert part.status == "skipped" and part.note.startswith("no_such_module is missing: carry")


def test_a_gpu_run_is_most_wanted_first(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_bench.torch.cuda, "is_available", lambda: True)
    made: list[list[str]] = []

    def run(name, command, budget, **limits):
        made.append(command)
        return Part(name, "done")

    monkeypatch.setattr(gpu_bench, "run_part", run)
    monkeypatch.setattr(gpu_bench, "serve_and_load", lambda *_: [Part("http", "done")])
    monkeypatch.setattr(gpu_bench, "find", lambda *_: True)
    args = gpu_bench.parse([])
    paths = {shape: Path(shape) for shape in args.shapes}
    names = [part.name for make in gpu_bench.plan(args, paths) for part in make(Budget(60))]
    assert names == [
        "engine 1.7B none", "http", "rival official 1.7B", "rival faster 1.7B", "engine 0.6B none",
        "engine 1.7B int8", "engine 0.6B int8",
    ]  # fmt: skip
    assert "--batch" not in made[0]  # what fits
    assert all("cuda" in command for command in made)


def test_no_gpu_is_said(monkeypatch, capsys):
    monkeypatch.setattr(gpu_bench.torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as left:
        gpu_bench.parse([])
    assert left.value.code == 1 and "dry run" in capsys.readouterr().err


def test_a_server_that_does_not_start_is_said(tmp_path):
    broken = SimpleNamespace(rate=1, duration_s=1)
    [part] = gpu_serve.serve_and_load(tmp_path / "nowhere", "cpu", [broken], Budget(60))
    assert part.status == "failed" and "nowhere" in part.note


@pytest.mark.slow
def test_dry_run(tmp_path):
    """All of it on a CPU: checkpoint, engine, a real server under load, report."""
    command = [sys.executable, "-m", "benchmarks.gpu_bench", *dry_run(tmp_path)]
    before = logbook.RESULTS.read_bytes()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    [file] = tmp_path.glob("gpu-*.json")
    document = json.loads(file.read_text())
    status = {part["name"]: part["status"] for part in document["parts"]}
    assert status == {
        "engine tiny-0b6 none": "done", "http start": "done", "http 1/s": "done",
        "http 2/s": "done", "rival official tiny-0b6": "skipped",
        "rival faster tiny-0b6": "skipped",
    }  # fmt: skip
    assert file.with_suffix(".md").read_text() in done.stdout
    assert logbook.RESULTS.read_bytes() == before  # nothing of a CPU is entered
