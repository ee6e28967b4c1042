"""What each subcommand of `qtts` does."""

import argparse
import asyncio
import gc
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO, get_args

import httpx
import msgspec
import uvloop

from engine import EngineClient
from qtts_openai import schemas as s
from qtts_openai.app import create_app
from qtts_openai.check import check, check_gpu
from qtts_openai.errors import ApiError
from qtts_openai.http.admin import administered
from qtts_openai.http.auth import client_key
from qtts_openai.http.request_id import set_up_logging
from qtts_openai.http.server import Server, base_url, listen
from qtts_openai.provenance.audit import AuditLog
from qtts_openai.settings import Settings, SettingsError
from qtts_openai.settings_file import in_file, load_settings
from qtts_openai.speech.response import SpeechResponse
from qtts_openai.state import AppState
from qtts_openai.voices.archive import Index, read_archive, write_archive
from qtts_openai.voices.model_registry import ANY_MODEL
from qtts_openai.voices.presets import VoiceTable
from qtts_openai.voices.store import VoiceStore

logger = logging.getLogger(__name__)


def run_serve(arguments: argparse.Namespace) -> None:
    settings = load_settings(arguments.config)
    changes = {name: getattr(arguments, name) for name in ("host", "port")}
    changes = {name: value for name, value in changes.items() if value is not None}
    server = msgspec.structs.replace(settings.server, **changes)
    settings = msgspec.structs.replace(settings, server=server)
    set_up_logging(server.log_level, as_json=server.json_logs)
    for name in ("httpx", "uvicorn.error"):
        logging.getLogger(name).setLevel("WARNING")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            runner.run(_serve(settings, arguments.config))
        except SettingsError as error:
            raise in_file(error, arguments.config) from error


async def _serve(settings: Settings, path: str | None) -> None:
    """Listen, load, serve, drain. Requests while the engine loads get a 503."""
    with _exit_status_zero(signal.SIGTERM), listen(settings.server) as listener:
        url = f"{base_url(listener)}/v1"
        app = create_app(settings, EngineClient(settings.engine, settings.specs()))
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, _read_again, app.state, path)
        server = Server(app, settings.server, partial(_note_ready, url))
        async with administered(settings.server, app.state, server.num_answers):
            await server.serve(sockets=[listener])
    if not app.state.starting.cancelled():
        app.state.starting.result()


def _note_ready(url: str) -> None:
    """What is there now stays to the end: collecting garbage among it would hold the event loop."""
    gc.collect()
    gc.freeze()
    logger.info("ready: base_url %s", url)


def _read_again(state: Any, path: str | None) -> None:
    """Keys, and the names of voices in the settings. What is being spoken goes on."""
    state.key_ring.reload()
    try:
        if service := state.get("service"):
            service.read_voices_again(load_settings(path))
            logger.info("the voices of the settings were read again")
    except SettingsError as error:
        logger.error("%s; voices stay as they were", error)


def run_check(arguments: argparse.Namespace) -> None:
    """Exit status 1 where a server would not start, or could not do what is configured."""
    findings = (check_gpu if arguments.gpu else check)(arguments.config)
    for finding in findings:
        print(finding.line())
    if any(finding.level == "error" for finding in findings):
        sys.exit(1)


@contextmanager
def _exit_status_zero(number: signal.Signals) -> Iterator[None]:
    """uvicorn raises the signal once more after its clean stop; that must not look like a crash."""

    def leave(_number: int, _frame: FrameType | None) -> None:
        sys.exit(0)

    before = signal.signal(number, leave)
    try:
        yield
    finally:
        signal.signal(number, before)


def run_say(arguments: argparse.Namespace) -> None:
    arguments.out = arguments.out or f"speech.{arguments.format or 'mp3'}"
    body = _body(arguments)
    with _output(arguments.out) as file:
        if arguments.url:
            _say_remote(arguments.url, body, file)
        else:
            asyncio.run(_say_here(load_settings(arguments.config), body, file))
    if arguments.out != "-":
        _progress(f"{arguments.out}\n")


