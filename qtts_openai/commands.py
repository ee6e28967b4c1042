"""The command `qtts`: serve, check, say, models, voices, bench, load, keys, verify, audit."""

import argparse
import sys

import httpx

from engine import EngineError
from qtts_openai.cli import (
    run_bench,
    run_check,
    run_export,
    run_import,
    run_models,
    run_say,
    run_serve,
    run_voices,
)
from qtts_openai.errors import ApiError
from qtts_openai.load.command import add_options as add_load_options
from qtts_openai.load.command import run as run_load
from qtts_openai.provenance.cli import run_audit, run_keys, run_verify
from qtts_openai.settings import SettingsError


def run(argv: list[str]) -> int:
    """Exit status 0, or 1 after a one-line error on stderr."""
    arguments = _parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except (ApiError, EngineError, SettingsError, OSError, httpx.HTTPError) as error:
        print(f"qtts: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="qtts", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--config", help="settings file; else $QTTS_CONFIG, else ./config.yaml")
    remote = argparse.ArgumentParser(add_help=False)
    remote.add_argument("--url", help="a running server, such as http://127.0.0.1:8000")

    serve = commands.add_parser("serve", parents=[common], help="serve OpenAI's speech API")
    serve.add_argument("--host")
    serve.add_argument("--port", type=int)
    serve.set_defaults(run=run_serve)

    check = commands.add_parser(
        "check", parents=[common], help="say what serve would do, and whether it could"
    )
    check.add_argument(
        "--gpu", action="store_true", help="load the models; every kernel and graph beside torch"
    )
    check.set_defaults(run=run_check)

    say = commands.add_parser("say", parents=[common, remote], help="write speech to a file")
    _add_speech_options(say)
    say.set_defaults(run=run_say)

    models = commands.add_parser("models", parents=[common, remote], help="list the models")
    models.set_defaults(run=run_models)
    voices = commands.add_parser("voices", parents=[common, remote], help="list the voices")
    voices.set_defaults(run=run_voices)
    _add_archive(voices)

    bench = commands.add_parser(
        "bench", parents=[common], help="time a frame on this machine, by batch and by part"
    )
    _add_bench_options(bench)
    bench.set_defaults(run=run_bench)
    load = commands.add_parser("load", help="load on a running server, and how it keeps up")
    add_load_options(load)
    load.set_defaults(run=lambda arguments: sys.exit(run_load(arguments)))
    _add_provenance(commands)
    return parser


def _add_archive(voices: argparse.ArgumentParser) -> None:
    # Where it is given before the action, it stays.
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--config", default=argparse.SUPPRESS, help="as for the list")
    actions = voices.add_subparsers(metavar="ACTION")
    export = actions.add_parser(
        "export", parents=[common], help="stored voices and their consents to one file"
    )
    export.add_argument("file", help="a zip that only you may read")
    export.add_argument("--voice", action="append", default=[], help="id or name; else all")
    export.set_defaults(run=run_export)
    take_in = actions.add_parser(
        "import", parents=[common], help="such a file to this store: all of it or nothing"
    )
    take_in.add_argument("file")
    take_in.set_defaults(run=run_import)


def _add_provenance(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    keys = commands.add_parser("keys", help="keys to sign answers with")
    create = keys.add_subparsers(required=True, metavar="ACTION").add_parser(
        "create", help="a certificate of one's own, its key, and the root that vouches for it"
    )
    create.add_argument("directory", help="where key.pem, certificate.pem and root.pem go")
    create.add_argument("--organisation", default="qtts", help="whom the certificate names")
    create.set_defaults(run=run_keys)

    verify = commands.add_parser(
        "verify",
        help="what tells where a file is from",
        epilog="exit status: 0 something was found and is right, 3 nothing, 4 something is wrong",
    )
    verify.add_argument("file")
    verify.add_argument("--manifest", help="the statement that the server gave for it")
    verify.add_argument("--root", help="the certificate (PEM) that signers must rest on")
    verify.add_argument("--json", action="store_true")
    verify.set_defaults(run=run_verify)

    audit = commands.add_parser("audit", help="the log of voices, consents and cloned speech")
    chain = audit.add_subparsers(required=True, metavar="ACTION").add_parser(
        "verify", help="whether no line was changed, taken out or put in"
    )
    chain.add_argument("file", help="audit.path; files that it was renamed to are read first")
    chain.set_defaults(run=run_audit)


def _add_speech_options(say: argparse.ArgumentParser) -> None:
    say.add_argument("text", help="what to say; - reads it from stdin")
    say.add_argument("--voice", default="alloy")
    say.add_argument(
        "--out", help="the file to write, else speech.mp3 or what --format ends in; - is stdout"
    )
    say.add_argument("--model", help="id or alias; else one that can speak the voice")
    say.add_argument(
        "--format", help="mp3, opus, aac, flac, wav, pcm, ulaw, alaw; else as --out ends"
    )
    say.add_argument("--speed", type=float)
    say.add_argument("--instructions", help="a style, or with VoiceDesign what the voice is like")
    say.add_argument("--task-type", help="CustomVoice, VoiceDesign or Base; else by the voice")
    say.add_argument("--language")
    say.add_argument("--seed", type=int)


def _add_bench_options(bench: argparse.ArgumentParser) -> None:
    """As engine.benchmark.bench takes them; without one, the settings decide."""
    what = bench.add_mutually_exclusive_group()
    what.add_argument("--checkpoint", help="directory or Hugging Face id; else the first model's")
    what.add_argument("--shape", help="random weights of 0.6B, 1.7B or tiny-0b6; no download")
    bench.add_argument("--batch", help="streams at once, such as 1,8; else what fits")
    bench.add_argument("--frames", type=int, help="timed frames for each stream")
    bench.add_argument("--device", choices=("auto", "cpu", "cuda"))
    bench.add_argument("--dtype", choices=("auto", "float32", "bfloat16"))
    bench.add_argument("--quantization", choices=("none", "int8", "int4"))
    bench.add_argument("--threads", type=int, help="0 measures")
    bench.add_argument("--json", action="store_true", help="one JSON document on the last line")
