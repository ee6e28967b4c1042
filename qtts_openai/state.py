"""What the routes share: made when the engine is ready, given to them by injection."""

import logging
import secrets
import time
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from engine import EngineClient, ModelInfo, Prompt, SpeechStream
from qtts_openai.decoding.client import AudioDecoder
from qtts_openai.http.callers import Caller
from qtts_openai.http.fair_queue import FairQueue
from qtts_openai.http.metrics import Metrics
from qtts_openai.http.rate_limit import Limiter
from qtts_openai.http.turns import Turn
from qtts_openai.settings import Settings
from qtts_openai.settings_check import check_references
from qtts_openai.speech.cache import Recording, SpeechCache, cache_key
from qtts_openai.speech.loudness import Amplified
from qtts_openai.speech.planner import Planner, SpeechPlan
from qtts_openai.speech.segmented_stream import PcmStream, SegmentedStream
from qtts_openai.text.prompt_builder import languages_of
from qtts_openai.voices.model_registry import FAMILIES, Catalog
from qtts_openai.voices.presets import Voice, VoiceTable
from qtts_openai.voices.references import References
from qtts_openai.voices.resolver import VoiceResolver
from qtts_openai.voices.store import StoredVoice, VoiceStore

logger = logging.getLogger(__name__)

Json = dict[str, Any]


class AppState:
    def __init__(self, settings: Settings, engine: EngineClient) -> None:
        models: dict[str, ModelInfo] = engine.models
        self.settings = settings
        self.engine = engine
        self.created = int(time.time())
        max_bytes = settings.cache.max_bytes
        self.cache = SpeechCache(max_bytes) if max_bytes else None
        self.metrics = Metrics(engine, lambda: self.cache.num_bytes if self.cache else 0)
        self.catalog = Catalog(settings.models, models, settings.text.pretokenizer)
        self.table = VoiceTable(settings.voices.aliases, settings.voices.extra, models.values())
        self.store = VoiceStore(Path(settings.voices.directory), settings.voices.max_voices)
        self.decoder = AudioDecoder(
            min_s=settings.ref_audio.min_s,
            max_s=settings.ref_audio.max_s,
            timeout_s=settings.ref_audio.decode_timeout_s,
            count=self.metrics.count_decoded,
        )
        self.references = References(
            settings.ref_audio, self.store, self.catalog, engine, self.decoder
        )
        self.resolver = VoiceResolver(settings.defaults, self.catalog, self.table, self.references)
        check_references(settings, self.resolver)
        self.planner = Planner(settings, self.resolver)
        self.num_live = 0  # sessions of live text
        self.limiter = Limiter(settings.limits)
        max_queued = settings.engine.max_queued * settings.engine.data_parallel_size
        self.queue = FairQueue(lambda: _num_places(engine.num_rows, max_queued), max_queued)

    @classmethod
    async def begin(cls, settings: Settings, engine: EngineClient) -> "AppState":
        """Start the engine, unless it is, and read what the models need here. CheckpointError or
        EngineDeadError when that fails, SettingsError where a name means nothing; no worker is left
        behind then.
        """
        try:
            if engine.status != "ready":
                await engine.start()
            return cls(settings, engine)
        except BaseException:
            await engine.close()
            raise

    def warm_up(self) -> None:
        """Begin what the first request with reference audio would have to wait for."""
        if self.catalog.of_family("base") is not None:
            self.decoder.warm_up()

    def close(self) -> None:
        self.decoder.close()

    def submit(self, utterance: SpeechPlan, who: str = "", is_firm: bool = False) -> PcmStream:
        """What was kept, or new work, which waits for its turn among that of `who`, a source of
        callers.py.

        QueueFullError where too many wait, EngineDeadError where nothing can be spoken; with
        `is_firm` it waits however many do.
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
        has_begun = False

        def submit(prompt: Prompt, buffered_s: float) -> Turn:
            nonlocal has_begun
            begin = partial(self._begin, utterance, prompt, buffered_s)
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

    def _begin(self, utterance: SpeechPlan, prompt: Prompt, buffered_s: float) -> SpeechStream:
        stream = self.engine.submit(
            utterance.model.id, prompt, utterance.params, utterance.reference, buffered_s
        )
        logger.info("sequence %d on %s", stream.id, utterance.model.id)
        return stream

    def random_weight_models(self) -> list[str]:
        return [info.id for info in self.catalog.models.values() if info.random_weights]

    def presets(self, *, everything: bool = False) -> list[Json]:
        """Voices of the server: those that can be spoken now, or `everything`."""
        shown = [self.describe(voice) for voice in self.table.voices.values()]
        return [voice for voice in shown if everything or voice["available"]]

    def stored(self, caller: Caller, *, everything: bool = False) -> list[Json]:
        """Voices that the caller may use; reads the disk."""
        shown = [self.describe_stored(voice) for voice in self.store.visible(caller)]
        return [voice for voice in shown if everything or voice["available"]]

    def describe(self, voice: Voice) -> Json:
        """The voice in a listing; `available` and `models` say what the loaded checkpoints can do
        with it, and `language` what they speak with it.
        """
        families = voice.families()
        able = [info for info in self.catalog.models.values() if info.model_type in families]
        return {
            "id": voice.id,
            "object": "audio.voice",
            "name": voice.name,
            "language": spoken_language(voice, able),
            "gender": voice.gender,
            "description": voice.description,
            "type": _kind(voice),
            "available": bool(able),
            "models": [info.id for info in able],
            "needs": [FAMILIES[family] for family in families],
        }

    def describe_stored(self, stored: StoredVoice) -> Json:
        shown = self.describe(self.resolver.stored_voice(stored)) | stored.answer()
        return shown | ({"available": False, "models": []} if stored.disabled else {})

    def voices_of(self, model: ModelInfo, stored: list[Json]) -> list[dict[str, str]]:
        return [
            {"name": voice["name"], "language": voice["language"]}
            for voice in (*self.presets(), *stored)
            if model.id in voice["models"]
        ]


def spoken_language(voice: Voice, models: list[ModelInfo]) -> str:
    """The voice's own language where one of `models` speaks it, else the only one they do."""
    spoken = {language for model in models for language in languages_of(model)}
    if not spoken or voice.language.lower() in spoken:
        return voice.language
    return spoken.pop().title() if len(spoken) == 1 else "Auto"


def _num_places(num_rows: int, max_queued: int) -> int:
    """A few more than are spoken at once, so that no row waits for its next utterance."""
    return num_rows + min(num_rows // 8, max_queued)


def _kind(voice: Voice) -> str:
    if voice.speakers:
        return "speaker"
    return "prompt" if voice.prompt is not None else "audio_sample"
