"""Scores in bfloat16 beside the same in float32, picture by picture.

    python benchmarks/precision.py DETECTOR INPUT... [--limit 0] [--device auto] [--json]

Prints the differences of the score in standard deviations of the calibration reals' scores (median, 99th percentile,
largest), and how many verdicts the precision changes, each judged by the detector's own calibration.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
from pathlib import Path

import numpy as np

from muflow_cli.bundle import load
from muflow_cli.calibrate import score_pictures
from muflow_cli.calibration import Judge
from muflow_cli.engine.scoring import place
from muflow_cli.pictures.find import find
from muflow_cli.pictures.pool import Loaded, LoadSpec
from muflow_cli.pictures.pool import load as load_pictures
from muflow_cli.specs import InputSpec, Precision


def measure(options: argparse.Namespace) -> dict[str, float | int]:
    detector = load(options.detector)
    if detector.calibration is None:
        raise SystemExit(f"{options.detector} has no calibration: run `muflow calibrate` first")
    judge = Judge(detector.calibration, detector.scales)
    spec = LoadSpec(view=detector.spec.view, inputs=InputSpec(), workers=len(os.sched_getaffinity(0)), ahead=32)
    scores, flags = {}, {}
    for precision in (Precision.FP32, Precision.BF16):
        scorer = detector.scorer(place(options.device, precision))
        found = itertools.islice(find(options.inputs, InputSpec()), options.limit or None)
        pictures = (item for item in load_pictures(found, spec) if isinstance(item, Loaded))
        facts, rows = zip(*score_pictures(scorer, pictures), strict=True)
        scores[precision] = np.stack(rows)
        flags[precision] = np.array([verdict.flagged for verdict in judge.judge(scores[precision], facts)])
    deviation = detector.calibration.scores.mean(axis=1).std()
    gaps = np.abs(scores[Precision.BF16].mean(axis=1) - scores[Precision.FP32].mean(axis=1)) / deviation
    flipped = flags[Precision.BF16] != flags[Precision.FP32]
    return {
        "pictures": len(gaps),
        "median": float(np.median(gaps)),
        "percentile_99": float(np.quantile(gaps, 0.99)),
        "largest": float(gaps.max()),
        "within_0.05": float((gaps <= 0.05).mean()),
        "verdicts_changed": int(flipped.sum()),
        "share_changed": float(flipped.mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("detector", type=Path)
    parser.add_argument("inputs", nargs="+")
    parser.add_argument("--limit", type=int, default=0, help="pictures; 0 = all")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = measure(options)
    if options.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name:18} {value:g}")


if __name__ == "__main__":
    main()
