"""Scores in bfloat16 beside the same scores in float32, image by image.

    python benchmarks/precision.py DETECTOR INPUT... [--limit 0] [--device auto] [--json]

Prints how far the scores differ, in standard deviations of the calibration reals' scores (median, 99th percentile,
largest), and how many verdicts change. The detector's own calibration judges both.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path

import numpy as np

from muflow_cli.bundle import load
from muflow_cli.calibration.judge import Judge
from muflow_cli.calibration.pvalues import Scores, mean_scores
from muflow_cli.detector import Detector
from muflow_cli.engine.devices import place
from muflow_cli.engine.scoring import ScoredUnit, score_stream
from muflow_cli.images.find import find
from muflow_cli.images.loader import LoadSpec
from muflow_cli.images.loader import load as load_images
from muflow_cli.records import Facts, Verdict
from muflow_cli.run_specs import InputSpec, Precision, Runtime


def scored(detector: Detector, inputs: list[str], limit: int, runtime: Runtime) -> tuple[Scores, list[Facts]]:
    """Scores (B, S) and facts of the first readable images; `limit` 0 = all."""
    spec = LoadSpec(views=detector.views, inputs=InputSpec(), workers=runtime.threads, ahead=32)
    images = load_images(itertools.islice(find(inputs, InputSpec()), limit or None), spec)
    units = [u for u in score_stream(images, detector.scorer(place(runtime))) if isinstance(u, ScoredUnit)]
    return np.stack([unit.columns for unit in units]), [unit.unit.facts for unit in units]


def measure(options: argparse.Namespace) -> dict[str, float | int]:
    detector = load(options.detector)
    judge = Judge(detector.calibration)
    scores, flags = {}, {}
    for precision in (Precision.FP32, Precision.BF16):
        runtime = Runtime(device=options.device, precision=precision)
        scores[precision], facts = scored(detector, options.inputs, options.limit, runtime)
        verdicts = [judgement.verdict for judgement in judge.judge(scores[precision], facts)]
        flags[precision] = np.array([verdict is Verdict.FLAGGED for verdict in verdicts])
    deviation = detector.calibration.mean_scores.std()
    gaps = np.abs(mean_scores(scores[Precision.BF16]) - mean_scores(scores[Precision.FP32])) / deviation
    changed = flags[Precision.BF16] != flags[Precision.FP32]
    return {
        "images": len(gaps),
        "median": float(np.median(gaps)),
        "percentile_99": float(np.quantile(gaps, 0.99)),
        "largest": float(gaps.max()),
        "within_0.05": float((gaps <= 0.05).mean()),
        "verdicts_changed": int(changed.sum()),
        "share_changed": float(changed.mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("detector", type=Path)
    parser.add_argument("inputs", nargs="+", help="files, folders, globs or archives")
    parser.add_argument("--limit", type=int, default=0, help="number of inputs; 0 = all")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    figures = measure(options)
    if options.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:18} {value:g}")


if __name__ == "__main__":
    main()
