"""Several texts in one request: each item is a speech request of its own and fails on its own.

Items wait for their turns in the service's queue like any utterance of their caller, run as many at
once as the caller's limit allows, and are written in order as soon as they are made. The answer
begins with the first success: before that, what is wrong for all items is the whole answer's error.
Memory is bounded: an item begins only when what is made and not yet written leaves room for it.
"""

import asyncio
import base64
import secrets
from collections.abc import AsyncIterator, Iterator
from typing import Any

import msgspec

from engine import EngineError
from qtts_openai import schemas as s
from qtts_openai.answers import FailedItem, SpokenItem
from qtts_openai.errors import ApiError, as_api_error, invalid
from qtts_openai.http.callers import Caller
from qtts_openai.http.rate_limit import Lease
from qtts_openai.speech.response import SpeechResponse
from qtts_openai.state import AppState

# Most audio, by estimate, that items under way may have between them; one item may have more.
MAX_HELD_BYTES = 64 << 20
# Of UTF-8 at an ordinary pace, in Latin letters as in Chinese.
_SECONDS_PER_BYTE = 0.085
_COMPRESSED_BYTES_PER_S = 16_000
_PIECE = 3 << 14  # of audio, written together: a multiple of 3, so base64 has no padding inside


class Items(msgspec.Struct, frozen=True):
    """`defaults` are the fields for all items; `ignored` names those that nothing reads."""

    items: list[dict[str, Any]]
    defaults: dict[str, Any]
    ignored: list[str]

    def body(self, index: int) -> dict[str, Any]:
        return {**self.defaults, **self.items[index]}

    def num_chars(self, index: int) -> int:
        text = self._field(index, "input")
        return len(text) if isinstance(text, str) else 0

    def size(self, index: int) -> float:
        """Bytes of audio, about."""
        text = self._field(index, "input")
        seconds = _SECONDS_PER_BYTE * len(text.encode("utf-8", "replace")) if text else 0.0
        if self._field(index, "response_format") not in ("wav", "pcm", "flac"):
            return seconds * _COMPRESSED_BYTES_PER_S
        rate = self._field(index, "sample_rate")
        return seconds * 2 * (rate if isinstance(rate, int) else 24000)

    def _field(self, index: int, name: str) -> Any:
        value = self.items[index].get(name, self.defaults.get(name))
        return value if name != "input" or isinstance(value, str) else None


def read_items(body: dict[str, Any], max_items: int) -> Items:
    """`items` of {"items": [...], ...}; the other fields are defaults for every item."""
    items = body.get("items")
    if items is None:
        raise s.missing_parameter("items")
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise invalid("items: a list of objects, each a speech request.", "items", "invalid_type")
    if not 1 <= len(items) <= max_items:
        raise invalid(f"items: 1 to {max_items} of them, not {len(items)}.", "items")
    # Only what is read, as every item gets it.
    defaults = {name: value for name, value in body.items() if name in s.READ_FIELDS}
    ignored = sorted(body.keys() - s.READ_FIELDS - {"items"})
    given = [
        {name: value for name, value in item.items() if s.is_given(name, value)} for item in items
    ]
    return Items(given, defaults, s.shortened(ignored))


class Spoken(msgspec.Struct, frozen=True):
    """`answer` without its audio, which is written in pieces."""

    audio: bytes
    answer: SpokenItem


