"""`qtts load`: how a speech server keeps up with its listeners, any OpenAI-style /v1/audio/speech.

    qtts load --rate 2 --duration 30
    qtts load --rate 1 --ramp-to 12 --duration 60 --plot load.html
    qtts load --concurrency 8 --num-requests 100 --base-url http://host/v1
    qtts load --rate 1 --num-requests 60 --model some/model \\
        --body '{"voice": "ryan", "stream": true, "stream_format": "sse"}'

Regime. Open loop (--rate): requests arrive as a Poisson process, whatever the server does; when it
is too slow, they pile up. With --ramp-to the rate rises evenly from the first to the last second,
and a table by fifths of the run says where the server falls behind. Closed loop (--concurrency):
that many clients, each of which sends its next request when it has its last answer whole. Seeded:
the same seed sends the same texts at the same times. --warmup requests go ahead, are answered whole
and are not counted; then the clock starts on an idle server, and stops with the last byte of the
last answer (so figures per second include filling up and running dry: make runs long). One text per
request, from texts.py or --texts. --body's fields go into each request as they are; given more than
once, requests take turns.

Times are from right before a request is sent (a new connection's handshake counts) to when bytes
come out of the client's HTTP library, on a monotonic clock:

    TTFB            the answer's headers
    first playable  its first sample (WAV header and SSE envelope taken off)
    audible TTFA    the first 10 ms window above -45 dBFS RMS: `arrived` when it has come in,
                    `heard` when a listener who started at the first sample hears it, leading
                    silence included; audio_clock.py says it precisely
    end to end      the last byte;  RTF = end to end / duration of the speech
    underruns       of a listener who plays in real time from the first sample on, with no buffer

A request counts as failed, by HTTP status or kind of error, when any of its speech is missing;
times and rates are those of the good ones. Percentiles are linear between ranks: a p99 of less than
100 requests is little more than the worst. The client is one process and one thread (some 80 us of
CPU per chunk, 1 ms per request): `client` in the output is its share of a core and how late its
timers ran, and bounds what the other figures can resolve. The machine is the client's. Ctrl-C ends
the run early and reports what was complete.

Prints a table; the last line of stdout is one JSON document.
"""

import argparse
import asyncio
import json
import os
import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import uvloop

from qtts_openai.load import machine, plot, texts
from qtts_openai.load.audio_clock import percentiles
from qtts_openai.load.client import Result, open_client
from qtts_openai.load.loops import Load, poisson, probe_lag
from qtts_openai.load.report import phases, summarise, table
from qtts_openai.settings import SettingsError

NO_LIMIT = float("inf")
SHOWN_OPTIONS = (
    "base_url", "model", "rate", "ramp_to", "concurrency", "num_requests", "duration", "warmup",
    "seed",
)  # fmt: skip


def run(options: argparse.Namespace) -> int:
    """The exit status: 0 where any request was good."""
    check(options)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        load, extra = runner.run(measure(options))
    summary = {**summarise(load), **extra}
    if options.ramp_to:
        summary["phases"] = phases(load.results, options.duration)
    if options.records:
        write_records(options.records, load.results)
    head = f"{options.base_url}: {regime(options)}, seed {options.seed}"
    if options.plot:
        options.plot.write_text(plot.page(head, table(summary), load.results), "utf-8")
    print(f"{head}\n{table(summary)}\n")
    print(machine.as_line(document(options, summary)), flush=True)
    if summary["interrupted"]:
        return 130
    return 0 if summary["num_good"] else 1


async def measure(options: argparse.Namespace) -> tuple[Load, dict[str, Any]]:
    """The load that ran, and what it cost the client. Ctrl-C ends it where it stands."""
    requests = make_requests(options)
    async with open_client(options.base_url, options.api_key, options.timeout) as client:
        await warm_up(Load(client, requests, options.sample_rate), options)
        load = Load(client, requests, options.sample_rate)
        lags: list[float] = []
        probe = asyncio.create_task(probe_lag(lags))
        cpu_s, interrupted = time.process_time(), False
        try:
            await drive(load, options)
        except asyncio.CancelledError:
            interrupted = True
        probe.cancel()
        cost = {
            "cpu_share": (time.process_time() - cpu_s) / load.elapsed(),
            "timer_lag_s": percentiles(lags),
            "late_start_s": percentiles(load.late_s),
        }
    return load, {"interrupted": interrupted, "client": cost}


async def warm_up(load: Load, options: argparse.Namespace) -> None:
    """A server that answers none of these is not worth the run."""
    await load.closed_loop(min(options.concurrency or 1, options.warmup), options.warmup)
    if load.results and all(result.error for result in load.results):
        failed = load.results[0]
        raise SystemExit(f"warm-up failed: {failed.error}: {failed.message}")


async def drive(load: Load, options: argparse.Namespace) -> None:
    num, duration_s = options.num_requests or NO_LIMIT, options.duration or NO_LIMIT
    if options.rate:
        rates = options.rate, options.ramp_to or options.rate
        await load.open_loop(poisson(rates, num, duration_s, options.seed))
    else:
        await load.closed_loop(options.concurrency, num, duration_s)


