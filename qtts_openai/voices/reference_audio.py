"""Reference audio of a request: base64 or a data: URL -> bytes -> what the engine takes."""

import base64
import binascii
import re
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import unquote

from engine import ReferenceAudio
from qtts_openai.decoding.client import AudioDecoder, DecodeError, DecoderUnavailableError
from qtts_openai.decoding.turns import BusyError
from qtts_openai.errors import ApiError, invalid, retry_headers

_DATA_URL = re.compile(r"^data:[^,]{0,200},", re.I)
_URL = re.compile(r"^[a-z][a-z0-9+.-]*://", re.I)
RETRY_S = 2.0


def decode_base64(text: str, param: str = "ref_audio") -> bytes:
    """In the standard or the URL alphabet, with padding or without, as helpers of browsers write
    it.
    """
    if _URL.match(text):
        raise invalid(f"{param}: only a data: URL or base64 text is accepted here.", param)
    text = _DATA_URL.sub("", text)
    if "%" in text:  # a data: URL may escape + / =
        text = unquote(text)
    text = "".join(text.split()).replace("-", "+").replace("_", "/").rstrip("=")
    if not text:
        raise invalid(f"{param}: it is empty; send audio as base64.", param)
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid(f"{param}: not valid base64: {error}.", param) from error


async def read_reference(decoder: AudioDecoder, data: bytes, param: str) -> ReferenceAudio:
    """A 400 that names `param` where the file cannot be used, whatever it did to its decoder."""
    with told_of(param):
        return await decoder.decode(data)


@contextmanager
def told_of(param: str) -> Iterator[None]:
    """What a decoder raises, as an answer that names the field of the file."""
    try:
        yield
    except DecodeError as error:
        raise invalid(f"{param}: {error}.", param) from error
    except BusyError as error:
        raise busy() from error
    except DecoderUnavailableError as error:
        message = "Audio cannot be decoded at the moment."
        raise ApiError(
            503, message, code="decoder_unavailable", headers=retry_headers(RETRY_S)
        ) from error


def busy() -> ApiError:
    message = "Too much audio is being read; send it again later."
    return ApiError(429, message, code="decoder_busy", headers=retry_headers(RETRY_S))
