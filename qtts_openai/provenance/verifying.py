"""What tells where a file is from: the mark in its metadata, a C2PA manifest, a statement beside
it.
"""

import base64
import hashlib
import io
from pathlib import Path
from typing import Any, Literal

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature

from qtts_openai.provenance.keys import has_signed
from qtts_openai.provenance.marks import STATEMENT

_NONE = ("C2paError.ManifestNotFound", "no JUMBF", "ManifestNotFound")
_TYPES = {b"ID3": "audio/mpeg", b"RIFF": "audio/wav", b"fLaC": "audio/flac"}


class Finding(msgspec.Struct, frozen=True):
    """`untrusted`: unchanged since it was signed, by somebody whom no given root vouches for."""

    what: Literal["mark", "c2pa", "statement"]
    verdict: Literal["present", "absent", "valid", "untrusted", "invalid", "unchecked"]
    detail: str = ""


def examine(data: bytes, statement: bytes | None, root: bytes | None) -> list[Finding]:
    """`root`: a certificate in PEM that signers may rest on."""
    findings = [_mark(data), _c2pa(data, root)]
    if statement is not None:
        findings.append(_statement(data, statement, root))
    return findings


def _mark(data: bytes) -> Finding:
    found = STATEMENT.encode() in data[: 1 << 16] + data[-(1 << 16) :]
    return Finding("mark", "present", STATEMENT) if found else Finding("mark", "absent")


def _c2pa(data: bytes, root: bytes | None) -> Finding:
    content_type = next((kind for head, kind in _TYPES.items() if data.startswith(head)), None)
    if data.startswith(b"ID3") and b"fLaC" in data[: 1 << 20]:
        content_type = "audio/flac"  # C2PA puts its tag before the file
    if content_type is None:
        return Finding("c2pa", "absent", "a format without C2PA")
    try:
        import c2pa
    except ImportError:
        return Finding("c2pa", "unchecked", "install qtts-openai[provenance]")
    anchors = {"user_anchors": root.decode()} if root else {}
    settings = c2pa.Settings.from_dict({"verify": {"verify_trust": True}, "trust": anchors})
    try:
        reader = c2pa.Reader(
            content_type, io.BytesIO(data), context=c2pa.Context(settings=settings)
        )
    except c2pa.C2paError as error:
        if any(word in f"{type(error).__name__} {error}" for word in _NONE):
            return Finding("c2pa", "absent")
        return Finding("c2pa", "invalid", str(error))
    with reader:
        results: Any = reader.get_validation_results() or {}
    failed = [one["code"] for one in results.get("activeManifest", {}).get("failure", [])]
    if not failed:
        return Finding("c2pa", "valid")
    verdict: Any = "untrusted" if failed == ["signingCredential.untrusted"] else "invalid"
    return Finding("c2pa", verdict, ", ".join(failed))


def _statement(data: bytes, statement: bytes, root: bytes | None) -> Finding:
    try:
        claim, chain = _opened(statement)
    except (msgspec.MsgspecError, ValueError, KeyError, TypeError, IndexError) as error:
        return Finding("statement", "invalid", f"cannot be read: {error}")
    if chain is None:
        return Finding("statement", "invalid", "the signature is not that of its certificate")
    if claim["sha256"] != hashlib.sha256(data).hexdigest():
        return Finding("statement", "invalid", "it speaks of other bytes")
    detail = f"{claim['software']}, model {claim['model']}"
    trusted = root is not None and _rests_on(chain, root)
    return Finding("statement", "valid" if trusted else "untrusted", detail)


def _opened(statement: bytes) -> tuple[dict[str, Any], list[x509.Certificate] | None]:
    """What was signed, and the certificates; None for these where the signature is wrong."""
    fields = msgspec.json.decode(statement, type=dict[str, str])
    header = msgspec.json.decode(_decoded(fields["protected"]))
    chain = [x509.load_der_x509_certificate(base64.b64decode(one)) for one in header["x5c"]]
    signed = f"{fields['protected']}.{fields['payload']}".encode()
    is_right = has_signed(chain[0], _decoded(fields["signature"]), signed)
    claim = msgspec.json.decode(_decoded(fields["payload"]), type=dict[str, Any])
    return claim, chain if is_right else None


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _rests_on(chain: list[x509.Certificate], root: bytes) -> bool:
    """Each certificate was issued by the next, and the last by the root."""
    anchor = x509.load_pem_x509_certificate(root)
    try:
        for one, issuer in zip(chain, [*chain[1:], anchor], strict=True):
            one.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def exit_status(findings: list[Finding]) -> int:
    """0: something was found and nothing speaks against it; 3: nothing; 4: something is wrong."""
    verdicts = {finding.verdict for finding in findings}
    if "invalid" in verdicts:
        return 4
    return 0 if verdicts & {"present", "valid", "untrusted"} else 3


def read_optional(path: str | None) -> bytes | None:
    return Path(path).read_bytes() if path else None
