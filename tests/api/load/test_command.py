"""The load generator against a server whose delays are known."""

import argparse
import asyncio
import itertools
import json
import signal
import statistics
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

from qtts_openai.load import texts
from qtts_openai.load.command import add_options, check, command_line, make_requests, measure
from qtts_openai.load.loops import poisson
from qtts_openai.load.report import summarise, table
from qtts_openai.settings import SettingsError
from tests.api.load.stub_server import AUDIO_S, stub_server
from tests.api.load.virtual_loop import VirtualLoop

ROOT = Path(__file__).parents[3]
INFINITE = float("inf")


@pytest.fixture
async def stub():
    async with stub_server() as running:
        yield running


@pytest.fixture
def exactly(monkeypatch):
    """exactly(arguments...) -> load, summary and server, all on a clock of their own."""

    async def with_stub(arguments):
        async with stub_server() as stub:
            return *await bench(stub, *arguments), stub

    def run(*arguments: str):
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            monkeypatch.setattr(time, "perf_counter", runner.get_loop().time)
            return runner.run(with_stub(arguments))

    return run


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_options(parser)
    options = parser.parse_args(arguments)
    check(options)
    return options


async def bench(stub, *arguments: str):
    options = parse_arguments(["--base-url", stub.base_url, *arguments])
    load, extra = await measure(options)
    return load, {**summarise(load), **extra}


def body(**fields: object) -> tuple[str, str]:
    return "--body", json.dumps(fields)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"response_format": "wav"},
        {"stream_format": "sse"},
        {"stream_format": "sse", "response_format": "wav"},
    ],
)
def test_measures_the_delays_of_the_server(exactly, fields):
    load, summary, stub = exactly(
        "--concurrency", "1", "--num-requests", "3", "--warmup", "1", *body(**fields)
    )
    results, sent = load.results, stub.log[1:]
    assert summary["num_good"] == len(results) == len(sent) == 3
    assert [r.ttfb_s for r in results] == pytest.approx([s.headers_s for s in sent])
    assert [r.first_playable_s for r in results] == pytest.approx([s.pieces_s[0] for s in sent])
    assert [r.audible_arrived_s for r in results] == pytest.approx([s.pieces_s[1] for s in sent])
    assert [r.audible_heard_s for r in results] == pytest.approx(
        [s.pieces_s[0] + 0.2 for s in sent]
    )
    assert [r.ended_s for r in results] == pytest.approx([s.pieces_s[2] for s in sent])
    for result, at in zip(results, sent, strict=True):
        assert result.leading_silence_s == pytest.approx(0.2)
        assert (result.audio_s, result.num_chunks) == (AUDIO_S, 3)
        assert result.num_underruns == 1
        gap_s = at.pieces_s[2] - at.pieces_s[0] - 0.4
        assert result.gap_s == pytest.approx(gap_s)
    assert summary["underrun_share"] == 1
    assert summary["audio_s_total"] == pytest.approx(3 * AUDIO_S)
    assert summary["rtf"]["p50"] == pytest.approx(summary["ended_s"]["p50"] / AUDIO_S)
    assert summary["audio_s_per_s"] == pytest.approx(3 * AUDIO_S / summary["wall_s"])
    assert "audible TTFA, heard" in table(summary)


def test_open_loop_sends_on_time_and_does_not_wait(exactly):
    load, summary, _ = exactly("--rate", "20", "--num-requests", "12", "--warmup", "0")
    expected = list(poisson((20, 20), 12, INFINITE, 0))
    assert [r.sent_at_s for r in sorted(load.results, key=lambda r: r.sent_at_s)] == pytest.approx(
        expected
    )
    assert summary["num_good"] == 12
    assert summary["peak_in_flight"] > 6


def test_closed_loop_keeps_so_many_in_flight(exactly):
    _, summary, _ = exactly(
        "--concurrency", "3", "--duration", "1.0", "--warmup", "0", *body(voice="any")
    )
    assert summary["peak_in_flight"] == 3
    assert summary["num_good"] == 6  # each takes 0.64 s
    assert summary["num_unfinished"] == 0


async def test_failures_are_counted_by_kind_and_leave_the_times_alone(stub):
    bodies = [body(voice=voice) for voice in ("good", "busy", "broken", "mp3", "silent")]
    bodies.append(body(voice="failing", stream_format="sse"))
    load, summary = await bench(
        stub, "--concurrency", "6", "--num-requests", "6", "--warmup", "0",
        *itertools.chain(*bodies),
    )  # fmt: skip
    assert summary["num_good"] == 1
    errors = {"429": 1, "RemoteProtocolError": 1, "not_pcm": 1, "no_audio": 1, "sse_error": 1}
    assert summary["errors"] == errors
    assert summary["rtf"]["p50"] == summary["rtf"]["max"]
    assert next(r for r in load.results if r.error == "429").message.startswith('{"error"')
    assert "5 failed" in table(summary)


async def test_a_server_that_fails_all_warm_up_ends_the_run(stub):
    with pytest.raises(SystemExit, match="warm-up failed: 429"):
        await bench(stub, "--rate", "1", "--num-requests", "5", *body(voice="busy"))


async def start_cli(stub, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "qtts_openai", "load", "--base-url", stub.base_url, *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, cwd=ROOT,
    )  # fmt: skip


