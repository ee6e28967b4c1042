"""The OpenAPI document.

In: the route handlers with their types, and the structs of bodies and answers. Out: one JSON object
(OpenAPI 3.1). Litestar writes paths, parameters and answers; msgspec writes the schemas. Request
bodies are ours, because the handlers decode them by hand: null means absent, unknown fields are
ignored, and one struct may come as JSON or as a form with a file.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import msgspec
from litestar import Litestar
from litestar.di import Provide
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import OpenAPIConfig, ResponseSpec
from litestar.openapi.spec import (
    Components,
    Example,
    OpenAPIMediaType,
    OpenAPIResponse,
    Operation,
    Reference,
    RequestBody,
    Schema,
    SecurityScheme,
)
from litestar.openapi.spec.enums import OpenAPIFormat, OpenAPIType

from qtts_openai import __version__, answers, schemas
from qtts_openai.answers import Answer, ErrorAnswer
from qtts_openai.errors import ApiError

Json = dict[str, Any]

_BODIES = (
    schemas.SpeechRequest,
    schemas.BatchRequest,
    schemas.VoiceRequest,
    schemas.VoiceUpdate,
    schemas.ConsentRequest,
    schemas.ConsentUpdate,
    schemas.VerifyRequest,
)
BINARY = Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.BINARY)

# Status -> (when, an example's message, param and code).
_ERRORS: dict[int, tuple[str, str, str | None, str | None]] = {
    400: (
        "A field is missing or wrong; `param` names it",
        "speed: Expected `float` <= 4.0.",
        "speed",
        "invalid_value",
    ),
    401: ("No key, or an unknown one", "Unknown API key.", None, "invalid_api_key"),
    403: (
        "It belongs to somebody else or was disabled; or the host or origin is not allowed",
        "The consent for voice 'Ada' was withdrawn; it speaks no more.",
        "voice",
        "voice_disabled",
    ),
    404: (
        "No such model, voice, consent or path",
        "There is no stored voice 'Ada'.",
        "voice_id",
        "voice_not_found",
    ),
    409: (
        "The name is taken, or the consent is in use",
        "name: there is a voice 'Ada' already; delete it, or overwrite.",
        "name",
        "name_taken",
    ),
    413: ("The body is too large", "The request body is too large.", None, "body_too_large"),
    415: (
        "The body is of a kind or an encoding that is not read here",
        "Send application/json.",
        None,
        None,
    ),
    429: (
        "The queue is full or the key's limit is reached; see Retry-After",
        "The queue is full.",
        None,
        "queue_full",
    ),
    500: (
        "The speech could not be made",
        "The utterance ended early (error).",
        None,
        "generation_failed",
    ),
    503: (
        "The engine or the store is not there; see Retry-After",
        "The engine is starting.",
        None,
        "engine_unavailable",
    ),
    507: ("The voice could not be stored", "The disk is full.", None, "storage_failed"),
}
_ANYWHERE = (400, 401, 403, 413, 415)


def errors(*statuses: int) -> dict[int, ResponseSpec]:
    """A handler's `responses`: those `statuses`, and the ones that any route may answer with."""
    return {status: _error(status) for status in sorted({*_ANYWHERE, *statuses})}


def _error(status: int) -> ResponseSpec:
    return ResponseSpec(ErrorAnswer, generate_examples=False, description=_ERRORS[status][0])


def operation(
    body: RequestBody | None = None,
    content: dict[str, OpenAPIMediaType] | None = None,
    kind: str = "Audio",
) -> type[Operation]:
    """A handler's `operation_class`: with that request body, and that `kind` of 200."""

    @dataclass
    class Documented(Operation):
        def __post_init__(self) -> None:
            self.request_body = body
            if content is not None and self.responses is not None:
                self.responses["200"] = OpenAPIResponse(description=kind, content=content)

    return Documented


