"""What is fuzzed. A target takes a random number source and a running server, sends one hostile
input and returns what came of it; Failure is what must not come.
"""

import asyncio
import base64
import json
from collections.abc import Callable
from random import Random
from typing import Any
from urllib.parse import quote

import httpx

from qtts_openai import schemas
from qtts_openai.decoding.client import AudioDecoder, DecodeError
from qtts_openai.errors import ApiError
from tests.fuzz import seeds
from tests.fuzz.live import LIVE
from tests.fuzz.mutation import VALUES, mutate
from tests.fuzz.server import Failure, Running

BOUNDARY = "----b"
FILES = ("audio_sample", "recording")

JSON_SEEDS = (
    {"model": "tts-1", "voice": "alloy", "input": "Hi.", "max_new_tokens": 2},
    {"model": "tts-1", "voice": {"id": "ash"}, "input": "a [pause:10ms] b", "pause_tags": True},
    {"model": "tts-1", "voice": "alloy", "input": "SQL", "pronunciations": {"SQL": "sequel"}},
    {"model": "base", "input": "Hi.", "ref_audio": "UklGRg==", "ref_text": "x", "seed": 7},
    {"model": "base", "input": "Hi.", "references": [{"audio": "data:;base64,AAAA", "text": "x"}]},
    {"model": "tts-1", "voice": "alloy", "input": "Hi.", "speed": 1.5, "sample_rate": 8000,
     "response_format": "wav", "stream_format": "sse", "temperature": 0.5, "top_k": 3,
     "top_p": 0.9, "repetition_penalty": 1.1, "language": "en", "instructions": "calm"},
)  # fmt: skip


def media(random: Random) -> bytes:
    good, bad = [seeds.good(name) for name in seeds.GOOD], list(seeds.BAD.values())
    chosen = random.choice(good if random.random() < 0.9 else bad)
    return mutate(random, chosen, good + bad)


def decode(random: Random, decoder: AudioDecoder, runner: asyncio.Runner) -> str:
    """A media file through the decoder's process."""
    try:
        runner.run(decoder.decode(media(random)))
    except DecodeError:
        return "not decoded"
    return "decoded"


def parse(random: Random) -> str:
    """A JSON body through what reads bodies, before any server."""
    try:
        schemas.read_speech(schemas.parse_json(json_body(random)))
    except ApiError as error:
        if error.status >= 500:
            raise Failure(str(error)) from error
        return str(error.status)
    return "read"


def json_body(random: Random) -> bytes:
    body: dict[str, Any] = dict(random.choice(JSON_SEEDS))
    for _ in range(random.randrange(3)):
        body[random.choice((*schemas.KNOWN_FIELDS, "references", "speaker", "x"))] = random.choice(
            VALUES
        )
    raw = json.dumps(body).encode()
    return mutate(random, raw, [raw]) if random.random() < 0.6 else raw


def http_json(random: Random, server: Running) -> str:
    return _send(server, "/v1/audio/speech", json_body(random), "application/json")


def http_reference(random: Random, server: Running) -> str:
    reference = base64.b64encode(media(random)).decode()
    body = {"model": "base", "input": "Hi.", "max_new_tokens": 2, "ref_audio": reference}
    return _send(server, "/v1/audio/speech", json.dumps(body).encode(), "application/json")


def http_sample(random: Random, server: Running) -> str:
    body = multipart(name=b"n%d" % random.getrandbits(40), audio_sample=media(random))
    return _send(server, "/v1/audio/voices", body, f"multipart/form-data; boundary={BOUNDARY}")


def http_multipart(random: Random, server: Running) -> str:
    """The form itself is broken, its head too."""
    name, audio = b"n%d" % random.getrandbits(40), seeds.good("aac")
    body = multipart(name=name, audio_sample=audio, language=b"en", recording=audio)
    kind = f"multipart/form-data; boundary={BOUNDARY}".encode()
    if random.random() < 0.2:
        kind = bytes(byte for byte in mutate(random, kind, [kind]) if 32 <= byte < 127)
    path = random.choice(("/v1/audio/voices", "/v1/audio/voice_consents"))
    return _send(server, path, mutate(random, body, [body]), kind.decode().strip())


def http_voice(random: Random, server: Running) -> str:
    """A stored voice read, renamed, exported and deleted, by a name and a body that are odd."""
    form = multipart(name=b"r%d" % random.getrandbits(40), audio_sample=seeds.good("aac"))
    kind = f"multipart/form-data; boundary={BOUNDARY}"
    made = server.http.post("/v1/audio/voices", content=form, headers={"content-type": kind})
    if made.status_code != 200:
        raise Failure(f"no voice was made: {made.status_code} {made.text[:300]}")
    name = made.json()["id"].encode()
    body = json.dumps({"name": random.choice((f"s{random.getrandbits(40)}", *VALUES))}).encode()
    if random.random() < 0.4:
        name = mutate(random, name, [name, b"../..", b"/%2e%2e/", b"records.json"])
    if random.random() < 0.4:
        body = mutate(random, body, [body])
    path = f"/v1/audio/voices/{quote(name, safe='/' if random.random() < 0.5 else '')}"
    if (method := random.choice(("POST", "POST", "GET", "DELETE", "EXPORT"))) == "EXPORT":
        method, path = "GET", path.replace("/voices/", "/voice_archives/", 1)
    return _send(server, path, body if method == "POST" else b"", "application/json", method)


def multipart(**fields: bytes) -> bytes:
    fields = {"consent": b"I am the speaker and I agree.", **fields}
    parts = []
    for name, value in fields.items():
        file = '; filename="a.wav"\r\ncontent-type: audio/wav' if name in FILES else ""
        head = f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="{name}"{file}\r\n\r\n'
        parts.append(head.encode() + value + b"\r\n")
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def _send(server: Running, path: str, body: bytes, kind: str, method: str = "POST") -> str:
    try:
        answer = server.http.request(method, path, content=body, headers={"content-type": kind})
    except httpx.HTTPError as error:
        raise Failure(f"{type(error).__name__}: {error}") from error
    if answer.status_code >= 500:
        raise Failure(f"{answer.status_code}: {answer.text[:300]}")
    return str(answer.status_code)


HTTP: dict[str, Callable[[Random, Running], str]] = {
    "http_sample": http_sample,
    "http_reference": http_reference,
    "http_multipart": http_multipart,
    "http_json": http_json,
    "http_voice": http_voice,
    **LIVE,
}
