"""Signatures of answers: a C2PA manifest inside of whole mp3, wav and flac files, and for every
answer a statement beside it, which also does for streams and formats that C2PA has no place in.

The statement is a JWS (RFC 7515, flattened JSON) with the signer's certificates: the SHA-256 of all
bytes of the answer, what made it, when. Neither says who asked, nor what was said.
"""

import base64
import hashlib
import io
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import c2pa
import msgspec
from cryptography.hazmat.primitives.serialization import Encoding

from qtts_openai.provenance.keys import Credentials
from qtts_openai.provenance.marks import SOFTWARE, SOURCE_TYPE
from qtts_openai.schemas import SpeechRequest

# Whole files of these hold a manifest.
EMBEDDED = ("audio/mpeg", "audio/wav", "audio/flac")

# What of a request is no text and says nothing of a person.
_DIGESTED = (
    *("response_format", "sample_rate", "speed", "temperature", "top_k", "top_p", "seed"),
    *("repetition_penalty", "max_new_tokens", "language", "normalize"),
)


class Claim(msgspec.Struct, frozen=True):
    model: str
    content_type: str
    settings_sha256: str


def digest_of(model: str, request: SpeechRequest) -> str:
    chosen = {"model": model} | {name: getattr(request, name) for name in _DIGESTED}
    return hashlib.sha256(msgspec.json.encode(chosen, order="sorted")).hexdigest()


class Signer:
    """`time_authority`: a URL (RFC 3161) that says when C2PA manifests were signed."""

    def __init__(self, credentials: Credentials, time_authority: str | None = None) -> None:
        self._credentials = credentials
        self._info = c2pa.C2paSignerInfo(
            credentials.algorithm.lower().encode(),
            credentials.chain_pem(),
            credentials.key_pem(),
            time_authority.encode() if time_authority else None,
        )
        chain = [certificate.public_bytes(Encoding.DER) for certificate in credentials.chain]
        header = {
            "alg": credentials.algorithm,
            "x5c": [base64.b64encode(c).decode() for c in chain],
        }
        self._protected = _base64url(msgspec.json.encode(header))

    def embed(self, body: bytes, claim: Claim) -> bytes:
        """The file with a manifest in it; takes milliseconds. C2paError where it cannot be made."""
        software, version = SOFTWARE.split(" ", 1)
        created = {
            "action": "c2pa.created",
            "digitalSourceType": SOURCE_TYPE,
            "softwareAgent": {"name": claim.model},
        }
        assertions = [
            {"label": "c2pa.actions.v2", "data": {"actions": [created]}},
            {"label": "org.qtts.settings", "data": {"sha256": claim.settings_sha256}},
        ]
        generator = [{"name": software, "version": version}]
        manifest = {"claim_generator_info": generator, "assertions": assertions}
        signed = io.BytesIO()
        with c2pa.Signer.from_info(self._info) as signer, c2pa.Builder(manifest) as builder:
            builder.sign(signer, claim.content_type, io.BytesIO(body), signed)
        return signed.getvalue()

    def statement(self, claim: Claim, sha256: str, num_bytes: int) -> bytes:
        said = {
            "software": SOFTWARE,
            "digital_source_type": SOURCE_TYPE,
            "created_at": int(time.time()),
            "sha256": sha256,
            "num_bytes": num_bytes,
        }
        payload = _base64url(msgspec.json.encode(said | msgspec.structs.asdict(claim)))
        signature = self._credentials.sign(f"{self._protected}.{payload}".encode())
        fields = {"payload": payload, "protected": self._protected}
        return msgspec.json.encode(fields | {"signature": _base64url(signature)})


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Statements:
    """Those of the last answers, for whom they were made: at most `max_number`, each `keep_s`."""

    def __init__(
        self, max_number: int, keep_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_number, self._keep_s, self._clock = max_number, keep_s, clock
        self._kept: OrderedDict[tuple[str, str], tuple[float, bytes]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, owner: str, request_id: str, statement: bytes) -> None:
        """In the place of an older one under the same id."""
        self._kept.pop((owner, request_id), None)
        self._kept[owner, request_id] = (self._clock() + self._keep_s, statement)
        self._forget()

    def get(self, owner: str, request_id: str) -> bytes | None:
        self._forget()
        found = self._kept.get((owner, request_id))
        return found[1] if found else None

    def _forget(self) -> None:
        now = self._clock()
        while self._kept:
            until, _ = next(iter(self._kept.values()))
            if until > now and len(self._kept) <= self._max_number:
                return
            self._kept.popitem(last=False)


class Seal:
    """Signs one answer. `add` the bytes of a stream as they go and `finish`, or `whole`."""

    def __init__(self, signer: Signer, claim: Claim, keep: Callable[[bytes], Any]) -> None:
        self._signer, self._claim, self._keep = signer, claim, keep
        self._hash, self._num_bytes = hashlib.sha256(), 0

    def add(self, data: bytes) -> None:
        self._hash.update(data)
        self._num_bytes += len(data)

    def finish(self) -> None:
        """Only where the answer came to its end."""
        sha256 = self._hash.hexdigest()
        self._keep(self._signer.statement(self._claim, sha256, self._num_bytes))

    def whole(self, body: bytes) -> bytes:
        if self._claim.content_type in EMBEDDED:
            body = self._signer.embed(body, self._claim)
        self.add(body)
        self.finish()
        return body