def _body(arguments: argparse.Namespace) -> dict[str, Any]:
    names = ("voice", "model", "speed", "instructions", "task_type", "language", "seed")
    body = {name: getattr(arguments, name) for name in names}
    body["input"] = _text(arguments.text)
    body["response_format"] = arguments.format or _format_of(arguments.out)
    if arguments.out != "-" and body["response_format"] in ("wav", "flac"):
        body["stream"] = False  # a file holds its own length
    return body


def _text(argument: str) -> str:
    """The argument or stdin. What is not UTF-8 comes as surrogates, or not at all, by the
    locale.
    """
    try:
        text = sys.stdin.read() if argument == "-" else argument
        text.encode()
    except UnicodeError as error:
        raise SettingsError("the text is not UTF-8") from error
    return text.removeprefix("\ufeff")


def _format_of(out: str) -> str:
    if out == "-":
        return "mp3"
    suffix = Path(out).suffix[1:].lower()
    suffix = {"ogg": "opus", "raw": "pcm"}.get(suffix, suffix)
    if suffix not in get_args(s.AudioFormat):
        raise SettingsError(f"{out}: name a file that ends in .mp3, .wav, ... or give --format")
    return suffix


@contextmanager
def _output(out: str) -> Iterator[BinaryIO]:
    """The file, written whole or not at all."""
    if out == "-":
        yield sys.stdout.buffer
        return
    part = Path(f"{out}.part")
    try:
        with part.open("wb") as file:
            yield file
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)


def _say_remote(url: str, body: dict[str, Any], file: BinaryIO) -> None:
    with _client(url) as client:
        body["model"] = body["model"] or _model_of(client)
        with client.stream("POST", "/v1/audio/speech", json=body) as answer:
            _check(answer)
            num_bytes = 0
            for chunk in answer.iter_bytes():
                num_bytes += file.write(chunk)
                _progress(f"{num_bytes} bytes")
    _progress("done\n")


def _model_of(client: httpx.Client) -> str:
    """An alias, where a server has OpenAI's, leaves it to choose the model by the voice."""
    known = [model["id"] for model in _json(client, "/v1/models")["data"]]
    return "tts-1" if "tts-1" in known else known[0]


def _client(url: str) -> httpx.Client:
    """Of a server at `url`, which may go on with /v1 or a whole route; sends the first of
    $QTTS_API_KEYS.
    """
    key = client_key()
    headers = [(b"authorization", f"Bearer {key}".encode())] if key else []
    base = re.sub(r"(/v1)*(/audio(/\w+)*|/models|/health)?/*$", "", url)
    return httpx.Client(base_url=base, headers=headers, timeout=httpx.Timeout(600, connect=5))


def _json(client: httpx.Client, path: str) -> Any:
    answer = client.get(path)
    _check(answer)
    return answer.json()


def _check(answer: httpx.Response) -> None:
    if answer.status_code == 200:
        return
    text = answer.read().decode("utf-8", "replace")
    try:
        text = msgspec.json.decode(text)["error"]["message"]
    except (msgspec.DecodeError, KeyError, TypeError):
        text = f"not an answer of a speech server: {text[:200]}"
    raise ApiError(answer.status_code, text)


async def _say_here(settings: Settings, body: dict[str, Any], file: BinaryIO) -> None:
    body["model"] = body["model"] or settings.defaults.model or ANY_MODEL
    request, _ = s.read_speech(body)
    started = time.perf_counter()
    _progress("loading the model ...")
    engine = EngineClient(settings.engine, settings.specs())
    service = await AppState.begin(settings, engine)
    try:
        _progress(f"loaded in {time.perf_counter() - started:.1f} s\n")
        for model in service.random_weight_models():
            _progress(f"model {model} has random weights: this will be noise\n")
        utterance = await service.planner.plan(request)
        marked = await service.provenance(request, utterance)
        stream = service.submit(utterance)
        speech = SpeechResponse(request, stream, service.metrics, provenance=marked)
        file.write(await _spoken(speech))
    finally:
        await service.close()
        await engine.close()


