"""What the routes share for the life of the server: one object for each job, wired together here.

AppState is made once, when the engine has loaded its models, and is given to every handler that has
a parameter `service`. `submit` takes a SpeechPlan and returns a stream of PCM (bytes of 16-bit mono
at 24 kHz): from the cache, or from the engine when the plan's turn has come.
"""

import hashlib
import logging
import secrets
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal, Protocol

import msgspec

from engine import EngineClient, ModelInfo, Prompt, SamplingParams, SpeechStream
from qtts_openai.answers import ModelVoice, VoiceAnswer
from qtts_openai.decoding.client import AudioDecoder
from qtts_openai.decoding.turns import current_caller
from qtts_openai.http import tracing
from qtts_openai.http.callers import ANONYMOUS, Caller
from qtts_openai.http.fair_queue import FairQueue
from qtts_openai.http.metrics import Metrics
from qtts_openai.http.rate_limit import Limiter, rate_store
from qtts_openai.http.tracing import Timeline
from qtts_openai.http.turns import Turn
from qtts_openai.provenance.audit import AuditLog, Trail
from qtts_openai.provenance.marks import Mark
from qtts_openai.provenance.policy import Provenance, Signing
from qtts_openai.provenance.watermark import Watermark
from qtts_openai.schemas import SpeechRequest
from qtts_openai.settings import Settings
from qtts_openai.settings_check import check_references
from qtts_openai.speech.aligner import Aligner
from qtts_openai.speech.cache import Recording, SpeechCache, cache_key
from qtts_openai.speech.encoders import CONTENT_TYPES
from qtts_openai.speech.loudness import Amplified
from qtts_openai.speech.planner import Plan, Planner, SpeechPlan
from qtts_openai.speech.segmented_stream import PcmStream, SegmentedStream
from qtts_openai.text.prompt_builder import languages_of
from qtts_openai.voices.likeness import Likeness
from qtts_openai.voices.model_registry import FAMILIES, Catalog
from qtts_openai.voices.presets import Voice, VoiceTable
from qtts_openai.voices.records import StoredVoice
from qtts_openai.voices.references import References
from qtts_openai.voices.resolver import VoiceResolver
from qtts_openai.voices.store import VoiceStore

logger = logging.getLogger(__name__)


class Speaking(Protocol):
    @property
    def is_speaking(self) -> bool: ...


