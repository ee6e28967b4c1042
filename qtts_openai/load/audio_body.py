"""Bytes of an answer to /v1/audio/speech -> PCM, piece by piece: raw PCM, wav, and either in SSE.

What comes is read from the bytes themselves (a RIFF header or none), so that a server that answers
in another of these forms than asked is measured all the same. Anything compressed is an error: its
bytes do not tell which sample arrived when.
"""

import base64
import binascii
import json
import re
import struct
from collections.abc import Iterator, Mapping
from typing import Protocol

PCM_TYPES = ("audio/", "application/octet-stream", "binary/octet-stream")
COMPRESSED_TYPES = re.compile(r"audio/(mpeg|mp3|ogg|opus|aac|flac|x-flac|webm|mp4)")
COMPRESSED_MAGIC = (b"ID3", b"OggS", b"fLaC")
HEADER_BYTES = 4


class BodyError(Exception):
    """The answer is not speech that can be measured; `kind` is a short name to count it by."""

    def __init__(self, kind: str, message: str = "") -> None:
        super().__init__(message or kind)
        self.kind = kind


class Body(Protocol):
    @property
    def rate_hz(self) -> int: ...

    def feed(self, data: bytes) -> bytes:
        """The PCM that `data` brings, header and envelope taken off."""

    def finish(self) -> None:
        """BodyError when the end came too soon."""


def open_body(headers: Mapping[str, str], default_rate_hz: int) -> Body:
    """By the answer's headers (lower-case names). A WAV header overrides the sample rate they
    tell.
    """
    content_type = headers.get("content-type", "audio/pcm").lower()
    rate = re.search(r"rate=(\d+)", content_type)
    rate_hz = int(rate[1] if rate else headers.get("x-sample-rate", default_rate_hz))
    if content_type.startswith("text/event-stream"):
        return SseBody(PcmBody(rate_hz))
    if COMPRESSED_TYPES.match(content_type) or not content_type.startswith(PCM_TYPES):
        raise BodyError("not_pcm", f"the answer is {content_type}")
    return PcmBody(rate_hz)


class PcmBody:
    """int16 mono PCM, behind a WAV header or bare."""

    def __init__(self, rate_hz: int) -> None:
        self.rate_hz = rate_hz
        self._head: bytes | None = b""  # until it is known where samples begin

    def feed(self, data: bytes) -> bytes:
        if self._head is None:
            return data
        self._head += data
        start = self._start_of_samples(self._head)
        if start is None:
            return b""
        head, self._head = self._head, None
        return head[start:]

    def finish(self) -> None:
        if self._head:
            raise BodyError("cut_header", "the body ended within its header")

    def _start_of_samples(self, head: bytes) -> int | None:
        if len(head) < HEADER_BYTES:
            return None
        if head.startswith(COMPRESSED_MAGIC):
            raise BodyError("not_pcm", "the body is compressed")
        return self._end_of_wav_header(head) if head.startswith(b"RIFF") else 0

    def _end_of_wav_header(self, head: bytes) -> int | None:
        """RIFF size WAVE, then chunks of name, size, content (padded to even) up to `data`.

        Sizes of `data` are not believed: a server that streams cannot know them.
        """
        at = 12
        while len(head) >= at + 8:
            name, size = struct.unpack_from("<4sI", head, at)
            at += 8
            if name == b"data":
                return at
            if name == b"fmt " and len(head) >= at + 16:
                self._read_format(head, at)
            at += size + size % 2
        return None

    def _read_format(self, head: bytes, at: int) -> None:
        _, channels, rate_hz, _, _, bits = struct.unpack_from("<HHIIHH", head, at)
        if (channels, bits) != (1, 16):
            raise BodyError("not_pcm", f"{channels} channels of {bits} bits")
        self.rate_hz = rate_hz


class SseBody:
    """Events `speech.audio.delta` with base64 in `audio`, then `speech.audio.done`.

    An event counts from the arrival of its last byte.
    """

    def __init__(self, inner: PcmBody) -> None:
        self._inner = inner
        self._line = b""
        self._done = False

    @property
    def rate_hz(self) -> int:
        return self._inner.rate_hz

    def feed(self, data: bytes) -> bytes:
        *lines, self._line = (self._line + data).split(b"\n")
        return b"".join(self._inner.feed(audio) for audio in self._deltas(lines))

    def finish(self) -> None:
        self._inner.finish()
        if not self._done:
            raise BodyError("sse_unfinished", "the events ended without speech.audio.done")

    def _deltas(self, lines: list[bytes]) -> Iterator[bytes]:
        for line in lines:
            if not line.startswith(b"data:"):
                continue
            text = line.removeprefix(b"data:").strip()
            if text == b"[DONE]":
                self._done = True
                continue
            try:
                event = json.loads(text)
                audio = base64.b64decode(event.get("audio") or event.get("delta") or "")
            except (ValueError, AttributeError, TypeError, binascii.Error) as error:
                raise BodyError("sse_garbled", f"not an event: {text[:80]!r}") from error
            if event.get("error") or "error" in str(event.get("type")):
                raise BodyError("sse_error", str(event)[:200])
            self._done |= event.get("type") == "speech.audio.done"
            yield audio
