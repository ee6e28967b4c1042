"""The voice of a live session: what was planned once for all of its utterances (model, voice, seed,
sampling), and how their text gets into the engine.
"""

import asyncio
import secrets
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from engine import SpeechStream
from qtts_openai.http.callers import Caller
from qtts_openai.http.turns import Turn
from qtts_openai.live.feed import TextFeed
from qtts_openai.provenance.policy import Provenance
from qtts_openai.schemas import SpeechRequest
from qtts_openai.speech.planner import LivePlan
from qtts_openai.state import AppState


class LiveVoice:
    """`who`: the key or address that limits and turns count for. With a `request_id` the signed
    statement of an answer can be fetched later.
    """

    def __init__(
        self,
        service: AppState,
        request: SpeechRequest,
        plan: LivePlan,
        caller: Caller,
        who: str,
        request_id: str | None = None,
    ) -> None:
        self.service, self.request, self.plan, self.who = service, request, plan, who
        self._caller, self._request_id = caller, request_id
        seed = plan.params.seed
        seed = secrets.randbits(62) if seed is None else seed
        self.params = msgspec.structs.replace(plan.params, seed=seed)
        model = next((m for m in service.settings.models if m.id == plan.model.id), None)
        self.segment_chars = model.segment_chars if model is not None else None

    @classmethod
    async def of(
        cls,
        service: AppState,
        request: SpeechRequest,
        caller: Caller,
        who: str,
        request_id: str | None = None,
    ) -> "LiveVoice":
        """Raises a 400 or 404 for what the request asks and cannot have."""
        plan = await service.planner.plan_live(request, caller)
        return cls(service, request, plan, caller, who, request_id)

    async def provenance(self) -> Provenance:
        """Of an utterance, before it is made."""
        return await self.service.provenance(
            self.request, self.plan, self._caller, self._request_id
        )

    async def check(self) -> None:
        """ApiError if a stored voice was deleted, or its consent withdrawn, meanwhile."""
        if self.plan.voice_id is not None:
            await self.service.planner.plan_live(self.request, self._caller)

    def marked(self) -> dict[str, Any]:
        """The mark's fields for the message before an utterance's first audio."""
        mark = self.service.mark(self.plan.model.id)
        return mark.event() if mark else {}

    @property
    def is_live(self) -> bool:
        """Whether text may come while it is spoken; a clone with transcript needs it before."""
        return self.plan.is_live

    def feed(self) -> TextFeed:
        text = self.service.settings.text
        use_tags = text.pause_tags if self.request.pause_tags is None else self.request.pause_tags
        said = {**text.pronunciations, **self.request.pronunciations}
        bounds = (text.max_pause_s, text.max_total_pause_s) if use_tags else None
        return TextFeed(partial(self.plan.prepare, said), said, bounds)

    def ids(self, segment: str) -> tuple[int, ...]:
        return self.plan.builder.text_ids(segment)

    def speak(
        self,
        text: str,
        ids: Callable[[], tuple[tuple[int, ...], bool]],
        has_begun: Callable[[SpeechStream], None],
    ) -> Turn:
        """Wait for a place and begin. `ids` says then what there is to speak so far, and whether
        more may come; `has_begun` is told where to append it. QueueFullError where too many wait.
        """

        def begin() -> SpeechStream:
            known, is_open = ids()
            # Text that is all there is spoken as any other: the voice knows where it leads.
            prompt = (self.plan.build_open if is_open else self.plan.build)(text)
            if self.is_live:
                prompt = msgspec.structs.replace(prompt, text=known, text_open=is_open)
            plan = self.plan
            is_alone = self.service.queue.is_alone(self.who)
            stream = self.service.engine.submit(
                plan.model.id, prompt, self.params, plan.reference, 0.0, is_alone
            )
            has_begun(stream)
            return stream

        return Turn(self.service.queue, self.who, begin, is_firm=False).enter()


class OpenTexts:
    """Counts the engine's places that are held by utterances whose text is still to come. They may
    hold half of all places, so that utterances whose text is complete find one, too.
    """

    def __init__(self, num_places: Callable[[], int]) -> None:
        self._num_places = num_places
        self._num_open = 0
        self._freed = asyncio.Event()

    async def take(self, is_whole: Callable[[], bool], news: asyncio.Event) -> bool:
        """Wait for a place; False where the text was whole before, and needs none."""
        while not is_whole():
            if self._num_open < max(1, self._num_places() // 2):
                self._num_open += 1
                return True
            self._freed.clear()
            news.clear()
            waits = [asyncio.ensure_future(event.wait()) for event in (self._freed, news)]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()
        return False

    def give_back(self) -> None:
        self._num_open -= 1
        self._freed.set()
