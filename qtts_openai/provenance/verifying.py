"""What tells where a file is from: the mark in its metadata, a C2PA manifest, a statement beside
it. Loads little: it runs in a process of its own for each file that is sent to a server.
"""

import hashlib
import io
from importlib.util import find_spec
from typing import Any

import msgspec

from qtts_openai.answers import Finding, VerifyAnswer, answer_of
from qtts_openai.provenance.marks import STATEMENT

HAS_EXTRA = all(find_spec(name) is not None for name in ("c2pa", "cryptography"))
if HAS_EXTRA:
    import c2pa

    from qtts_openai.provenance import statements

EXIT_STATUS = {"right": 0, "nothing": 3, "wrong": 4}

_UNCHECKED = "needs: pip install 'qtts-openai[provenance]'"
_NONE = ("C2paError.ManifestNotFound", "no JUMBF", "ManifestNotFound")
_TYPES = {b"ID3": "audio/mpeg", b"RIFF": "audio/wav", b"fLaC": "audio/flac"}


def examine(data: bytes, statement: bytes | None, root: bytes | None) -> VerifyAnswer:
    """`root`: a certificate in PEM that signers may rest on; ValueError where it is none."""
    if root and HAS_EXTRA:
        statements.read_root(root)
    findings = [_mark(data), _c2pa(data, root)]
    if statement is not None:
        findings.append(_statement(data, statement, root))
    return answer_of(findings)


def examine_sent(data: bytes, statement: bytes, root: bytes) -> VerifyAnswer:
    """`examine`, of fields of a request, of which an empty one was not given."""
    return examine(data, statement or None, root or None)


def _mark(data: bytes) -> Finding:
    if STATEMENT.encode() in data[: 1 << 16] + data[-(1 << 16) :]:
        return Finding(what="mark", verdict="present", detail=STATEMENT)
    return Finding(what="mark", verdict="absent")


def _c2pa(data: bytes, root: bytes | None) -> Finding:
    content_type = next((kind for head, kind in _TYPES.items() if data.startswith(head)), None)
    if data.startswith(b"ID3") and b"fLaC" in data[: 1 << 20]:
        content_type = "audio/flac"  # C2PA puts its tag before the file
    if content_type is None:
        return Finding(what="c2pa", verdict="absent", detail="a format without C2PA")
    if not HAS_EXTRA:
        return Finding(what="c2pa", verdict="unchecked", detail=_UNCHECKED)
    anchors = {"user_anchors": root.decode()} if root else {}
    # A manifest may say that it lies elsewhere: nobody is asked for it.
    checks = {"verify_trust": True, "remote_manifest_fetch": False, "ocsp_fetch": False}
    settings = c2pa.Settings.from_dict({"verify": checks, "trust": anchors})
    try:
        reader = c2pa.Reader(
            content_type, io.BytesIO(data), context=c2pa.Context(settings=settings)
        )
    except c2pa.C2paError as error:
        if any(word in f"{type(error).__name__} {error}" for word in _NONE):
            return Finding(what="c2pa", verdict="absent")
        return Finding(what="c2pa", verdict="invalid", detail=str(error)[:500])
    with reader:
        results: Any = reader.get_validation_results() or {}
    failed = [one["code"] for one in results.get("activeManifest", {}).get("failure", [])]
    if not failed:
        return Finding(what="c2pa", verdict="valid")
    verdict: Any = "untrusted" if failed == ["signingCredential.untrusted"] else "invalid"
    return Finding(what="c2pa", verdict=verdict, detail=", ".join(failed)[:500])


def _statement(data: bytes, statement: bytes, root: bytes | None) -> Finding:
    if not HAS_EXTRA:
        return Finding(what="statement", verdict="unchecked", detail=_UNCHECKED)
    try:
        claim, chain = statements.open_statement(statement)
        sha256, detail = claim["sha256"], f"{claim['software']}, model {claim['model']}"
    except (msgspec.MsgspecError, ValueError, KeyError, TypeError, IndexError) as error:
        return _invalid_statement(f"cannot be read: {error}"[:500])
    if chain is None:
        return _invalid_statement("the signature is not that of its certificate")
    if sha256 != hashlib.sha256(data).hexdigest():
        return _invalid_statement("it speaks of other bytes")
    is_trusted = root is not None and statements.rests_on(chain, statements.read_root(root))
    verdict: Any = "valid" if is_trusted else "untrusted"
    return Finding(what="statement", verdict=verdict, detail=detail[:500])


def _invalid_statement(why: str) -> Finding:
    return Finding(what="statement", verdict="invalid", detail=why)
