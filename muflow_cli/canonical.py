"""Canonical JSON and frozen dataclasses to and from it: one spelling for fingerprints, bundles and checkpoints."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from enum import Enum
from typing import Any, TypeVar

T = TypeVar("T")


def canonical_json(value: object) -> bytes:
    """ASCII JSON with sorted keys and no spaces; ValueError for a number that is not finite."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def to_json(value: object) -> Any:
    """Plain dicts, lists and scalars of a (nested) dataclass."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if isinstance(value, dict):
        return {str(k): to_json(v) for k, v in value.items()}
    return value


def from_json(kind: type[T], data: Any) -> T:
    """The dataclass `kind` that `to_json` wrote as `data`.

    Raises:
        ValueError, TypeError, KeyError: where `data` does not describe one (an unknown or a missing field included).
    """
    return typing.cast(T, _decode(kind, data))


def _decode(kind: Any, data: Any) -> Any:
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(typing.cast(type, kind), data)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return None if data is None else _decode(next(a for a in arguments if a is not type(None)), data)
    if origin is tuple:
        return _decode_tuple(arguments, data)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind(data)
    return _decode_scalar(kind, data)


def _decode_dataclass(kind: type, data: Any) -> Any:
    if not isinstance(data, dict):
        raise TypeError(f"{kind.__name__} is written as an object")
    hints = typing.get_type_hints(kind)
    names = {f.name for f in dataclasses.fields(kind)}
    if set(data) != names:
        raise ValueError(f"{kind.__name__} has other fields: {', '.join(sorted(set(data) ^ names))}")
    return kind(**{name: _decode(hints[name], data[name]) for name in sorted(names)})


def _decode_tuple(arguments: tuple[Any, ...], data: Any) -> tuple[Any, ...]:
    if not isinstance(data, list):
        raise TypeError("a tuple is written as a list")
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(_decode(arguments[0], item) for item in data)
    return tuple(_decode(kind, item) for kind, item in zip(arguments, data, strict=True))


def _decode_scalar(kind: Any, data: Any) -> Any:
    if kind is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    if kind in (int, float, str, bool) and type(data) is not kind:
        raise TypeError(f"expected {kind.__name__}, found {type(data).__name__}")
    return data
