"""Reading signed statements (signing.py): whose signature, and whose root it rests on."""

import base64
from typing import Any

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

# As in JOSE and C2PA, with the bytes of each half of a signature. Made here, since ECDSA loads
# modules when it is first used, which a sandbox forbids.
ALGORITHMS = {
    "secp256r1": ("ES256", ec.ECDSA(hashes.SHA256()), 32),
    "secp384r1": ("ES384", ec.ECDSA(hashes.SHA384()), 48),
}


def open_statement(statement: bytes) -> tuple[dict[str, Any], list[x509.Certificate] | None]:
    """What was signed, and the certificates; None for these where the signature is wrong. A
    ValueError or its like where it cannot be read.
    """
    fields = msgspec.json.decode(statement, type=dict[str, str])
    header = msgspec.json.decode(_decoded(fields["protected"]))
    chain = [x509.load_der_x509_certificate(base64.b64decode(one)) for one in header["x5c"]]
    signed = f"{fields['protected']}.{fields['payload']}".encode()
    is_right = _has_signed(chain[0], _decoded(fields["signature"]), signed)
    claim = msgspec.json.decode(_decoded(fields["payload"]), type=dict[str, Any])
    return claim, chain if is_right else None


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _has_signed(certificate: x509.Certificate, signature: bytes, data: bytes) -> bool:
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in ALGORITHMS:
        return False
    _, method, size = ALGORITHMS[key.curve.name]
    if len(signature) != 2 * size:
        return False
    halves = (int.from_bytes(signature[:size], "big"), int.from_bytes(signature[size:], "big"))
    try:
        key.verify(utils.encode_dss_signature(*halves), data, method)
    except InvalidSignature:
        return False
    return True


def read_root(root: bytes) -> x509.Certificate:
    """ValueError where it is none."""
    try:
        return x509.load_pem_x509_certificate(root)
    except ValueError as error:
        raise ValueError("root: it is no certificate in PEM") from error


def rests_on(chain: list[x509.Certificate], root: x509.Certificate) -> bool:
    """Each certificate was issued by the next, and the last by the root."""
    try:
        for one, issuer in zip(chain, [*chain[1:], root], strict=True):
            one.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