class AppState:
    def __init__(self, settings: Settings, engine: EngineClient) -> None:
        models: dict[str, ModelInfo] = engine.models
        self.settings = settings
        self.engine = engine
        self.created = int(time.time())
        max_bytes = settings.cache.max_bytes
        self.cache = SpeechCache(max_bytes) if max_bytes else None
        self.metrics = Metrics(
            engine,
            lambda: self.cache.num_bytes if self.cache else 0,
            lambda: self.queue.num_waiting,
        )
        self.catalog = Catalog(settings.models, models, settings.text.pretokenizer)
        self.table = VoiceTable(settings.voices.aliases, settings.voices.extra, models.values())
        voices = settings.voices
        self.store = VoiceStore(
            Path(voices.directory),
            voices.max_voices,
            cloning=settings.cloning,
            object_store=voices.object_store,
        )
        self.decoder = AudioDecoder(
            min_s=settings.ref_audio.min_s,
            max_s=settings.ref_audio.max_s,
            timeout_s=settings.ref_audio.decode_timeout_s,
            count=self.metrics.count_decoded,
        )
        self.references = References(
            settings.ref_audio,
            self.store,
            self.catalog,
            self._submit_unheard,
            self.decoder,
            Likeness(settings.cloning, engine, self.store, self.decoder),
        )
        self.resolver = VoiceResolver(settings.defaults, self.catalog, self.table, self.references)
        check_references(settings, self.resolver)
        self.planner = Planner(settings, self.resolver)
        self.live: set[Speaking] = set()  # open sessions of live text
        checkpoint = settings.alignment.checkpoint
        self.aligner = Aligner(checkpoint) if checkpoint else None
        self.signing = Signing(settings.provenance)
        self.watermark = Watermark() if settings.provenance.watermark else None
        self.audit = AuditLog(settings.audit)
        store = rate_store(settings.limits, self.metrics.rate_store_failures.inc)
        self.limiter = Limiter(settings.limits, store)
        max_queued = settings.engine.max_queued * settings.engine.data_parallel_size
        self.queue = FairQueue(
            lambda: _num_places(engine.num_places, max_queued),
            max_queued,
            is_tight=lambda: engine.num_places < engine.num_rows,
        )

    @classmethod
    async def begin(cls, settings: Settings, engine: EngineClient) -> "AppState":
        """Start the engine, unless it has been started, and read the models' tokenizers and voices.
        CheckpointError or EngineDeadError if that fails, SettingsError if the settings name a voice
        that does not exist; then all workers are stopped.
        """
        try:
            if engine.status != "ready":
                await engine.start()
            return cls(settings, engine)
        except BaseException:
            await engine.close()
            raise

    def read_voices_again(self, settings: Settings) -> None:
        """Use the aliases and added voices of these settings for requests from now on.
        SettingsError if they name a speaker that does not exist; then nothing changes.
        """
        voices = settings.voices
        table = VoiceTable(voices.aliases, voices.extra, self.engine.models.values())
        resolver = VoiceResolver(self.settings.defaults, self.catalog, table, self.references)
        check_references(msgspec.structs.replace(self.settings, voices=voices), resolver)
        self.table = self.resolver.table = table

    def warm_up(self) -> None:
        """Start helper processes and threads, which the first requests would have to wait for."""
        self.planner.warm_up()
        if self.watermark is not None:
            self.watermark.begin()
        if self.catalog.of_family("base") is not None:
            self.decoder.warm_up()

    async def close(self) -> None:
        self.decoder.close()
        if self.aligner is not None:
            self.aligner.close()
        if self.watermark is not None:
            self.watermark.close()
        await self.limiter.store.close()

    def submit(self, utterance: SpeechPlan, who: str = "", is_firm: bool = False) -> PcmStream:
        """The PCM of a plan: from the cache, or from the engine when its turn among the utterances
        of `who` (http.callers.source_of) has come.

        QueueFullError if too many utterances wait, unless `is_firm`; EngineDeadError if no worker
        runs.
        """
        key = cache_key(utterance) if self.cache else None
        if self.cache is None or key is None:
            return self._speak(utterance, who, is_firm)
        known = self.cache.get(key)
        self.metrics.cache_answers.labels("hit" if known else "miss").inc()
        return known or Recording(self._speak(utterance, who, is_firm), self.cache, key)

    def _speak(self, utterance: SpeechPlan, who: str, is_firm: bool) -> PcmStream:
        """All parts of an utterance share a seed, so that a described voice stays the same."""
        if utterance.params.seed is None and len(utterance.parts) > 1:
            params = msgspec.structs.replace(utterance.params, seed=secrets.randbits(62))
            utterance = msgspec.structs.replace(utterance, params=params)
        has_begun, timeline = False, tracing.current.get()

        def submit(prompt: Prompt, buffered_s: float) -> Turn:
            nonlocal has_begun
            timeline.mark("queued")
            begin = partial(
                self._begin, utterance, prompt, buffered_s, who, time.monotonic(), timeline
            )
            turn = Turn(self.queue, who, begin, is_firm or has_begun)
            # Somebody listens to what has begun, so it goes before the caller's other utterances.
            turn.enter(ahead=has_begun)
            has_begun = True
            return turn

        first = utterance.parts[0]
        stream: PcmStream
        if len(utterance.parts) == 1 and isinstance(first, Prompt):
            stream = submit(first, 0.0)
        else:
            stream = SegmentedStream(submit, utterance.parts)
        return Amplified(stream, utterance.gain_db) if utterance.gain_db else stream

    def _begin(
        self,
        utterance: SpeechPlan,
        prompt: Prompt,
        buffered_s: float,
        who: str,
        queued_at: float,
        timeline: Timeline,
    ) -> SpeechStream:
        is_alone = self.queue.is_alone(who)
        stream = self.engine.submit(
            utterance.model.id, prompt, utterance.params, utterance.reference, buffered_s, is_alone
        )
        self.metrics.queue.observe(time.monotonic() - queued_at, timeline.exemplar())
        timeline.stream = timeline.stream or stream
        logger.info("sequence %d on %s", stream.id, utterance.model.id)
        return stream

    def _submit_unheard(self, model: str, prompt: Prompt, params: SamplingParams) -> Turn:
        """An utterance that is made to clone a described voice from. Its caller waits for it while
        a request is planned, so it takes a turn among that caller's utterances.
        """
        begin = partial(self.engine.submit, model, prompt, params)
        return Turn(self.queue, current_caller.get(), begin, is_firm=False).enter()

    async def provenance(
        self,
        request: SpeechRequest,
        utterance: Plan,
        caller: Caller = ANONYMOUS,
        request_id: str | None = None,
    ) -> Provenance:
        """Mark, watermark, signature and audit entry for an answer, as the settings ask for them. A
        signed statement can be fetched later if there is a `request_id`. Speech with a cloned
        voice is in the audit log before it is made.
        """
        model, kind = utterance.model.id, CONTENT_TYPES[request.response_format]
        seal = self.signing.seal(request, model, kind, caller.id, request_id)
        trail = await self._trail(request, utterance, caller)
        return Provenance(self.mark(model), self.watermark, seal, trail)

    def mark(self, model: str) -> Mark | None:
        settings = self.settings.provenance
        return Mark(model, settings.mark_wav_streams) if settings.mark else None

    async def _trail(self, request: SpeechRequest, utterance: Plan, caller: Caller) -> Trail | None:
        """The text of live speech is not known yet: its hash is logged at the end."""
        if not self.audit.is_on or utterance.reference is None:
            return None
        text = request.input.encode()
        said = {
            "speech": secrets.token_hex(8),
            "key": caller.id,
            "voice": utterance.voice_id,
            "consent": utterance.consent,
            "model": utterance.model.id,
            "reference_sha256": utterance.reference.key,
            "text_sha256": hashlib.sha256(text).hexdigest() if text else None,
        }
        await self.audit.note("speech.begun", **said)
        return Trail(self.audit, said)

    def forget_speech(self, voices: Sequence[StoredVoice]) -> None:
        """Empty the cache, which may hold speech of these voices, and let workers drop their
        samples.
        """
        if self.cache is not None:
            self.cache.clear()
        for key in {voice.reference_key for voice in voices if voice.reference_key}:
            self.engine.forget_voice(key)

    def random_weight_models(self) -> list[str]:
        return [info.id for info in self.catalog.models.values() if info.random_weights]

    def presets(self, *, everything: bool = False) -> list[VoiceAnswer]:
        """Voices of the server: those that can be spoken now, or `everything`."""
        shown = [self.describe(voice) for voice in self.table.voices.values()]
        return [voice for voice in shown if everything or voice.available]

    def stored(self, caller: Caller, *, everything: bool = False) -> list[VoiceAnswer]:
        """Voices that the caller may use; reads the disk."""
        shown = [self.describe_stored(voice) for voice in self.store.visible(caller)]
        return [voice for voice in shown if everything or voice.available]

    def describe(self, voice: Voice) -> VoiceAnswer:
        """The voice in a listing; `available` and `models` say what the loaded checkpoints can do
        with it, and `language` what they speak with it.
        """
        families = voice.families()
        able = [info for info in self.catalog.models.values() if info.model_type in families]
        return VoiceAnswer(
            id=voice.id,
            name=voice.name,
            language=spoken_language(voice, able),
            gender=voice.gender,
            description=voice.description,
            type=_kind(voice),
            available=bool(able),
            models=[info.id for info in able],
            needs=[FAMILIES[family] for family in families],
        )

    def describe_stored(self, stored: StoredVoice) -> VoiceAnswer:
        return stored.complete(self.describe(self.resolver.stored_voice(stored)))

    def voices_of(self, model: ModelInfo, stored: list[VoiceAnswer]) -> list[ModelVoice]:
        return [
            ModelVoice(name=voice.name, language=voice.language)
            for voice in (*self.presets(), *stored)
            if model.id in voice.models
        ]


def spoken_language(voice: Voice, models: list[ModelInfo]) -> str:
    """The voice's own language where one of `models` speaks it, else the only one they do."""
    spoken = {language for model in models for language in languages_of(model)}
    if not spoken or voice.language.lower() in spoken:
        return voice.language
    return spoken.pop().title() if len(spoken) == 1 else "Auto"


def _num_places(num_places: int, max_queued: int) -> int:
    """A few more than are to be spoken at once, so that the engine need not wait for the next."""
    return num_places + min(num_places // 8, max_queued)


def _kind(voice: Voice) -> Literal["speaker", "prompt", "audio_sample"]:
    if voice.speakers:
        return "speaker"
    return "prompt" if voice.prompt is not None else "audio_sample"
