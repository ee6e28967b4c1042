"""The key and certificates that answers are signed with: read, or made for a server of one's own.

A chain made here proves that files come from whoever holds the key, to those who were given
root.pem. Public validators know none of it: for them an operator needs a certificate of an
authority on C2PA's trust list.
"""

import datetime
import os
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from qtts_openai.provenance.statements import ALGORITHMS
from qtts_openai.settings import SettingsError

VALID_DAYS = 5 * 365


class Credentials(msgspec.Struct, frozen=True):
    """`chain`: the signer's certificate first."""

    key: ec.EllipticCurvePrivateKey
    chain: tuple[x509.Certificate, ...]

    @property
    def algorithm(self) -> str:
        return ALGORITHMS[self.key.curve.name][0]

    def key_pem(self) -> bytes:
        pem: bytes = self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return pem

    def chain_pem(self) -> bytes:
        return b"".join(_pem(certificate) for certificate in self.chain)

    def sign(self, data: bytes) -> bytes:
        """r and s side by side, as JOSE has them."""
        _, method, size = ALGORITHMS[self.key.curve.name]
        halves = utils.decode_dss_signature(self.key.sign(data, method))
        return b"".join(half.to_bytes(size, "big") for half in halves)


def load_credentials(certificate: str, key: str) -> Credentials:
    chain = tuple(_read(certificate, "certificate", x509.load_pem_x509_certificates))
    private = _read(key, "key", lambda pem: serialization.load_pem_private_key(pem, None))
    if not isinstance(private, ec.EllipticCurvePrivateKey) or private.curve.name not in ALGORITHMS:
        raise SettingsError(f"{key}: a key on P-256 or P-384 is needed", "provenance.key")
    if chain[0].public_key() != private.public_key():
        message = f"{certificate}: its first certificate is not that of {key}"
        raise SettingsError(message, "provenance.certificate")
    if chain[0].not_valid_after_utc < datetime.datetime.now(datetime.UTC):
        raise SettingsError(f"{certificate}: it is no longer valid", "provenance.certificate")
    return Credentials(private, chain)


def _read(path: str, name: str, parse):  # type: ignore[no-untyped-def]
    try:
        return parse(Path(path).read_bytes())
    except (OSError, ValueError, TypeError) as error:
        raise SettingsError(f"{path}: cannot be read: {error}", f"provenance.{name}") from error


def create_keys(directory: Path, organisation: str) -> list[Path]:
    """root.pem for those who verify; certificate.pem and key.pem for the server. The root's own key
    is not kept, so nothing else is ever signed by it. FileExistsError where there are some.
    """
    root_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root_name, name = _name(organisation, "root"), _name(organisation, "speech server")
    root = _certificate(root_name, root_key, root_name, root_key, is_authority=True)
    leaf = _certificate(name, key, root_name, root_key, is_authority=False)
    made = Credentials(key, (leaf, root))
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    files = {"key.pem": (made.key_pem(), 0o600), "certificate.pem": (made.chain_pem(), 0o644)}
    files["root.pem"] = (_pem(root), 0o644)
    for file_name, (data, mode) in files.items():
        path = directory / file_name
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data)
    return [directory / file_name for file_name in files]


def _pem(certificate: x509.Certificate) -> bytes:
    pem: bytes = certificate.public_bytes(serialization.Encoding.PEM)
    return pem


def _name(organisation: str, common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation),
            x509.NameAttribute(NameOID.COMMON_NAME, f"{organisation} {common_name}"),
        ]
    )


def _certificate(
    name: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    is_authority: bool,
) -> x509.Certificate:
    """As C2PA's profile wants it: key usage for signatures only, and a purpose of e-mail or
    documents.
    """
    now = datetime.datetime.now(datetime.UTC)
    usage = x509.KeyUsage(
        digital_signature=not is_authority,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    issuer_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    builder = (
        x509.CertificateBuilder(issuer, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=VALID_DAYS))
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(issuer_id, critical=False)
    )
    if not is_authority:
        purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
        builder = builder.add_extension(purpose, critical=False)
    return builder.sign(issuer_key, hashes.SHA256())
