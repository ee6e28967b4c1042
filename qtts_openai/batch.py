"""Several texts in one request: each item is a speech request of its own and fails on its own."""

import asyncio
import base64
from typing import Any

import msgspec
from litestar import Request

from engine import EngineError
from qtts_openai import schemas as s
from qtts_openai.callers import Caller, caller_of
from qtts_openai.errors import ApiError, as_api_error, invalid
from qtts_openai.service import Service
from qtts_openai.streaming import Speech, while_connected


def read_items(body: dict[str, Any], max_items: int) -> list[dict[str, Any]]:
    """`items` of {"items": [...], ...}; the other fields are defaults for every item."""
    items = body.get("items")
    if items is None:
        raise s.missing_parameter("items")
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise invalid("items: a list of objects, each a speech request.", "items", "invalid_type")
    if not 1 <= len(items) <= max_items:
        raise invalid(f"items: 1 to {max_items} of them, not {len(items)}.", "items")
    defaults = {name: value for name, value in body.items() if name != "items"}
    return [{**defaults, **item} for item in items]


async def speak_items(
    http: Request, service: Service, items: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The answers in the order of the items; all are cancelled when the client leaves."""
    caller = caller_of(http)
    at_once = asyncio.Semaphore(service.settings.limits.max_concurrent_per_key or len(items))

    async def one(index: int, item: dict[str, Any]) -> dict[str, Any]:
        async with at_once:
            return {"index": index, **await _speak(service, item, caller)}

    return await while_connected(http, _all([one(i, item) for i, item in enumerate(items)]))


async def _all(work: list[Any]) -> list[dict[str, Any]]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one) for one in work]
    return [task.result() for task in tasks]


async def _speak(service: Service, item: dict[str, Any], caller: Caller) -> dict[str, Any]:
    try:
        request, ignored = s.read_speech(item)
        utterance = await service.planner.plan(request, caller)
        speech = Speech(request, service.submit(utterance), service.metrics)
        audio = await speech.collect()
    except (ApiError, EngineError) as error:
        problem = as_api_error(error)
        detail = problem.envelope()["error"]
        return {"status": "error", "error": problem.message, "error_detail": detail}
    assert speech.stream.finished is not None
    return {
        "status": "success",
        "audio_data": base64.b64encode(audio).decode(),
        "media_type": speech.encoder.content_type,
        "finish_reason": speech.stream.finished.reason.value,
        "usage": speech.usage(),
        "ignored_fields": [*ignored, *utterance.ignored],
    }


def summary(id_: str, results: list[dict[str, Any]]) -> bytes:
    succeeded = sum(result["status"] == "success" for result in results)
    answer = {
        "id": id_,
        "object": "audio.speech.batch",
        "results": results,
        "total": len(results),
        "succeeded": succeeded,
        "failed": len(results) - succeeded,
    }
    return msgspec.json.encode(answer)
