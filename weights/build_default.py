"""Fit the built-in default detector to folders of real faces, one folder per source.

    python weights/build_default.py REALS_FOLDER... -o weights/default.safetensors

Content alone decides where an image goes; file names do not matter, near copies stay together, and one of them
calibrates. With device and precision fixed, everybody gets the same. The script reads no synthetic image.
"""

from __future__ import annotations

import argparse
import hashlib
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

from muflow_cli.fit import FitRequest, fit
from muflow_cli.presets import LIGHT
from muflow_cli.progress import NoProgress
from muflow_cli.run_specs import Precision, Runtime
from muflow_cli.settings import override
from muflow_cli.specs import ContainerSpec

CONTAINER: Final = ContainerSpec(square=True, resize=256, jpeg=90)
# Chosen on real images alone; weights/README.md lists the candidates and the reasons.
SETTINGS: Final = (
    "view.draft=false",
    "feature.encoder=forensic",
    "feature.dimensions=100",
    "feature.grid=4",
    "feature.joint=true",
    "flow.steps=0",
    "target.images_per_average=1",
    "target.components=1",
    "train.epochs=0",
    "train.calibration_share=0.3",
    "rule.method=fisher",
)


def main() -> None:
    """Read the arguments, fit, and print a summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "reals", nargs="+", type=Path, metavar="REALS_FOLDER", help="folder with real faces from one source"
    )
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).with_name("default.safetensors"))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    request = FitRequest(
        reals=tuple(str(folder) for folder in arguments.reals),
        output=arguments.output,
        spec=replace(override(LIGHT, (*SETTINGS, f"train.seed={arguments.seed}")), container=CONTAINER),
        runtime=Runtime(device="cpu", precision=Precision.FP32),
        force=True,
    )
    for name, value in asdict(fit(request, NoProgress())).items():
        print(f"{name}: {value}")
    data = arguments.output.read_bytes()
    print(f"sha256: {hashlib.sha256(data).hexdigest()}, {len(data)} bytes")


if __name__ == "__main__":
    main()
