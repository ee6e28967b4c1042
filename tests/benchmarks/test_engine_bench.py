"""engine.benchmark.bench: what it computes, prints and runs."""

import json
import subprocess
import sys
from types import SimpleNamespace

import msgspec
import pytest
import torch

from engine.benchmark import bench, steps
from engine.benchmark import roofline as floor
from engine.config import EngineConfig, ModelSpec
from engine.dummy.checkpoint import write_random_checkpoint
from engine.dummy.configs import random_checkpoint_config, random_codec_config
from engine.models.config import CodecConfig, TalkerConfig
from engine.protocol import Measured, Ready
from engine.startup import build

BF16, FP32 = torch.bfloat16, torch.float32
IDS = ["assistant", "<|im_start|>", "<|im_end|>", "<tts_pad>", "<tts_text_bos>", "<tts_text_eod>"]


def talker(shape: str) -> TalkerConfig:
    config = random_checkpoint_config("custom_voice", shape, dict.fromkeys(IDS, 1))
    return msgspec.convert(config["talker_config"], TalkerConfig, strict=False)


def codec(shape: str) -> CodecConfig:
    return msgspec.convert(random_codec_config(shape), CodecConfig, strict=False)


@pytest.mark.parametrize(
    ("shape", "talker_gb", "predictor_gb", "talker_gflop", "predictor_gflop"),
    [("0.6B", 0.887, 2.422, 0.887, 2.580), ("1.7B", 2.831, 2.485, 2.831, 2.647)],
)
def test_work_of_the_published_shapes(
    shape, talker_gb, predictor_gb, talker_gflop, predictor_gflop
):
    one = floor.talker_work(talker(shape), 1, 0, BF16, "full")
    assert one.read_bytes / 1e9 == pytest.approx(talker_gb, abs=1e-3)
    assert one.flop / 1e9 == pytest.approx(talker_gflop, abs=1e-3)
    one = floor.predictor_work(talker(shape), 1, BF16, "full")
    assert one.read_bytes / 1e9 == pytest.approx(predictor_gb, abs=1e-3)
    assert one.flop / 1e9 == pytest.approx(predictor_gflop, abs=1e-3)


def test_work_of_the_codec():
    one = floor.codec_work(codec("0.6B").decoder_config, 1, 12, FP32)
    assert one.flop / 1e9 == pytest.approx(4.961, abs=1e-3)
    assert one.read_bytes * 12 / 1e9 == pytest.approx(0.456, abs=1e-3)
    many = floor.codec_work(codec("0.6B").decoder_config, 8, 12, BF16)
    assert many.flop == 8 * one.flop
    assert many.read_bytes == one.read_bytes / 2


def test_work_grows_with_what_it_should():
    c = talker("0.6B")
    one, many = (floor.talker_work(c, n, 300, BF16, "full") for n in (1, 9))
    kept = 300 * 114_688  # keys and values of one sequence
    assert many.read_bytes - one.read_bytes == 8 * kept
    assert many.flop == 9 * one.flop
    full, int8 = (floor.predictor_work(c, 1, BF16, weights) for weights in ("full", "int8"))
    assert 0.5 < int8.read_bytes / full.read_bytes < 0.53
    assert int8.flop == full.flop


def test_the_floor_is_reading_or_arithmetic():
    machine = floor.Machine(100.0, {"float32": 1000.0})
    assert floor.Work(50, 10, "float32").least_s(machine) == 0.5
    assert floor.Work(50, 2000, "float32").least_s(machine) == 2.0


def test_a_line_stands_below_its_columns():
    row = {
        "batch": 32,
        "step_s": 0.00512,
        "real_time": 500.0,
        "split_s": {"talker": 0.001, "predictor": 0.003, "codec": 0.001, "rest": 0.0004},
        "floor_s": {"talker": 0.0005, "predictor": 0.0025, "codec": 0.0005},
    }
    line = bench.as_line(row)
    assert len(line) == len(bench.COLUMNS)
    words = ["32", "5.12", "500.00", "1.00/0.50", "3.00/2.50", "1.00/0.50", "0.40", "70%"]
    assert line.split() == words