def make_requests(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """For ever: a text in the next of the bodies; a field that is null is left out."""
    seed, file = options.seed, options.texts
    for number, text in enumerate(texts.from_file(file, seed) if file else texts.built_in(seed)):
        body = options.body[number % len(options.body)]
        fields = {"model": options.model, **body, "input": text}
        yield {name: value for name, value in fields.items() if value is not None}


def write_records(path: Path, results: list[Result]) -> None:
    """One JSON line per request, in order of its end."""
    with path.open("w") as file:
        for result in results:
            file.write(machine.as_line(asdict(result)) + "\n")


def regime(options: argparse.Namespace) -> str:
    if options.rate:
        rising = f" rising to {options.ramp_to:g}" if options.ramp_to else ""
        return f"open loop, Poisson, {options.rate:g}{rising} requests/s"
    return f"closed loop, {options.concurrency} at a time"


def document(options: argparse.Namespace, summary: dict[str, Any]) -> dict[str, Any]:
    shown = {name: getattr(options, name) for name in SHOWN_OPTIONS}
    shown["texts"] = options.texts.name if options.texts else "built-in"
    shown["body"] = [shortened(body) for body in options.body]
    return {
        "benchmark": "load",
        "command": command_line(sys.argv[1:]),
        **machine.describe("httpx", "uvloop", "numpy"),
        "options": shown,
        "result": summary,
    }


def command_line(arguments: list[str]) -> str:
    """As it was typed, without the key."""
    shown = list(arguments)
    for index, word in enumerate(arguments):
        if word == "--api-key" and index + 1 < len(shown):
            shown[index + 1] = "***"
        elif word.startswith("--api-key="):
            shown[index] = "--api-key=***"
    return shlex.join(["qtts", *shown])


def shortened(body: dict[str, Any]) -> dict[str, Any]:
    """Reference audio would drown the figures."""
    shown = {}
    for name, value in body.items():
        is_long = isinstance(value, str) and len(value) > 200
        shown[name] = f"{value[:40]}... ({len(value)} characters)" if is_long else value
    return shown


def check(options: argparse.Namespace) -> None:
    """SettingsError where options do not go together; fills in what was left out."""
    options.body = options.body or [body_fields("{}")]
    if not options.num_requests and not options.duration:
        raise SettingsError("say when to end: --num-requests, --duration, or both")
    if options.ramp_to and not (options.rate and options.duration):
        raise SettingsError("--ramp-to needs --rate to begin with and --duration")


def add_options(parser: argparse.ArgumentParser) -> None:
    add_request_options(parser)
    add_load_options(parser)


def add_request_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--base-url", default="http://127.0.0.1:8000/v1")
    add("--api-key", default=os.environ.get("OPENAI_API_KEY"), help="default: $OPENAI_API_KEY")
    add("--model", default="tts-1")
    add(
        "--body", action="append", type=body_fields, metavar="JSON",
        help='fields of each request beside model and input, or @FILE; added to {"voice": "alloy",'
        ' "response_format": "pcm"}, null removes; repeat it to let requests take turns',
    )  # fmt: skip
    add("--texts", type=Path, metavar="FILE", help="one text a line; default: built-in sentences")
    add("--sample-rate", type=int, default=24000, help="of PCM whose rate the answer does not tell")
    add("--timeout", type=float, default=600.0, metavar="S", help="without any byte")


def add_load_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    shape = parser.add_mutually_exclusive_group(required=True)
    shape.add_argument("--rate", type=positive(float), help="open loop: requests per second")
    shape.add_argument("--concurrency", type=positive(int), help="closed loop: clients")
    add("--ramp-to", type=positive(float), metavar="RATE", help="open loop: the rate at the end")
    add("--num-requests", type=positive(int))
    add("--duration", type=positive(float), metavar="S", help="no request starts later")
    add("--warmup", type=int, default=2, metavar="N", help="requests ahead that do not count")
    add("--seed", type=int, default=0, help="of texts and arrival times")
    add("--records", type=Path, metavar="FILE", help="write each request's figures as JSON lines")
    add("--plot", type=Path, metavar="FILE", help="draw the run over time: one HTML file")


def positive(kind: type) -> Any:
    def parse(text: str) -> Any:
        if not kind(text) > 0:
            raise argparse.ArgumentTypeError(f"{text} is not above 0")
        return kind(text)

    return parse


def body_fields(text: str) -> dict[str, Any]:
    """JSON, or @FILE that holds it; with the fields that every request needs."""
    try:
        fields = json.loads(Path(text[1:]).read_text("utf-8") if text.startswith("@") else text)
        fields = {"voice": "alloy", "response_format": "pcm", **fields}
    except (OSError, ValueError, TypeError) as error:
        raise argparse.ArgumentTypeError(f"not a JSON object: {error}") from error
    if fields["response_format"] not in ("pcm", "wav", None):
        raise argparse.ArgumentTypeError(
            "response_format must be pcm or wav: bytes of other formats do not tell time"
        )
    return fields
