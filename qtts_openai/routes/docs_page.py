"""The OpenAPI document as one HTML page that needs no script and no network."""

from html import escape
from typing import Any

Json = dict[str, Any]

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
code { font-size: 0.95em } table { border-collapse: collapse; width: 100% }
td, th { border-bottom: 1px solid #ddd; padding: 0.3rem 0.6rem; text-align: left }
td { vertical-align: top }
"""


def render(document: Json) -> str:
    """Every operation, then every schema's fields."""
    info = document["info"]
    schemas = document.get("components", {}).get("schemas", {})
    parts = [
        f"<!doctype html><meta charset=utf-8><title>{escape(info['title'])}</title>",
        f"<style>{STYLE}</style><h1>{escape(info['title'])} {escape(info['version'])}</h1>",
        '<p>For machines: <a href="openapi.json">openapi.json</a></p><table>',
        *(_operation(path, method, op) for path, ops in document["paths"].items()
          for method, op in ops.items()),
        "</table>",
        *(_schema(name, schema) for name, schema in schemas.items()),
    ]  # fmt: skip
    return "\n".join(parts)


def _operation(path: str, method: str, operation: Json) -> str:
    content = operation.get("requestBody", {}).get("content", {})
    bodies = ", ".join(
        f"{_type(body.get('schema', {}))} as {kind}" for kind, body in content.items()
    )
    call = f"<code>{method.upper()} {escape(path)}</code>"
    return f"<tr><td>{call}<td>{escape(operation.get('summary', ''))}<td>{bodies}"


def _schema(name: str, schema: Json) -> str:
    required = schema.get("required", [])
    rows = (
        f"<tr><td><code>{escape(field)}</code>{' (required)' if field in required else ''}"
        f"<td>{_type(kind)}<td>{escape(kind.get('description', ''))}"
        for field, kind in schema.get("properties", {}).items()
    )
    head = f'<h2 id="{escape(name)}">{escape(name)}</h2>'
    return f"{head}<p>{escape(schema.get('description', ''))}</p><table>{''.join(rows)}</table>"


def _type(schema: Json) -> str:
    """A schema in a few words: a link to a named one, alternatives, or type and bounds."""
    if ref := schema.get("$ref"):
        name = escape(ref.rsplit("/", 1)[-1])
        return f'<a href="#{name}">{name}</a>'
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return " or ".join(dict.fromkeys(map(_type, schema[key])))
    if "enum" in schema:
        return escape(" | ".join(map(str, schema["enum"])))
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    bounds = {k: v for k, v in schema.items() if k.startswith(("min", "max")) or k == "default"}
    shown = ", ".join(f"{key} {value}" for key, value in bounds.items())
    return escape(f"{schema.get('type', 'any')}" + (f" ({shown})" if shown else ""))
