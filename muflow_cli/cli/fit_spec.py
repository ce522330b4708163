"""From the options of `muflow fit` to one DetectorSpec, and the weights file of each branch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from muflow_cli.errors import BadSpec, IncompatibleOptions
from muflow_cli.presets import PRESETS
from muflow_cli.settings import apply, override, with_branches
from muflow_cli.specs import DetectorSpec

Changes = Mapping[str, Mapping[str, Any]]


def fit_spec(preset: str, branches: Sequence[str], changes: Changes, settings: Sequence[str]) -> DetectorSpec:
    """The preset with branches and changes applied, the most specific one last.

    Args:
        preset: a row of PRESETS.
        branches: values of --branch; empty = the one branch of the preset.
        changes: group -> field -> value, for every branch; None = as the preset has it.
        settings: values of --set.

    Raises:
        BadSpec: for a name that does not exist or a value that a spec refuses.
    """
    if preset not in PRESETS:
        raise BadSpec("--preset", preset, f"one of {', '.join(PRESETS)}")
    given = {group: {k: v for k, v in fields.items() if v is not None} for group, fields in changes.items()}
    spec = apply(PRESETS[preset], given)
    if branches:
        if "encoder" in given.get("feature", {}):
            raise IncompatibleOptions("--encoder", "--branch", "each branch names its own encoder")
        # A method that was chosen wins over the one that several branches bring.
        spec = apply(with_branches(spec, branches), {"rule": given.get("rule", {})})
    return override(spec, settings)


def branch_weights(spec: DetectorSpec, values: Sequence[str]) -> dict[str, Path]:
    """Branch -> weights file, from the values of --encoder-weights, `[BRANCH=]FILE`.

    Raises:
        BadSpec: for a branch that does not exist or has two files, or a file that could belong to several branches.
        IncompatibleOptions: for weights of an encoder that learns none.
    """
    weights: dict[str, Path] = {}
    for branch, file in _assigned(spec, values):
        if branch in weights:
            raise BadSpec("--encoder-weights", f"given twice for the branch {branch}", "one file for each branch")
        weights[branch] = file
    return weights


def _assigned(spec: DetectorSpec, values: Sequence[str]) -> Iterator[tuple[str, Path]]:
    from muflow_cli.engine.encoders import encoder_row

    encoders = {branch.name: branch.feature.encoder for branch in spec.branches}
    learning = [name for name, encoder in encoders.items() if encoder_row(encoder).learned]
    for value in values:
        branch, equals, file = value.partition("=")
        if not equals or (branch not in encoders and Path(value).exists()):
            if len(learning) > 1:
                needed = f"BRANCH=FILE, since the encoders of {' and '.join(learning)} learn weights"
                raise BadSpec("--encoder-weights", value, needed)
            branch, file = (learning or list(encoders))[0], value
        elif branch not in encoders:
            raise BadSpec("--encoder-weights", value, f"the name of a branch, {' or '.join(encoders)}")
        if branch not in learning:
            raise IncompatibleOptions(
                "--encoder-weights", f"the encoder {encoders[branch]}", "that encoder has no learned weights"
            )
        yield branch, Path(file)
