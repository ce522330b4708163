"""`muflow info`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from muflow_cli.cli import options
from muflow_cli.cli.startup import quick_start

if TYPE_CHECKING:
    from muflow_cli.detector import Detector


def info_command(
    detector: options.DetectorArgument,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Show what a detector holds: specification, provenance, calibration, fingerprints.

    Example: `muflow info faces.safetensors --json`
    """
    with quick_start():
        from muflow_cli.bundle import load

    described = _describe(load(detector))
    if as_json:
        typer.echo(json.dumps(described, indent=2))
        return
    for name, value in _flat("", described):
        typer.echo(f"{name:34} {value}")


def _describe(detector: Detector) -> dict[str, Any]:
    from muflow_cli.canonical import to_json

    calibration = detector.calibration
    return {
        "fingerprint": detector.fingerprint,
        "calibration_fingerprint": None if calibration is None else calibration.fingerprint(),
        "scales": list(detector.scales),
        "bytes": sum(t.numel() * t.element_size() for t in detector.tensors().values()),
        "spec": to_json(detector.spec),
        "provenance": to_json(detector.provenance),
        "calibration": None if calibration is None else calibration.meta(),
    }


def _flat(prefix: str, value: Any) -> list[tuple[str, str]]:
    if isinstance(value, dict) and value:
        return [row for key, item in value.items() for row in _flat(f"{prefix}.{key}" if prefix else key, item)]
    return [(prefix, ", ".join(map(str, value)) if isinstance(value, list) else str(value))]
