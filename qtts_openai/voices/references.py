"""Where reference audio comes from: the request, a stored sample, or a described voice's first
utterance, which is made when a Base model is to speak the voice for the first time.

In: text of a request, or a stored voice's id. Out: ReferenceAudio, float32 mono samples at 24 kHz
and the hash of them, or a 400 that names the field.
"""

import asyncio
import hashlib
import weakref
from collections.abc import Callable

import numpy as np

from engine import FinishReason, GenerationFailedError, Prompt, ReferenceAudio, SamplingParams
from qtts_openai.decoding.client import AudioDecoder
from qtts_openai.decoding.turns import BusyError, Turns
from qtts_openai.errors import invalid
from qtts_openai.http.turns import Turn
from qtts_openai.settings import RefAudioSettings
from qtts_openai.voices.likeness import Likeness
from qtts_openai.voices.model_registry import Catalog
from qtts_openai.voices.records import StoredVoice
from qtts_openai.voices.reference_audio import busy, decode_base64, read_reference
from qtts_openai.voices.store import VoiceStore
from qtts_openai.voices.url_fetch import fetch, read_file_url

# Spoken once by a voice that was described in words; long enough to clone from.
FIRST_WORDS = "The quick brown fox jumps over the lazy dog, while the old clock strikes nine."
DESIGN_ATTEMPTS = 3
# Far beyond what encoders make; more could leave the range of numbers inside the model.
MOST_EMBEDDING = 1000
MAX_FETCHES = 4


class References:
    """`submit(model, prompt, params)` speaks an utterance in its caller's turn."""

    def __init__(
        self,
        settings: RefAudioSettings,
        store: VoiceStore,
        catalog: Catalog,
        submit: Callable[[str, Prompt, SamplingParams], Turn],
        decoder: AudioDecoder,
        likeness: Likeness,
    ) -> None:
        self.settings = settings
        self.store = store
        self.catalog = catalog
        self._submit = submit
        self.decoder = decoder
        self.likeness = likeness
        wait_s = 3 * settings.http_timeout_s
        self.fetches = Turns(max_at_once=MAX_FETCHES, max_wait_s=wait_s)
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    async def of_request(self, ref_audio: str) -> ReferenceAudio:
        """`ref_audio`: base64, a data: URL, or where the settings allow it a http or file: URL."""
        return await self.read(await self._bytes(ref_audio.strip()), "ref_audio")

    async def read(self, data: bytes, param: str) -> ReferenceAudio:
        return await read_reference(self.decoder, data, param)

    async def _bytes(self, text: str) -> bytes:
        scheme, limits = text[:8].partition(":")[0].lower(), self.settings
        if scheme in ("http", "https"):
            if not limits.allow_http:
                raise invalid("ref_audio: this server fetches no URLs; send base64.", "ref_audio")
            return await self._fetch(text)
        if scheme == "file":
            if limits.files_directory is None:
                raise invalid("ref_audio: this server reads no files; send base64.", "ref_audio")
            return await asyncio.to_thread(
                read_file_url, text, limits.files_directory, limits.max_bytes
            )
        data = await asyncio.to_thread(decode_base64, text)
        if len(data) > limits.max_bytes:
            message = f"ref_audio: more than {limits.max_bytes} bytes of audio."
            raise invalid(message, "ref_audio", "file_too_large")
        return data

    def of_embedding(self, numbers: list[float], size: int) -> ReferenceAudio:
        """`speaker_embedding`: what a Base model of that size makes of a recording."""
        with np.errstate(over="ignore"):
            row = np.asarray(numbers, "<f4")
        if len(row) != size:
            message = f"speaker_embedding: this model's have {size} numbers, not {len(row)}."
            raise invalid(message, "speaker_embedding")
        if not np.abs(row).max() <= MOST_EMBEDDING:  # also what is not a number
            message = f"speaker_embedding: numbers from -{MOST_EMBEDDING} to {MOST_EMBEDDING}."
            raise invalid(message, "speaker_embedding")
        embedding = row.tobytes()
        return ReferenceAudio(hashlib.sha256(embedding).hexdigest(), b"", embedding)

    async def _fetch(self, url: str) -> bytes:
        limits = self.settings
        try:
            async with self.fetches.take():
                return await fetch(url, max_bytes=limits.max_bytes, timeout_s=limits.http_timeout_s)
        except BusyError as error:
            raise busy() from error

    async def of_voice(self, id_: str) -> tuple[ReferenceAudio, str | None]:
        """(audio, what it says or None) of a stored voice."""
        async with self._locks.setdefault(id_, asyncio.Lock()):
            voice = await asyncio.to_thread(self.store.voices.get, id_)
            if voice is not None and voice.type == "prompt" and voice.reference_key is None:
                voice = await self._design(voice)
            audio = await asyncio.to_thread(self.store.reference, voice) if voice else None
            if voice is None or audio is None:
                raise invalid(f"The voice {id_!r} was just deleted.", "voice")
            return audio, voice.ref_text

    async def _design(self, voice: StoredVoice) -> StoredVoice | None:
        """The voice with its first utterance, which is kept so that it stays what it is; None where
        it was deleted meanwhile.
        """
        text = voice.ref_text or FIRST_WORDS
        samples = await self._speak(voice, text)
        audio = ReferenceAudio(hashlib.sha256(samples).hexdigest(), samples)
        return await asyncio.to_thread(self.store.keep_utterance, voice, audio, text)

    async def _speak(self, voice: StoredVoice, text: str) -> bytes:
        model = self.catalog.of_family("voice_design")
        assert model is not None and voice.prompt is not None and voice.seed is not None
        self.catalog.check_description(model, voice.prompt, "voice")
        prompt = self.catalog.builders[model.id].build(text, instruct=voice.prompt)
        for attempt in range(DESIGN_ATTEMPTS):
            stream = self._submit(model.id, prompt, SamplingParams(seed=voice.seed + attempt))
            try:
                pcm = b"".join([chunk async for chunk in stream])
            finally:
                stream.abort()
            if stream.finished is not None and stream.finished.reason is FinishReason.STOP:
                return (np.frombuffer(pcm, "<i2").astype("<f4") / 32768).tobytes()
        raise GenerationFailedError(
            f"The voice {voice.name!r} could not be made; describe it anew."
        )
