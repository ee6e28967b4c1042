"""`qtts keys create`, `qtts verify` and `qtts audit verify`."""

import argparse
import asyncio
import sys
from importlib.util import find_spec
from pathlib import Path

import msgspec

from qtts_openai.answers import Finding
from qtts_openai.decoding.client import AudioDecoder
from qtts_openai.provenance.audit import BrokenChainError, verify
from qtts_openai.provenance.policy import EXTRA
from qtts_openai.provenance.watermark import Watermark, heard
from qtts_openai.settings import RefAudioSettings, SettingsError


def run_keys(arguments: argparse.Namespace) -> None:
    try:
        from qtts_openai.provenance.keys import create_keys
    except ImportError as error:
        raise SettingsError(f"qtts keys {EXTRA}") from error
    for path in create_keys(Path(arguments.directory), arguments.organisation):
        print(path)


def run_verify(arguments: argparse.Namespace) -> None:
    """Exits with 0, or as EXIT_STATUS says."""
    from qtts_openai.provenance.verifying import EXIT_STATUS, examine

    data, statement, root = (
        Path(path).read_bytes() if path else None
        for path in (arguments.file, arguments.manifest, arguments.root)
    )
    assert data is not None
    try:
        answer = examine(data, statement, root)
    except ValueError as error:
        raise SettingsError(str(error)) from error
    if find_spec("perth") is not None:
        answer = answer.with_finding(asyncio.run(_watermark(data)))
    if arguments.json:
        print(msgspec.json.encode(answer).decode())
    for finding in () if arguments.json else answer.findings:
        print(f"{finding.what:10} {finding.verdict:10} {finding.detail}".rstrip())
    status = EXIT_STATUS[answer.verdict]
    if status:
        sys.exit(status)


async def _watermark(data: bytes) -> Finding:
    limits = RefAudioSettings()
    watermark = Watermark()
    decoder = AudioDecoder(
        min_s=limits.min_s, max_s=limits.max_s, timeout_s=limits.decode_timeout_s
    )
    try:
        return await heard(watermark, decoder, data)
    finally:
        decoder.close()
        watermark.close()


def run_audit(arguments: argparse.Namespace) -> None:
    """Exits with 4 where something was changed."""
    path = Path(arguments.file)
    try:
        first, head = verify(path)
    except BrokenChainError as error:
        print(f"broken: {error}")
        sys.exit(4)
    if not head.number:
        raise SettingsError(f"{path}: there is no audit log")
    print(f"whole: lines {first} to {head.number}, the last with hash {head.hash}")