def json_body(struct: type[msgspec.Struct], **example: object) -> RequestBody:
    return RequestBody(content={"application/json": _media(struct, example)}, required=True)


def form_body(
    struct: type[msgspec.Struct],
    file: str,
    form_example: dict[str, object],
    json_example: dict[str, object] | None = None,
) -> RequestBody:
    """A form whose part `file` is bytes; and JSON, where there is a use without the file."""
    upload = Schema(
        type=OpenAPIType.OBJECT, properties={file: BINARY}, required=[] if json_example else [file]
    )
    form = _media(struct, form_example)
    form.schema = Schema(all_of=[_reference(struct), upload])
    content = {"multipart/form-data": form}
    if json_example:
        content["application/json"] = _media(struct, json_example)
    return RequestBody(content=content, required=True)


def _media(struct: type[msgspec.Struct], example: dict[str, object]) -> OpenAPIMediaType:
    return OpenAPIMediaType(schema=_reference(struct), examples={"one": Example(value=example)})


def _reference(struct: type[msgspec.Struct]) -> Reference:
    return Reference(ref=f"#/components/schemas/{struct.__name__}")


def document(handlers: Sequence[HTTPRouteHandler]) -> Json:
    """Of the public routes. An app that serves nothing writes it: Litestar's own routes for the
    document answer unknown paths in HTML, and ours always answer in OpenAI's envelope.
    """
    config = OpenAPIConfig(
        title="qtts",
        version=__version__,
        summary="OpenAI's speech API for the open Qwen3-TTS models",
        components=Components(
            security_schemes={"key": SecurityScheme(type="http", scheme="bearer")}
        ),
        security=[{"key": []}, {}],
        use_handler_docstrings=True,
    )
    app = Litestar(
        handlers,
        openapi_config=config,
        dependencies={"service": Provide(_nothing, sync_to_thread=False)},
        logging_config=None,
    )
    written = app.openapi_schema.to_schema()
    written["components"]["schemas"] = _schemas()
    for path in written["paths"].values():
        for documented in path.values():
            _add_examples(documented["responses"])
    return written


def _add_examples(responses: Json) -> None:
    """Of errors. Litestar would leave the null of `param` and `code` out of them."""
    for status, response in responses.items():
        media = (response.get("content") or {}).get("application/json", {})
        if media.get("schema") == {"$ref": "#/components/schemas/ErrorAnswer"}:
            _, message, param, code = _ERRORS[int(status)]
            example = ApiError(int(status), message, param=param, code=code).envelope()
            media["examples"] = {"one": {"value": msgspec.to_builtins(example)}}


def _nothing() -> None:
    """In the place of what the routes of a real app get."""


@cache
def _schemas() -> Json:
    """By name: what bodies may hold, and what answers do hold."""
    shown = [kind for kind in vars(answers).values() if _is_answer(kind)]
    ref = "#/components/schemas/{name}"
    _, bodies = msgspec.json.schema_components(_BODIES, ref_template=ref)
    _, replies = msgspec.json.schema_components(shown, ref_template=ref)
    complete = {kind.__name__: _is_there(replies[kind.__name__], kind) for kind in shown}
    return {name: _null_is_absent(schema) for name, schema in bodies.items()} | complete


def _is_answer(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, Answer) and kind is not Answer


def _null_is_absent(schema: Json) -> Json:
    """Optional properties may be null, and more properties may be there."""
    required = schema.get("required", [])
    properties = {
        name: value if name in required else {"anyOf": [value, {"type": "null"}]}
        for name, value in schema["properties"].items()
    }
    return {**schema, "properties": properties, "additionalProperties": True}


def _is_there(schema: Json, kind: type[Answer]) -> Json:
    """Every property of an answer is there, but for those that are UNSET unless they are set."""
    optional = {
        field.encode_name
        for field in msgspec.structs.fields(kind)
        if field.default is msgspec.UNSET
    }
    return {**schema, "required": [name for name in schema["properties"] if name not in optional]}
