"""Settings by name: `flow.steps=4` on a spec, each value checked by the spec it belongs to."""

from __future__ import annotations

import dataclasses
import typing
from enum import Enum
from typing import Any

from muflow_cli.errors import BadSpec
from muflow_cli.specs import DetectorSpec

_GROUPS = ("view", "feature", "flow", "target", "train", "rule")


def names() -> list[str]:
    """Every setting, as `group.field`."""
    hints = typing.get_type_hints(DetectorSpec)
    return [f"{group}.{field.name}" for group in _GROUPS for field in dataclasses.fields(hints[group])]


def override(spec: DetectorSpec, assignments: typing.Iterable[str]) -> DetectorSpec:
    """`spec` with each `group.field=value` applied; several fields of one group are checked together.

    Raises:
        BadSpec: for an unknown name, a value of another kind, or one the spec refuses.
    """
    changes: dict[str, dict[str, Any]] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals or name not in names():
            raise BadSpec("--set", assignment, "NAME=VALUE with NAME one of " + ", ".join(names()))
        group, field = name.split(".")
        kind = typing.get_type_hints(type(getattr(spec, group)))[field]
        changes.setdefault(group, {})[field] = _value(name, kind, text)
    return apply(spec, changes)


def apply(spec: DetectorSpec, changes: dict[str, dict[str, Any]]) -> DetectorSpec:
    """`spec` with the fields of each group replaced."""
    return dataclasses.replace(
        spec, **{group: dataclasses.replace(getattr(spec, group), **fields) for group, fields in changes.items()}
    )


def _value(name: str, kind: Any, text: str) -> Any:
    try:
        return _parse(kind, text)
    except ValueError:
        raise BadSpec(name, text, _wanted(kind)) from None


def _parse(kind: Any, text: str) -> Any:
    arguments = typing.get_args(kind)
    if type(None) in arguments:
        return None if text in ("", "none") else _parse(arguments[0], text)
    if typing.get_origin(kind) is tuple:
        parts = [part.strip() for part in text.split(",") if part.strip()]
        if arguments[-1] is not Ellipsis and len(parts) != len(arguments):
            raise ValueError
        return tuple(_parse(arguments[0], part) for part in parts)
    if kind is bool:
        return _boolean(text.lower())
    return kind(text)


def _boolean(text: str) -> bool:
    if text not in ("true", "yes", "1", "false", "no", "0"):
        raise ValueError
    return text in ("true", "yes", "1")


def _wanted(kind: Any) -> str:
    if isinstance(kind, type) and issubclass(kind, Enum):
        return "one of " + ", ".join(member.value for member in kind)
    if typing.get_origin(kind) is tuple:
        return "values separated by commas"
    return {int: "a whole number", float: "a number", bool: "true or false"}.get(kind, "text")
