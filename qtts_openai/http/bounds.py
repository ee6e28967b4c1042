"""How long a connection may take, how many there may be, and how large a body is on which route."""

import os
import re
import resource

import msgspec

from qtts_openai.settings import Limits, RefAudioSettings, ServerSettings

KIB = 1 << 10
# A request without texts of any length worth the name: names, numbers, a few hundred short words.
SMALL_BODY = 64 * KIB
# JSON may write one character in twelve bytes: \ud83d\ude00.
BYTES_PER_CHAR = 12
# Files that a process needs beside its connections: worker restarts, records, uploads on disk.
RESERVED_FILES = 32

VERIFY_PATH = "/v1/audio/verify"
FORM_PATHS = frozenset({"/v1/audio/voices", "/v1/audio/voice_consents", VERIFY_PATH})
SPEECH_PATH = "/v1/audio/speech"


class ConnectionBounds(msgspec.Struct, frozen=True):
    """Seconds, but for the first two."""

    max_head_bytes: int
    max_connections: int
    head_s: float
    body_s: float
    write_s: float
    idle_s: float

    @classmethod
    def of(cls, server: ServerSettings) -> "ConnectionBounds":
        return cls(
            max_head_bytes=server.max_head_bytes,
            max_connections=server.max_connections or max_connections_of_system(),
            head_s=server.head_timeout_s,
            body_s=server.body_timeout_s,
            write_s=server.write_timeout_s,
            idle_s=server.keep_alive_s,
        )


def max_connections_of_system() -> int:
    """By the limit of open files, less those open now and a reserve."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return 4096
    return max(8, min(4096, soft - len(os.listdir("/proc/self/fd")) - RESERVED_FILES))


class BodyBounds:
    """The largest body of a route, by what its fields may hold."""

    def __init__(self, limits: Limits, ref_audio: RefAudioSettings, max_long_chars: int) -> None:
        chars = max(limits.max_input_chars, max_long_chars) + limits.max_instructions_chars
        self._most = limits.max_body_bytes
        self._items = limits.max_batch_items
        self._texts = SMALL_BODY + BYTES_PER_CHAR * chars
        self._base64 = ref_audio.max_bytes * 4 // 3 + 4
        self._form = ref_audio.max_bytes + SMALL_BODY

    def of(self, path: str, is_form: bool, clones: bool) -> int:
        """`clones`: a model is loaded for which a request may bring reference audio."""
        speech = self._texts + (self._base64 if clones else 0)
        if path == SPEECH_PATH:
            return min(speech, self._most)
        if path == VERIFY_PATH and is_form:
            return self._most
        if path == f"{SPEECH_PATH}/batch":
            return min(speech * self._items, self._most)
        return min(self._form if is_form and path in FORM_PATHS else SMALL_BODY, self._most)


def plain_path(path: str) -> str:
    """As the router reads it: single slashes, none at the end."""
    return re.sub("//+", "/", path).rstrip("/") or "/"