async def _spoken(speech: SpeechResponse) -> bytes:
    """The whole file, with its progress shown."""
    started = time.perf_counter()
    await speech.start()
    parts = []
    async for part in speech.chunks():
        parts.append(part)
        _progress(f"{speech.audio_s:.1f} s of speech")
    _progress(f"{speech.audio_s:.1f} s of speech in {time.perf_counter() - started:.1f} s\n")
    return await speech.finished_file(b"".join(parts))


def _progress(text: str) -> None:
    """On stderr, in place on a terminal; only lines that end are shown elsewhere."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
    elif text.endswith("\n"):
        print(text, end="", file=sys.stderr, flush=True)


def run_models(arguments: argparse.Namespace) -> None:
    if arguments.url:
        with _client(arguments.url) as client:
            for model in _json(client, "/v1/models")["data"]:
                print(f"{model['id']:40} {model['task_type']}")
        return
    for model in load_settings(arguments.config).models:
        print(f"{model.id:40} {model.checkpoint:20} {', '.join(model.aliases)}")


def run_voices(arguments: argparse.Namespace) -> None:
    if arguments.url:
        with _client(arguments.url) as client:
            for voice in _json(client, "/v1/audio/voices?available=all")["voices"]:
                note = "" if voice["available"] else f"  (needs {' or '.join(voice['needs'])})"
                print(_voice_line(voice["name"], voice["language"], voice["description"]) + note)
        return
    settings = load_settings(arguments.config).voices
    for entry in VoiceTable(settings.aliases, settings.extra, []).voices.values():
        print(_voice_line(entry.name, entry.language, entry.description))


def _voice_line(name: str, language: str, description: str) -> str:
    return f"{name:16} {language:12} {description}".rstrip()


def run_export(arguments: argparse.Namespace) -> None:
    settings = load_settings(arguments.config)
    index = write_archive(_store(settings), Path(arguments.file), arguments.voice)
    _log_archive(settings, "voice.exported", index)
    print(f"{arguments.file}: {len(index.voices)} voices, {len(index.consents)} consents")


def run_import(arguments: argparse.Namespace) -> None:
    settings = load_settings(arguments.config)
    table = VoiceTable(settings.voices.aliases, settings.voices.extra, [])
    index = read_archive(_store(settings), Path(arguments.file), table.voices)
    _log_archive(settings, "voice.imported", index)
    print(f"new here: {len(index.voices)} voices, {len(index.consents)} consents")


def _store(settings: Settings) -> VoiceStore:
    voices = settings.voices
    return VoiceStore(Path(voices.directory), voices.max_voices, object_store=voices.object_store)


def _log_archive(settings: Settings, event: str, index: Index) -> None:
    voices, consents = ([one.record.id for one in kind] for kind in (index.voices, index.consents))
    AuditLog(settings.audit).write(event, voices=voices, consents=consents)


BENCH_OPTIONS = (
    *("shape", "checkpoint", "batch", "frames"),
    *("device", "dtype", "quantization", "threads"),
)


def run_bench(arguments: argparse.Namespace) -> None:
    """engine.benchmark.bench with the settings' first model and engine, or by its options."""
    settings = load_settings(arguments.config)
    given = {name: getattr(arguments, name) for name in BENCH_OPTIONS}
    options = {name: getattr(settings.engine, name) for name in ("device", "dtype", "quantization")}
    options |= {"threads": settings.engine.threads, "kernels": settings.engine.kernels}
    if not given["shape"]:
        options["checkpoint"] = settings.models[0].checkpoint
    options |= {name: value for name, value in given.items() if value is not None}
    command = [sys.executable, "-m", "engine.benchmark.bench"]
    command += [f"--{name}={value}" for name, value in options.items()]
    if arguments.json:
        command.append("--json")
    # As the engine's workers run (engine/worker_process.py).
    environment = {"GOMP_SPINCOUNT": "5000", **os.environ}
    status = subprocess.run(command, env=environment).returncode
    if status:
        sys.exit(status)
