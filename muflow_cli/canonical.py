"""Canonical JSON, and frozen dataclasses to and from it: one spelling for fingerprints, bundles and checkpoints."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Final, TypeVar

import msgspec

T = TypeVar("T")

# Metadata of a field that a later version added: it is not written at its default, so that what was written before
# keeps its bytes and its fingerprint.
ADDED: Final[Mapping[str, bool]] = {"added": True}


def canonical_json(value: object) -> bytes:
    """ASCII JSON with sorted keys and no spaces; ValueError for a number that is not finite.

    The standard library writes it, since msgspec neither escapes to ASCII (a path may hold lone surrogates) nor
    refuses NaN.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def to_json(value: object) -> Any:
    """Plain dicts, lists and scalars of a (nested) dataclass, without ADDED fields that have their default."""
    written = json.loads(json.dumps(msgspec.to_builtins(value)))  # msgspec leaves tuples as they are
    _leave_out_added(value, written)
    return written


def _leave_out_added(value: object, written: Any) -> None:
    """Remove from `written`, at any depth, the ADDED fields of `value` that have their default."""
    if is_dataclass(value):
        for field in fields(value):
            own = getattr(value, field.name)
            default = field.default if field.default_factory is MISSING else field.default_factory()
            if field.metadata.get("added") and own == default:
                del written[field.name]
            else:
                _leave_out_added(own, written[field.name])
    elif isinstance(value, tuple | list):
        for own, part in zip(value, written, strict=True):
            _leave_out_added(own, part)
    elif isinstance(value, Mapping):
        for own, part in zip(value.values(), written.values(), strict=True):
            _leave_out_added(own, part)


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
        differing = sorted(
            name for name in {*written, *data} if name not in data or name not in written or written[name] != data[name]
        )
        raise ValueError(f"a {kind.__name__} is not described by its fields {', '.join(differing)}")
    return value
