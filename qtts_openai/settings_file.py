"""config.yaml -> Settings; an error says file, line and key, and what is known there."""

import ipaddress
import os
import re
from pathlib import Path
from typing import Any

import msgspec
import yaml

from engine import RENAMED_KEYS
from qtts_openai.settings import Settings, SettingsError


def load_settings(path: str | None = None) -> Settings:
    """From `path`, else $QTTS_CONFIG, else ./config.yaml where there is one, else the defaults."""
    chosen = _chosen(path)
    if chosen is None:
        return Settings()
    try:
        text = Path(chosen).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{chosen}: cannot be read: {error}") from error
    return parse_settings(text, chosen)


def _chosen(path: str | None) -> str | None:
    chosen = path or os.environ.get("QTTS_CONFIG") or None  # composed environments set it blank
    if chosen is None and Path("config.yaml").is_file():
        return "config.yaml"
    return chosen


def parse_settings(text: str, name: str = "config.yaml") -> Settings:
    try:
        tree = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SettingsError(f"{name}: not valid YAML: {error}") from error
    try:
        settings = _convert({} if tree is None else tree)
        _check_names(settings)
        _check_proxies(settings)
        _check_pairs(settings)
    except SettingsError as error:
        raise SettingsError(f"{name}: {error}{_line(text, error.key)}") from error
    return settings


def in_file(error: SettingsError, path: str | None) -> SettingsError:
    """The error of a key that only showed when the models were loaded, with its place."""
    chosen = _chosen(path)
    if error.key is None or chosen is None:
        return error
    return SettingsError(f"{chosen}: {error}{_line(Path(chosen).read_text('utf-8'), error.key)}")


def _convert(tree: Any) -> Settings:
    try:
        return msgspec.convert(tree, Settings)
    except msgspec.ValidationError as error:
        raise _explain(str(error)) from error


def _check_proxies(settings: Settings) -> None:
    for network in settings.server.trusted_proxies:
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            raise SettingsError(str(error), "server.trusted_proxies") from error


def _check_names(settings: Settings) -> None:
    seen: set[str] = set()
    for at, model in enumerate(settings.models):
        for word in (model.id, *model.aliases):
            if word.lower() in seen:
                raise SettingsError(f"the name {word!r} is used twice", f"models[{at}]")
            seen.add(word.lower())
    default = settings.defaults.model
    if default is not None and default.lower() not in seen:
        known = ", ".join(model.id for model in settings.models)
        raise SettingsError(f"there is no model {default!r}; models: {known}", "defaults.model")


def _check_pairs(settings: Settings) -> None:
    """Values that are possible alone and not together."""
    audio = settings.ref_audio
    if audio.min_s >= audio.max_s:
        raise SettingsError(f"must be more than min_s, {audio.min_s:g}", "ref_audio.max_s")


def _line(text: str, key: str | None) -> str:
    """Where in the file `key` is, or the nearest section around it that is there."""
    node, line = yaml.compose(text, yaml.SafeLoader), None
    for part in re.findall(r"[^.\[\]]+", key or ""):
        found = _child(node, part)
        if found is None:
            break
        line, node = found
    return f" (line {line + 1})" if line is not None else ""


def _child(node: yaml.Node | None, part: str) -> tuple[int, yaml.Node] | None:
    """(line, value) of a key, or of an item by its number."""
    if isinstance(node, yaml.MappingNode):
        pairs = [(key, value) for key, value in node.value if key.value == part]
        return (pairs[-1][0].start_mark.line, pairs[-1][1]) if pairs else None
    if isinstance(node, yaml.SequenceNode) and part.isdecimal() and int(part) < len(node.value):
        item = node.value[int(part)]
        return item.start_mark.line, item
    return None


def _explain(message: str) -> SettingsError:
    """msgspec's text with the path first, and for an unknown key the keys that exist there."""
    what, _, path = message.partition(" - at ")
    where = path.removeprefix("`key` in ").strip("`").lstrip("$.")
    unknown = re.search(r"unknown field `(.+)`", what)
    if unknown is not None:
        key = f"{where}.{unknown[1]}" if where else unknown[1]
        if where == "engine" and unknown[1] in RENAMED_KEYS:
            renamed = SettingsError(f"{key} is called engine.{RENAMED_KEYS[unknown[1]]} now")
            renamed.key = key
            return renamed
        known = [field.encode_name for field in _type_at(where).fields]
        error = SettingsError(f"{key} is not a known key; known here: {', '.join(known)}")
        error.key = key
        return error
    if "enum value" in what:
        kinds = getattr(_type_at(where), "types", [_type_at(where)])
        values = [repr(value) for kind in kinds for value in getattr(kind, "values", ())]
        also = " or a whole number" if len(kinds) > 1 else ""
        what += f"; use one of {', '.join(values)}{also}"
    return SettingsError(what, where or "top level")


def _type_at(where: str) -> Any:
    """The msgspec type behind a path such as `models[0].id`."""
    node: Any = msgspec.inspect.type_info(Settings)
    for part in filter(None, re.split(r"\.|\[\d+\]|\[\.\.\.\]", where)):
        node = next(field.type for field in node.fields if field.name == part)
        node = getattr(node, "item_type", node)
    return node
