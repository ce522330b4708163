"""Settings by name: `flow.steps=4` on a spec, each value checked by the spec it belongs to."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import Any

import msgspec

from muflow_cli.errors import BadSpec
from muflow_cli.specs import BranchSpec, DetectorSpec, FaceSpec, View

_BRANCH_GROUPS = ("view", "feature", "flow", "target")
_GROUPS = ("train", "rule")


def names() -> list[str]:
    """Every setting, as `group.field`."""
    hints = typing.get_type_hints(BranchSpec) | typing.get_type_hints(DetectorSpec)
    groups = (*_BRANCH_GROUPS, *_GROUPS)
    return [f"{group}.{field.name}" for group in groups for field in dataclasses.fields(hints[group])]


def override(spec: DetectorSpec, assignments: Iterable[str]) -> DetectorSpec:
    """`spec` with each `group.field=value` applied, or `branch/group.field=value` for one branch of several.

    Fields of one group are checked together.

    Raises:
        BadSpec: for an unknown name, a value of another kind, or one the spec refuses.
    """
    changes: dict[str, dict[str, dict[str, Any]]] = {}
    branches = {branch.name for branch in spec.branches}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        branch, _, setting = name.rpartition("/")
        if not equals or setting not in names() or (branch and branch not in branches):
            raise BadSpec("--set", assignment, "[BRANCH/]NAME=VALUE with NAME one of " + ", ".join(names()))
        group, field = setting.split(".")
        hints = typing.get_type_hints(BranchSpec if group in _BRANCH_GROUPS else DetectorSpec)
        kind = typing.get_type_hints(hints[group])[field]
        changes.setdefault(branch, {}).setdefault(group, {})[field] = parse_value(setting, kind, text)
    for branch, groups in changes.items():
        spec = apply(spec, groups, branch)
    return spec


def apply(spec: DetectorSpec, changes: Mapping[str, Mapping[str, Any]], branch: str = "") -> DetectorSpec:
    """`spec` with the fields of each group replaced: in the branch of that name, or in every branch."""
    common = {group: fields for group, fields in changes.items() if group in _GROUPS}
    own = {group: fields for group, fields in changes.items() if group in _BRANCH_GROUPS}
    branches = tuple(_replaced(each, own) if branch in ("", each.name) else each for each in spec.branches)
    return dataclasses.replace(_replaced(spec, common), branches=branches)


_Spec = typing.TypeVar("_Spec", BranchSpec, DetectorSpec)


def _replaced(spec: _Spec, changes: Mapping[str, Mapping[str, Any]]) -> _Spec:
    groups = {group: dataclasses.replace(getattr(spec, group), **fields) for group, fields in changes.items()}
    return dataclasses.replace(spec, **groups)


def parse_value(name: str, kind: Any, text: str) -> Any:
    """The value of type `kind` that `text` spells: a tuple's parts are separated by commas, `none` is None.

    Raises:
        BadSpec: naming `name` and what it takes.
    """
    is_tuple = tuple in (typing.get_origin(kind), *map(typing.get_origin, typing.get_args(kind)))
    optional = type(None) in typing.get_args(kind)
    value: object = [part.strip() for part in text.split(",") if part.strip()] if is_tuple else text
    if optional and text.lower() in ("", "none"):
        value = None
    if kind is bool:
        value = {"yes": "true", "no": "false"}.get(text.lower(), text)
    try:
        return msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError:
        raise BadSpec(name, text, _needed(kind, is_tuple=is_tuple)) from None


def _needed(kind: Any, *, is_tuple: bool) -> str:
    if isinstance(kind, type) and issubclass(kind, Enum):
        return "one of " + ", ".join(member.value for member in kind)
    if is_tuple:
        return "values separated by commas"
    return {int: "a whole number", float: "a number", bool: "true or false"}.get(kind, "text")


def with_branches(spec: DetectorSpec, texts: Sequence[str]) -> DetectorSpec:
    """`spec` with the branches that `NAME=ENCODER[,group.field=value...]` describe; no texts = `spec` itself.

    Each branch starts from the first one of `spec`. Several branches are judged together by Cauchy's combination, which
    stays valid for columns that depend on each other and needs no more reals than the other combining rules.

    Raises:
        BadSpec: for a text of another form, an unknown setting, or a value that the branch refuses.
    """
    branches, assignments = [], []
    for text in texts:
        name, encoder, settings = _parsed_branch(text)
        base = spec.branches[0]
        branches.append(
            dataclasses.replace(base, name=name, feature=dataclasses.replace(base.feature, encoder=encoder))
        )
        assignments += [f"{name}/{setting}" for setting in settings]
    if not branches:
        return spec
    if len(branches) > 1:
        spec = apply(spec, {"rule": {"method": "cauchy"}})
    return override(dataclasses.replace(spec, branches=tuple(branches)), assignments)


def _parsed_branch(text: str) -> tuple[str, str, list[str]]:
    """Name, encoder and settings of one branch; a part without `=` belongs to the value before it."""
    name, equals, rest = text.partition("=")
    encoder, *parts = rest.split(",")
    settings: list[str] = []
    for part in parts:
        if "=" in part:
            settings.append(part)
        elif settings:
            settings[-1] += f",{part}"
        else:
            equals = ""
    if not (name and equals and encoder):
        raise BadSpec("--branch", text, "NAME=ENCODER[,SETTING=VALUE...]")
    known = [setting for setting in names() if setting.split(".")[0] in _BRANCH_GROUPS]
    for setting in settings:
        if setting.partition("=")[0] not in known:
            raise BadSpec("--branch", text, f"only these settings, {', '.join(known)}")
    return name, encoder, settings


def with_faces(spec: DetectorSpec, faces: FaceSpec) -> DetectorSpec:
    """The detector that scores each face: aligned in place of the whole image, in native crops of it otherwise."""

    def looking_at_faces(branch: BranchSpec) -> BranchSpec:
        if branch.view.kind is not View.RESIZE:
            return branch
        return dataclasses.replace(branch, view=dataclasses.replace(branch.view, kind=View.FACE))

    branches = tuple(map(looking_at_faces, spec.branches))
    return dataclasses.replace(spec, branches=branches, faces=faces)
