"""`muflow export`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from muflow_cli.cli import options
from muflow_cli.cli.progress import stderr_console


def export_command(
    detector: options.DetectorArgument,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help="Model to write: .onnx, or .xml with its .bin.")
    ],
    force: options.Force = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON on stdout.")] = False,
    quiet: options.Quiet = False,
) -> None:
    """Write a detector as an ONNX or OpenVINO model for other programs: uint8 views in, columns out.

    The model has one input for each branch, views.BRANCH, (B, H, W, 3) RGB with any B, and one output, columns.BRANCH.
    Its metadata names the detector and says how images become views. Before it is written, its scores are compared
    with torch. Verdicts need the calibration, which stays in the detector.

    ONNX needs pip install 'muflow-cli[onnx]', OpenVINO needs pip install 'muflow-cli[openvino]'.

    **Example**

    ```sh
    muflow export faces.safetensors -o faces.onnx
    ```
    """
    from muflow_cli.bundle import load
    from muflow_cli.canonical import to_json
    from muflow_cli.export import export

    console = stderr_console(quiet)
    loaded = load(detector)
    console.print("exporting, which takes up to a minute")
    written = export(loaded, output, force=force)
    if as_json:
        typer.echo(json.dumps(to_json(written)))
    for name, shape in written.inputs.items():
        console.print(f"{'input':14} {name}, {shape}")
    for name, columns in written.outputs.items():
        console.print(f"{'output':14} {name}, float32 (B, {len(columns)}), {', '.join(columns)}")
    console.print(f"{'agreement':14} within {written.deviation:.1g} nats per dimension of torch on probe images")
    console.print(f"{'wrote':14} {', '.join(written.files)}")
