"""Canonical JSON, and frozen dataclasses to and from it: one spelling for fingerprints, bundles and checkpoints."""

from __future__ import annotations

import json
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")


def canonical_json(value: object) -> bytes:
    """ASCII JSON with sorted keys and no spaces; ValueError for a number that is not finite.

    The standard library writes it, since msgspec neither escapes to ASCII (a path may hold lone surrogates) nor
    refuses NaN.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def to_json(value: object) -> Any:
    """Plain dicts, lists and scalars of a (nested) dataclass."""
    return json.loads(json.dumps(msgspec.to_builtins(value)))  # msgspec leaves tuples as they are


def from_json(kind: type[T], data: Any) -> T:
    """The dataclass `kind` that `to_json` wrote as `data`.

    Raises:
        ValueError: where `data` does not describe one; an unknown or a missing field included.
    """
    try:
        value = msgspec.convert(data, kind)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    # msgspec passes over unknown fields and fills in missing ones; a file that holds either is not what was written.
    written = to_json(value)
    if written != data:
        fields = sorted(name for name in {*written, *data} if written.get(name) != data.get(name))
        raise ValueError(f"a {kind.__name__} is not described by its fields {', '.join(fields)}")
    return value