class Batch:
    """`begin`, then `written`; `close` at any time, it is idempotent."""

    def __init__(
        self, service: AppState, caller: Caller, who: str, items: Items, lease: Lease
    ) -> None:
        self.id = f"batch_{secrets.token_hex(12)}"
        self.items = items
        self.lease = lease
        self._service, self._caller, self._who = service, caller, who
        number = len(items.items)
        self._results: list[asyncio.Future[Spoken | ApiError]] = [
            asyncio.get_running_loop().create_future() for _ in range(number)
        ]
        self._sizes = [items.size(index) for index in range(number)]
        self._num_running = 0
        self._held = 0.0
        self._changed = asyncio.Event()
        self._tasks = [asyncio.create_task(self._pump())]

    async def begin(self) -> None:
        """Wait for the first success. Raises what is wrong for all items, or says when to come
        again.
        """
        while not any(_succeeded(result) for result in self._results):
            if all(result.done() for result in self._results):
                return self._raise_common([result.result() for result in self._results])
            await self._change()

    def _raise_common(self, results: list[Spoken | ApiError]) -> None:
        errors = [result for result in results if isinstance(result, ApiError)]
        common = errors[0] if all(_alike(error, errors[0]) for error in errors) else None
        again = next((error for error in errors if error.status in (429, 503)), None)
        if error := common or again:
            self.lease.refund()
            raise error

    async def written(self) -> AsyncIterator[bytes]:
        """The JSON of the answer, with each item as soon as it and those before it are made."""
        num_failed = 0
        try:
            yield b'{"id":"%s","object":"audio.speech.batch","results":[' % self.id.encode()
            for index in range(len(self._results)):
                result = await self._results.pop(0)
                num_failed += isinstance(result, ApiError)
                for piece in _encoded(index, result):
                    yield piece
                self._held -= self._sizes[index]
                self._changed.set()
            yield self._summary(num_failed)
        finally:
            self.close()

    def _summary(self, num_failed: int) -> bytes:
        total = len(self.items.items)
        numbers = {"total": total, "succeeded": total - num_failed, "failed": num_failed}
        fields = msgspec.json.encode({**numbers, "ignored_fields": self.items.ignored})
        return b"]," + fields[1:]

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        self.lease.release()

    async def _pump(self) -> None:
        """Begin the items in order, as places and memory allow."""
        for index, result in enumerate(list(self._results)):
            while not await self._may_begin(self._sizes[index]):
                await self._change()
            self._num_running += 1
            self._held += self._sizes[index]
            self._tasks.append(asyncio.create_task(self._run(index, result)))

    async def _may_begin(self, size: float) -> bool:
        if self._held and self._held + size > MAX_HELD_BYTES:
            return False
        return self._num_running == 0 or await self.lease.extend()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    async def _run(self, index: int, result: asyncio.Future[Spoken | ApiError]) -> None:
        try:
            result.set_result(await self._speak(index))
        except Exception as error:
            result.set_exception(error)
        finally:
            self._num_running -= 1
            self.lease.shrink()
            self._changed.set()

    async def _speak(self, index: int) -> Spoken | ApiError:
        promised = self.items.num_chars(index)
        try:
            request, ignored = s.read_speech(self.items.body(index))
            utterance = await self._service.planner.plan(request, self._caller)
            marked = await self._service.provenance(request, utterance, self._caller)
            stream = self._service.submit(utterance, self._who, is_firm=True)
            self.lease.charge(utterance.num_chars - promised)
            promised = utterance.num_chars
            speech = SpeechResponse(request, stream, self._service.metrics, provenance=marked)
            audio = await speech.collect()
        except (ApiError, EngineError) as error:
            self.lease.charge(-promised)
            return as_api_error(error)
        assert speech.stream.finished is not None
        answer = SpokenItem(
            index=index,
            media_type=speech.encoder.content_type,
            finish_reason=speech.stream.finished.reason.value,
            usage=speech.usage(),
            ignored_fields=s.shortened([*ignored, *utterance.ignored]),
            audio_data="",
            **speech.marked(),
        )
        return Spoken(audio, answer)


def _succeeded(result: asyncio.Future[Spoken | ApiError]) -> bool:
    return result.done() and isinstance(result.result(), Spoken)


def _alike(one: ApiError, other: ApiError) -> bool:
    return one.status == other.status and one.envelope() == other.envelope()


def _encoded(index: int, result: Spoken | ApiError) -> Iterator[bytes]:
    comma = b"," if index else b""
    if isinstance(result, ApiError):
        failed = FailedItem(index=index, error=result.message, error_detail=result.detail)
        yield comma + msgspec.json.encode(failed)
        return
    yield comma + msgspec.json.encode(result.answer).removesuffix(b'"}')
    for at in range(0, len(result.audio), _PIECE):
        yield base64.b64encode(result.audio[at : at + _PIECE])
    yield b'"}'
