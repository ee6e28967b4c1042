"""What the settings say of provenance, for each answer. The libraries that sign are loaded only
where signing is on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from qtts_openai.errors import ApiError
from qtts_openai.provenance.audit import Trail
from qtts_openai.provenance.marks import Mark
from qtts_openai.provenance.watermark import Watermark
from qtts_openai.schemas import SpeechRequest
from qtts_openai.settings import ProvenanceSettings, SettingsError

if TYPE_CHECKING:
    from qtts_openai.provenance.signing import Seal

EXTRA = "needs more packages: pip install 'qtts-openai[provenance]'"


class Provenance(msgspec.Struct, frozen=True):
    """Of one answer. `mark` and `watermark` go into its audio; `seal` (a signature) and `trail`
    (the audit log) are told all bytes that are sent.
    """

    mark: Mark | None = None
    watermark: Watermark | None = None
    seal: Seal | None = None
    trail: Trail | None = None

    def add(self, sent: bytes) -> None:
        for hashing in (self.seal, self.trail):
            if hashing:
                hashing.add(sent)


class Signing:
    """SettingsError where it is on and cannot be done."""

    def __init__(self, settings: ProvenanceSettings) -> None:
        self.is_on = settings.c2pa
        if not self.is_on:
            return
        for name in ("certificate", "key"):
            if getattr(settings, name) is None:
                message = "c2pa needs it; `qtts keys create` makes one"
                raise SettingsError(message, f"provenance.{name}")
        assert settings.certificate and settings.key
        try:
            from qtts_openai.provenance import keys, signing
        except ImportError as error:
            raise SettingsError(EXTRA, "provenance.c2pa") from error
        self._module = signing
        credentials = keys.load_credentials(settings.certificate, settings.key)
        self._signer = signing.Signer(credentials, settings.time_authority)
        self._statements = signing.Statements(settings.max_manifests, settings.manifest_keep_s)

    def seal(
        self, request: SpeechRequest, model: str, content_type: str, owner: str, id_: str | None
    ) -> Seal | None:
        if not self.is_on:
            return None
        digest = self._module.digest_of(model, request)
        claim = self._module.Claim(model, content_type, digest)

        def keep(statement: bytes) -> None:
            if id_:
                self._statements.put(owner, id_, statement)

        return self._module.Seal(self._signer, claim, keep)

    def statement(self, owner: str, id_: str) -> bytes:
        """404 where it is not there, for this owner."""
        found = self._statements.get(owner, id_) if self.is_on else None
        if found is None:
            why = (
                "too old, another caller's, or broken off"
                if self.is_on
                else "provenance.c2pa is off"
            )
            message = f"There is no manifest of a request {id_!r}: {why}."
            raise ApiError(404, message, param="request_id", code="manifest_not_found")
        return found
