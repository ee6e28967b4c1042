"""The asyncio side of the engine: spawns worker processes, submits prompts, hands out streams of PCM."""

from collections.abc import AsyncIterator

from engine.config import EngineConfig, ModelSpec
from engine.protocol import Finished, ModelInfo, Prompt, ReferenceAudio, SamplingParams, Stats


class SpeechStream:
    """PCM of one utterance: `async for pcm in stream`, then `stream.finished` says why it ended.

    Chunks are int16 little-endian mono at 24 kHz and merge when the reader lags. Raises GenerationFailedError,
    InvalidPromptError or EngineDeadError in place of the next chunk. `abort()` is idempotent and safe at any time.
    """

    finished: Finished | None = None

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        raise NotImplementedError

    def append(self, text: tuple[int, ...], final: bool = False) -> None:
        raise NotImplementedError

    def abort(self) -> None:
        raise NotImplementedError


class EngineClient:
    """One engine as the HTTP side sees it."""

    def __init__(self, config: EngineConfig, models: list[ModelSpec]) -> None:
        self.config = config
        self.models: dict[str, ModelInfo] = {}

    @property
    def status(self) -> str:
        """"starting", "ready", "restarting", "draining" or "dead"."""
        raise NotImplementedError

    @property
    def stats(self) -> list[Stats]:
        """The latest Stats of each worker that has sent one."""
        raise NotImplementedError

    async def start(self) -> None:
        """Spawn the workers and wait until all are ready; CheckpointError or EngineDeadError when they cannot be."""

    def submit(
        self, model: str, prompt: Prompt, params: SamplingParams, reference: ReferenceAudio | None = None
    ) -> SpeechStream:
        """Queue one utterance. Raises QueueFullError or EngineDeadError at once, before any work."""
        raise NotImplementedError

    async def drain(self, timeout_s: float) -> None:
        """Refuse new work (EngineDeadError) and wait until running streams have ended."""

    async def close(self) -> None:
        """Stop the workers; open streams fail with EngineDeadError."""
