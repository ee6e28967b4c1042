"""The part of msgspec that engine/ needs inside one process, on top of dataclasses.

For machines where nothing can be installed (bare.py). Structs, `structs.replace` and `convert` of
parsed JSON behave as msgspec's do, error messages included; tests/benchmarks/test_bare.py compares
them. Encoders and decoders are left out, so there are no worker processes and no server.
"""

import dataclasses
from contextlib import suppress
from types import NoneType, SimpleNamespace, UnionType
from typing import Any, Literal, Union, dataclass_transform, get_args, get_origin, get_type_hints


class DecodeError(Exception):
    pass


class ValidationError(DecodeError):
    pass


@dataclass_transform()
class _StructMeta(type):
    def __new__(
        mcls,
        name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        *,
        frozen: bool = False,
        kw_only: bool = False,
        tag: bool = False,
        forbid_unknown_fields: bool = False,
    ) -> Any:
        for field, default in list(namespace.items()):
            if field in namespace.get("__annotations__", {}) and isinstance(default, dict | list):
                namespace[field] = dataclasses.field(default_factory=default.copy)
        cls = super().__new__(mcls, name, bases, namespace)
        if not bases:
            return cls
        made: Any = dataclasses.dataclass(frozen=frozen, kw_only=kw_only, repr=False)(cls)
        made.__struct_fields__ = tuple(field.name for field in dataclasses.fields(made))
        made._forbids_unknown = forbid_unknown_fields or getattr(made, "_forbids_unknown", False)
        return made


class Struct(metaclass=_StructMeta):
    __struct_fields__: tuple[str, ...] = ()

    def __repr__(self) -> str:
        values = (f"{name}={getattr(self, name)!r}" for name in self.__struct_fields__)
        return f"{type(self).__name__}({', '.join(values)})"


structs = SimpleNamespace(replace=dataclasses.replace)


def convert(obj: Any, type: Any, *, strict: bool = True) -> Any:
    """`obj`, as json.loads gives it, as a `type`. Not strict: strings may stand for numbers."""
    return _convert(obj, type, strict, "$")


def _convert(obj: Any, kind: Any, strict: bool, path: str) -> Any:
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        return _union(obj, kind, strict, path)
    if origin is Literal:
        return _literal(obj, kind, path)
    if isinstance(kind, _StructMeta):
        return _struct(obj, kind, strict, path)
    if origin in (list, tuple):
        return _sequence(obj, kind, strict, path)
    if dict in (kind, origin):
        return _mapping(obj, kind, strict, path)
    return _scalar(obj, kind, strict, path)


def _union(obj: Any, kind: Any, strict: bool, path: str) -> Any:
    """As itself where a member says so, else as the first member that takes it."""
    members = get_args(kind)
    for exactly in (True, strict):
        for member in members:
            try:
                return _convert(obj, member, exactly, path)
            except ValidationError as error:
                # What is wrong inside an object says more than that the union does not fit.
                if isinstance(member, _StructMeta) and isinstance(obj, dict):
                    raise error
    for member in members:
        if get_origin(member) is Literal and isinstance(obj, str):
            _literal(obj, member, path)
    raise _unexpected(obj, kind, path)


def _literal(obj: Any, kind: Any, path: str) -> Any:
    for value in get_args(kind):
        if type(obj) is type(value) and obj == value:
            return obj
    if type(obj) is not type(get_args(kind)[0]):
        raise _unexpected(obj, type(get_args(kind)[0]), path)
    raise ValidationError(f"Invalid enum value {obj!r}{_at(path)}")


def _struct(obj: Any, kind: Any, strict: bool, path: str) -> Any:
    if not isinstance(obj, dict):
        raise _unexpected(obj, kind, path)
    hints, values = get_type_hints(kind), {}
    if kind._forbids_unknown and (unknown := [key for key in obj if key not in hints]):
        raise ValidationError(f"Object contains unknown field `{unknown[0]}`{_at(path)}")
    for field in dataclasses.fields(kind):
        if field.name in obj:
            name = field.name
            values[name] = _convert(obj[name], hints[name], strict, f"{path}.{name}")
        elif field.default is field.default_factory is dataclasses.MISSING:
            raise ValidationError(f"Object missing required field `{field.name}`{_at(path)}")
    return kind(**values)


def _sequence(obj: Any, kind: Any, strict: bool, path: str) -> Any:
    origin, members = get_origin(kind), get_args(kind)
    if not isinstance(obj, list | tuple):
        raise _unexpected(obj, kind, path)
    if origin is list or members[-1] is Ellipsis:
        members = (members[0],) * len(obj)
    if len(obj) != len(members):
        expected = f"Expected `array` of length {len(members)}, got {len(obj)}"
        raise ValidationError(expected + _at(path))
    pairs = enumerate(zip(obj, members, strict=True))
    return origin(_convert(item, m, strict, f"{path}[{i}]") for i, (item, m) in pairs)


def _mapping(obj: Any, kind: Any, strict: bool, path: str) -> Any:
    if not isinstance(obj, dict):
        raise _unexpected(obj, kind, path)
    if not get_args(kind):
        return obj
    key_kind, value_kind = get_args(kind)
    return {
        _convert(key, key_kind, strict, path): _convert(value, value_kind, strict, f"{path}[...]")
        for key, value in obj.items()
    }


def _scalar(obj: Any, kind: Any, strict: bool, path: str) -> Any:
    if kind is Any or (type(obj) is kind):
        return obj
    if kind is float and type(obj) is int:
        return float(obj)
    if not strict:
        with suppress(ValueError, KeyError):
            return _lax(obj, kind)
    raise _unexpected(obj, kind, path)


def _lax(obj: Any, kind: Any) -> Any:
    """ValueError or KeyError where `obj` cannot stand for a `kind`."""
    word = obj.lower() if isinstance(obj, str) else obj
    if kind is bool and type(obj) in (str, int):
        return {"true": True, "1": True, 1: True, "false": False, "0": False, 0: False}[word]
    if kind is NoneType and word == "null":
        return None
    if kind in (int, float) and isinstance(obj, str):
        return kind(obj)
    if kind is int and isinstance(obj, float) and obj.is_integer():
        return int(obj)
    raise ValueError


_NAMES = {  # in the order of a message
    bool: "bool", int: "int", float: "float", str: "str", list: "array", dict: "object",
    NoneType: "null",
}  # fmt: skip


def _name(kind: Any) -> str:
    if isinstance(kind, _StructMeta):
        return "object"
    if get_origin(kind) is Literal:
        return _name(type(get_args(kind)[0]))
    plain = get_origin(kind) or kind
    return _NAMES[list if plain is tuple else plain]


def _unexpected(obj: Any, kind: Any, path: str) -> ValidationError:
    members = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    names = {_name(member) for member in members}
    expected = " | ".join(name for name in _NAMES.values() if name in names)
    return ValidationError(f"Expected `{expected}`, got `{_name(type(obj))}`{_at(path)}")


def _at(path: str) -> str:
    return "" if path == "$" else f" - at `{path}`"
