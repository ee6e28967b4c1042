"""The mark that says of an answer, in the fields that players and tools read, that it is made by a
machine, by which software and which model. Never what was said, nor who asked.

    mp3         ID3v2.4 before the first frame and ID3v1 after the last, so that joined files play
                on: where one ends and the next begins, decoders meet "TAG" first, which they drop
                together with what follows, up to and with the encoder's empty first frame. (ID3v2
                alone is an error there for FFmpeg.) No byte of either is 0xFF, as frames begin
    opus, flac  Vorbis comments
    wav         bext and LIST INFO: behind the samples of a whole file, so that its header stays at
                the 44 bytes that some clients count on; a stream, whose length is not known, has
                room only before them, which is an option
    aac, pcm, ulaw, alaw   no place for it: HTTP header and event only
"""

import struct
from typing import Any
from urllib.parse import quote

import msgspec

from qtts_openai import __version__

SOFTWARE = f"qtts-openai {__version__}"
# https://cv.iptc.org/newscodes/digitalsourcetype/
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
STATEMENT = "AI-generated speech"
HEADER = "x-synthetic-speech"

_BEXT_BYTES = 602  # EBU Tech 3285: without coding history
_GENRE_SPEECH = 101  # of ID3v1's list
_UTF8 = b"\x03"


class Mark(msgspec.Struct, frozen=True):
    model: str
    # Before the samples of a wav stream, too.
    in_wav_streams: bool = False

    def headers(self) -> dict[str, str]:
        # What else a model may be called has no place in a header.
        model = quote(self.model, safe="/:@+ ")
        return {HEADER: f'ai-generated; software="{SOFTWARE}"; model="{model}"'}

    def event(self) -> dict[str, Any]:
        """Of server-sent events and of the items of a batch."""
        said = {"software": SOFTWARE, "model": self.model, "digital_source_type": SOURCE_TYPE}
        return {"synthetic_speech": said}

    def comments(self) -> dict[str, str]:
        """As FFmpeg's muxers take them."""
        return {
            "comment": STATEMENT,
            "SOFTWARE": SOFTWARE,
            "MODEL": self.model,
            "DIGITALSOURCETYPE": SOURCE_TYPE,
        }

    def id3(self) -> bytes:
        frames = _id3_frame(b"TSSE", SOFTWARE)
        frames += _id3_frame(b"COMM", "\0" + STATEMENT, prefix=b"eng")
        for name, value in (("DigitalSourceType", SOURCE_TYPE), ("Model", self.model)):
            frames += _id3_frame(b"TXXX", f"{name}\0{value}")
        return b"ID3\4\0\0" + _synchsafe(len(frames)) + frames

    def id3v1(self) -> bytes:
        fields = (STATEMENT, SOFTWARE, self.model, "", STATEMENT)
        texts = struct.pack("30s30s30s4s30s", *(text.encode("ascii", "replace") for text in fields))
        return b"TAG" + texts + bytes([_GENRE_SPEECH])

    def riff(self) -> bytes:
        comment = f"{STATEMENT}; model={self.model}; digitalSourceType={SOURCE_TYPE}"
        info = (
            b"INFO" + _riff_chunk(b"ISFT", _text(SOFTWARE)) + _riff_chunk(b"ICMT", _text(comment))
        )
        description = f"{STATEMENT}; {SOURCE_TYPE}".encode()[:256]
        bext = struct.pack("<256s32s", description, SOFTWARE.encode()[:32]).ljust(
            _BEXT_BYTES, b"\0"
        )
        return _riff_chunk(b"bext", bext) + _riff_chunk(b"LIST", info)


def _id3_frame(name: bytes, text: str, prefix: bytes = b"") -> bytes:
    body = _UTF8 + prefix + text.encode() + b"\0"
    return name + _synchsafe(len(body)) + b"\0\0" + body


def _synchsafe(number: int) -> bytes:
    """28 bits, seven in each byte."""
    return bytes(number >> shift & 0x7F for shift in (21, 14, 7, 0))


def _text(text: str) -> bytes:
    return text.encode() + b"\0"


def _riff_chunk(name: bytes, data: bytes) -> bytes:
    """Chunks begin at even places; the byte between is not counted."""
    return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)
