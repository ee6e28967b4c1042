"""Whose voice a recording is, as far as a speaker encoder can tell: that of its consent, and none
that is protected. The engine hears recordings; here their embeddings are compared (cosine).
"""

import asyncio
import logging
from pathlib import Path
from typing import Protocol

import numpy as np

from engine import ReferenceAudio
from qtts_openai.decoding.client import AudioDecoder, DecodeError
from qtts_openai.errors import ApiError, invalid
from qtts_openai.settings import CloningSettings, SettingsError
from qtts_openai.voices.records import is_consent_id
from qtts_openai.voices.reference_audio import read_reference
from qtts_openai.voices.store import VoiceStore

logger = logging.getLogger(__name__)

# Of a file in the directory of protected voices.
MAX_FILE_BYTES = 64 << 20


class Engine(Protocol):
    async def embed(self, model: str, samples: bytes) -> bytes: ...


class Likeness:
    """SettingsError where the directory of protected voices is not there."""

    def __init__(
        self, settings: CloningSettings, engine: Engine, store: VoiceStore, decoder: AudioDecoder
    ) -> None:
        self._settings, self._engine = settings, engine
        self._store, self._decoder = store, decoder
        # Of files of protected voices, by model, path, size and time.
        self._known: dict[tuple[str, str, int, int], np.ndarray] = {}
        directory = settings.protected_voices
        if directory is not None and not Path(directory).is_dir():
            raise SettingsError(f"there is no folder {directory}", "cloning.protected_voices")

    async def check(
        self, model: str, reference: ReferenceAudio, consent: str | None, param: str
    ) -> float | None:
        """Before a voice is cloned: how like the voice of its consent it is, from -1 to 1, where
        that is asked. 403 `voice_protected`, naming `param`; 400 `voice_mismatch`.
        """
        settings = self._settings
        compares = settings.consent_similarity > 0 and consent is not None
        compares = compares and is_consent_id(consent or "")
        if settings.protected_voices is None and not compares:
            return None
        voice = await self._heard(model, reference)
        if settings.protected_voices is not None:
            await self._check_protected(model, voice, settings.protected_voices, param)
        return await self._compared(model, voice, consent) if compares and consent else None

    async def _heard(self, model: str, audio: ReferenceAudio) -> np.ndarray:
        """Of length 1; NaN for a recording in which the encoder hears nothing at all."""
        data = audio.embedding or await self._engine.embed(model, audio.samples)
        row = np.frombuffer(data, "<f4").astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            heard: np.ndarray = row / np.linalg.norm(row)
        return heard

    async def _compared(self, model: str, voice: np.ndarray, consent: str) -> float:
        found = await asyncio.to_thread(self._store.consents.get, consent)
        data = await asyncio.to_thread(self._store.consents.data, found) if found else None
        if data is None:
            message = f"There is no recording of the consent {consent!r}."
            raise invalid(message, "consent", "consent_not_found")
        recording = await read_reference(self._decoder, data, "consent")
        likeness = float(voice @ await self._heard(model, recording))
        if not likeness >= self._settings.consent_similarity:
            logger.warning("a sample is unlike the voice of %s: %.3f", consent, likeness)
            if self._settings.on_mismatch == "refuse":
                message = "consent: its recording is of another voice, as far as can be heard."
                raise invalid(message, "consent", "voice_mismatch")
        return round(likeness, 4)

    async def _check_protected(
        self, model: str, voice: np.ndarray, directory: str, param: str
    ) -> None:
        for path in await asyncio.to_thread(lambda: sorted(Path(directory).iterdir())):
            if path.name.startswith(".") or not path.is_file():
                continue
            likeness = float(voice @ await self._of_file(model, path))
            if not likeness < self._settings.protected_similarity:
                logger.warning("a reference is like the protected %s: %.3f", path.name, likeness)
                message = f"{param}: this voice may not be cloned here."
                raise ApiError(403, message, param=param, code="voice_protected")

    async def _of_file(self, model: str, path: Path) -> np.ndarray:
        """Nothing is cloned while a file cannot be read: it is there to forbid something."""
        try:
            stat = path.stat()
            key = (model, str(path), stat.st_size, stat.st_mtime_ns)
            if key not in self._known:
                if stat.st_size > MAX_FILE_BYTES:
                    raise DecodeError(f"more than {MAX_FILE_BYTES} bytes")
                audio = await self._decoder.decode(await asyncio.to_thread(path.read_bytes))
                self._known[key] = await self._heard(model, audio)
            return self._known[key]
        except (OSError, DecodeError) as error:
            logger.error("the protected voice %s cannot be read: %s", path, error)
            message = "The server cannot read its list of protected voices; nothing is cloned."
            raise ApiError(500, message, code="protected_voices_unreadable") from error