async def test_the_last_line_is_one_document(stub, tmp_path):
    records = tmp_path / "records.jsonl"
    cli = await start_cli(
        stub, "--rate", "9", "--duration", "0.5", "--api-key", "hush", "--records", str(records)
    )
    out, err = await cli.communicate()
    assert (cli.returncode, err) == (0, b"")
    document = json.loads(out.splitlines()[-1])
    assert "hush" not in out.decode() and "***" in document["command"]
    assert stub.log[0].authorization == "bearer hush"
    assert document["result"]["num_good"] == len(records.read_text().splitlines()) > 0
    assert document["machine"]["cores"] >= 1 and document["versions"]["httpx"]
    assert document["options"]["body"] == [{"voice": "alloy", "response_format": "pcm"}]


async def test_ctrl_c_reports_what_was_complete(stub):
    cli = await start_cli(stub, "--concurrency", "2", "--num-requests", "1000", "--warmup", "0")
    deadline = time.monotonic() + 120
    while len(stub.log) < 5 and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
    cli.send_signal(signal.SIGINT)
    out, err = await asyncio.wait_for(cli.communicate(), 120)
    assert (cli.returncode, err) == (130, b"")
    result = json.loads(out.splitlines()[-1])["result"]
    assert result["interrupted"] and result["num_unfinished"] == 2
    assert result["num_good"] >= 2 and b"interrupted" in out


def test_poisson_is_seeded_and_bounded():
    some = list(poisson((5, 5), 2000, INFINITE, 1))
    assert (
        some == list(poisson((5, 5), 2000, INFINITE, 1)) != list(poisson((5, 5), 2000, INFINITE, 2))
    )
    assert some == sorted(some) and len(some) == 2000
    gaps = [b - a for a, b in itertools.pairwise(some)]
    assert statistics.mean(gaps) == pytest.approx(0.2, rel=0.1)
    assert statistics.stdev(gaps) == pytest.approx(0.2, rel=0.1)  # as of an exponential law
    assert all(at < 3 for at in poisson((50, 50), INFINITE, 3.0, 0))


def test_requests_take_turns_with_bodies_and_leave_out_null():
    options = parse_arguments(
        ["--rate", "1", "--duration", "1", "--model", "m",
         *body(voice=None, response_format="wav", instructions="Calmly."), *body(voice="nova")]
    )  # fmt: skip
    first, second, third = itertools.islice(make_requests(options), 3)
    wav = {"response_format": "wav", "instructions": "Calmly."}
    assert first == {"model": "m", "input": first["input"], **wav}
    assert second["voice"] == "nova" and second["response_format"] == "pcm"
    assert third.keys() == first.keys()


@pytest.mark.parametrize("text", ["{", "[1]", "@/does/not/exist", '{"response_format": "mp3"}'])
def test_a_bad_body_is_said(text, capsys):
    with pytest.raises(SystemExit):
        parse_arguments(["--rate", "1", "--duration", "1", "--body", text])
    assert "--body" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--rate", "1"], "--num-requests"),
        (["--rate", "1", "--num-requests", "5", "--ramp-to", "3"], "--duration"),
        (["--concurrency", "1", "--duration", "5", "--ramp-to", "3"], "--rate"),
    ],
)
def test_options_that_do_not_go_together_are_said(arguments, said):
    with pytest.raises(SettingsError, match=said):
        parse_arguments(arguments)


def test_a_ramp_rises_evenly():
    some = list(poisson((10, 90), INFINITE, 100.0, 3))
    assert len(some) == pytest.approx(5000, rel=0.05)
    by_quarter = [sum(25 * q <= at < 25 * (q + 1) for at in some) for q in range(4)]
    assert by_quarter == pytest.approx([500, 1000, 1500, 2000], rel=0.15)
    falling = list(poisson((10, 1), INFINITE, 10.0, 3))
    assert max(falling) < 10 and len(falling) == pytest.approx(55, rel=0.4)


async def test_a_ramp_is_told_by_parts_and_drawn(stub, tmp_path):
    page = tmp_path / "load.html"
    cli = await start_cli(
        stub, "--rate", "2", "--ramp-to", "30", "--duration", "1", "--plot", str(page),
        *body(), *body(voice="busy"),
    )  # fmt: skip
    out, err = await cli.communicate()
    assert (cli.returncode, err) == (0, b"")
    result = json.loads(out.splitlines()[-1])["result"]
    parts = result["phases"]
    assert sum(part["num_failed"] for part in parts) == result["errors"]["429"] > 0
    assert parts[-1]["requests_per_s"] > parts[0]["requests_per_s"]
    root = ElementTree.fromstring(page.read_text("utf-8"))
    assert len(root.findall(".//circle[@class='failed']")) == result["errors"]["429"]
    assert len(root.findall(".//circle[@class='heard']")) == result["num_good"]


def test_the_command_does_not_tell_the_key():
    for arguments in (["--api-key", "hush"], ["--api-key=hush"]):
        assert "hush" not in command_line([*arguments, "--rate", "1"])


def test_texts_are_seeded_and_mixed(tmp_path):
    some = list(itertools.islice(texts.built_in(3), 200))
    assert some == list(itertools.islice(texts.built_in(3), 200))
    words = [len(text.split()) for text in some]
    assert min(words) < 6 and max(words) > 40
    file = tmp_path / "texts"
    file.write_text("one\n\ntwo\n")
    assert set(itertools.islice(texts.from_file(file, 0), 2)) == {"one", "two"}
    file.write_text("\n")
    with pytest.raises(ValueError, match="no text"):
        next(texts.from_file(file, 0))