def test_a_batch_fits_rows_and_blocks():
    config = EngineConfig()
    ready = Ready([], "cpu", "float32", 8, Measured(1, 8), 200, 0, 0.0)
    blocks = -(-(steps.PROMPT_TOKENS + steps.spoken(24)) // config.block_size)
    assert 8 * blocks <= 200 < 21 * blocks
    assert steps.fits(ready, config, 8, 24)
    assert not steps.fits(ready, config, 9, 24)
    ready = Ready([], "cpu", "float32", 32, Measured(1, 32), 200, 0, 0.0)
    assert not steps.fits(ready, config, 21, 24)


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.mktemp("bench") / "tiny"
    write_random_checkpoint(path, model_type="custom_voice", shape="tiny-0b6")
    config = EngineConfig(
        device="cpu", dtype="float32", threads=1, max_num_seqs=3, max_model_len=1024,
        kv_cache_memory="64MB",
    )  # fmt: skip
    core, _ = build(config, [ModelSpec(id=steps.MODEL, checkpoint=str(path))])
    yield core
    core.close()


def check_row(row: dict, batch: int) -> None:
    split = row["split_s"]
    assert row["batch"] == batch and row["step_s"] > 0
    assert row["real_time"] == pytest.approx(batch * 0.08 / row["step_s"])
    assert set(split) == {"talker", "predictor", "codec", "rest"}
    assert all(split[part] > 0 for part in ("talker", "predictor", "codec"))


@pytest.mark.parametrize("batch", [1, 3])
def test_parts_inside_the_steps(core, batch):
    row = steps.measure(core, batch, 16)
    check_row(row, batch)
    assert sum(row["split_s"].values()) == pytest.approx(row["step_s"])
    assert not core.sequences and not core.has_work
    assert "frame" not in vars(core.codecs[steps.MODEL])  # every method is back
    assert type(core.talker.runners[steps.MODEL].frame).__name__ == "FrameStep"


def test_parts_alone_as_on_a_gpu(core, monkeypatch):
    """With times given in place of a device's clock: what is run, and the arithmetic."""
    runs, times = [], iter([0.009, 0.006, 0.008])

    def device_seconds(run, stream):
        for _ in range(steps.ALONE + 1):
            run()
        runs.append(run)
        return next(times)

    monkeypatch.setattr(steps, "device_seconds", device_seconds)
    monkeypatch.setattr(steps, "_on_cpu", steps._on_gpu)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: None)
    row = steps.measure(core, 3, 4)
    check_row(row, 3)
    assert len(runs) == 3
    assert row["split_s"]["talker"] == pytest.approx(0.003)
    assert row["split_s"]["predictor"] == pytest.approx(0.006)
    assert row["split_s"]["codec"] == pytest.approx(0.008 / core.config.chunk_ramp[-1])


def test_recorded_frames_are_what_is_timed(core):
    calls = []
    runner = SimpleNamespace(
        frames=lambda rows, feed_back: calls.append((rows, feed_back)),
        backend=core.talker.runners[steps.MODEL].backend,
    )
    steps.submit_all(core, 2, 4)
    core.step()
    seqs = core.talker.scheduler.running
    steps.frame_alone(runner, seqs, feed_back=False)()
    assert calls == [([seq.row for seq in seqs], False)]
    for seq_id in list(core.sequences):
        core.abort(seq_id)
    while core.has_work:
        core.step()


def test_qtts_bench():
    command = [sys.executable, "-m", "qtts_openai", "bench", "--shape", "tiny-0b6", "--batch", "1"]
    command += ["--frames", "2", "--threads", "1", "--device", "cpu", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    *table, document = done.stdout.splitlines()
    assert any(line.startswith("batch  ms/frame") for line in table)
    result = json.loads(document)
    assert result["model"] == "tiny-0b6" and result["device"] == "cpu"
    assert [row["batch"] for row in result["rows"]] == [1]
    assert set(result["rows"][0]["floor_s"]) == set(bench.PARTS)
    assert result["machine"]["bandwidth_bytes_s"] > 1e8


def test_the_bench_says_what_is_wrong(capsys):
    assert bench.main(["--checkpoint", "./nowhere", "--device", "cpu"]) == 1
    assert "no such directory" in capsys.readouterr().err
