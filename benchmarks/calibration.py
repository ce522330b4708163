"""False-positive rates before and after calibrating on half of an unseen source of reals, for every rule.

Every image is scored once. The reals are split by rank of content hash: the first half calibrates, the second is
scanned. "Before" uses the detector's stored calibration, "after" the first half. Shares have their exact 95 % interval
(Clopper and Pearson 1934), which holds for the scanned half given one threshold; the mean and deviation over seeded
random halves show how much the threshold itself varies. A rule that needs more reals for its alpha is "refused". The
reals of the stored calibration are judged "after" too: if they are flagged as often as fakes, the detector tells
sources apart and not real from synthetic.

Example: python benchmarks/calibration.py faces.safetensors --real DIR --fake DIR1 --fake DIR2 --json rates.json
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np

from muflow_cli.bench.intervals import clopper_pearson
from muflow_cli.bundle import load
from muflow_cli.calibration.calibration import Calibration
from muflow_cli.calibration.judge import Judge
from muflow_cli.calibration.pvalues import Scores
from muflow_cli.calibration.rules import RULES, rule_class
from muflow_cli.detector import Detector
from muflow_cli.engine.devices import Placement, place
from muflow_cli.engine.scoring import ScoredUnit, score_stream
from muflow_cli.environment import utc_now, versions
from muflow_cli.errors import TooFewScores
from muflow_cli.images.find import find
from muflow_cli.images.loader import LoadSpec
from muflow_cli.images.loader import load as load_images
from muflow_cli.records import Facts, Side, Verdict
from muflow_cli.run_specs import InputSpec, Precision, Runtime
from muflow_cli.specs import RuleSpec, Tail

ALPHAS = (0.01, 0.05, 0.1)
STORED = "stored reals"
Images = tuple[Scores, tuple[Facts, ...]]


def scored(detector: Detector, folder: str, placement: Placement, workers: int) -> Images:
    """Scores and facts of the distinct images in a folder that the detector was not fitted on, sorted by hash."""
    inputs = InputSpec()
    spec = LoadSpec(views=detector.views, inputs=inputs, workers=workers, ahead=2 * placement.batch_size)
    fitted_on = {bytes(digest).hex() for digest in detector.fitted_on}
    rows: dict[str, tuple[Facts, Scores]] = {}
    for unit in score_stream(load_images(find([folder], inputs), spec), detector.scorer(placement)):
        if isinstance(unit, ScoredUnit) and unit.unit.facts.sha256 not in fitted_on:
            rows[unit.unit.facts.sha256] = unit.unit.facts, unit.columns
    facts, scores = zip(*(rows[sha256] for sha256 in sorted(rows)), strict=True)
    return np.stack(scores), facts


def measured(calibration: Calibration, rule: RuleSpec, sets: dict[str, Images]) -> dict[str, object]:
    """Per set the share flagged with its interval; or the number of reals that the rule needs."""
    try:
        judge = Judge(replace(calibration, rule=rule))
    except TooFewScores as error:
        return {"refused": str(error)}
    shares: dict[str, object] = {}
    for name, (scores, facts) in sets.items():
        sides = [judged.tail for judged in judge.judge(scores, facts) if judged.verdict is Verdict.FLAGGED]
        interval = clopper_pearson(len(sides), len(facts))
        shares[name] = {
            "flagged": len(sides),
            "low_tail": sides.count(Side.LOW),
            "images": len(facts),
            "share": len(sides) / len(facts),
            "low": interval.low,
            "high": interval.high,
        }
    return shares


def over_splits(scores: Scores, rule: RuleSpec, splits: int) -> dict[str, float] | None:
    """Mean and deviation over random halves of the share flagged in one half by the other's rule."""
    rng, half, shares = np.random.default_rng(0), len(scores) // 2, []
    for _ in range(splits):
        order = rng.permutation(len(scores))
        try:
            fitted = rule_class(rule.method).fit(scores[order[:half]], rule)
        except TooFewScores:
            return None
        shares.append(fitted.judge(scores[order[half:]]).flagged.mean())
    return {"mean": float(np.mean(shares)), "deviation": float(np.std(shares))}


def compared(
    before: Calibration,
    after: Calibration,
    sets: dict[str, Images],
    over: Callable[[RuleSpec], dict[str, float] | None],
) -> list[dict[str, object]]:
    """A row for each tail, method and alpha."""
    rows: list[dict[str, object]] = []
    for tail, method, alpha in product(Tail, RULES, ALPHAS):
        rule = RuleSpec(method=method, alpha=alpha, tail=tail)
        shares = {"before": measured(before, rule, sets), "after": measured(after, rule, sets)}
        rows.append({"method": method, "alpha": alpha, "tail": tail, **shares, "splits": over(rule)})
    return rows


def cell(shares: dict[str, object], name: str, *, interval: bool) -> str:
    share = shares.get(name)
    if not isinstance(share, dict):
        return "refused"
    return f"{share['share']:.3f}" + (f" [{share['low']:.3f}, {share['high']:.3f}]" if interval else "")


def table(rows: list[dict[str, object]], tail: Tail, real: str, fakes: list[str]) -> None:
    heads = [
        "method",
        "alpha",
        f"{real}, before",
        f"{real}, after",
        "after, random halves",
        f"{STORED}, after",
        *(f"{name}, before / after" for name in fakes),
    ]
    print(f"\nTail {tail}: share flagged\n\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for row in rows:
        if row["tail"] != tail:
            continue
        before, after = row["before"], row["after"]
        assert isinstance(before, dict)  # noqa: S101 - for the type checker
        assert isinstance(after, dict)  # noqa: S101 - for the type checker
        cells = [cell(shares, real, interval=True) for shares in (before, after)]
        spread = row["splits"]
        cells.append(f"{spread['mean']:.3f} ± {spread['deviation']:.3f}" if isinstance(spread, dict) else "refused")
        cells.append(cell(after, STORED, interval=False))
        cells += [f"{cell(before, f, interval=False)} / {cell(after, f, interval=False)}" for f in fakes]
        print(f"| {row['method']} | {row['alpha']} | {' | '.join(cells)} |")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("detector", type=Path)
    parser.add_argument("--real", required=True, help="folder of reals from a source the detector was not fitted on")
    parser.add_argument("--fake", action="append", default=[], help="folder of synthetic images (repeatable)")
    parser.add_argument("--splits", type=int, default=100, help="random halves of the reals")
    parser.add_argument("--json", type=Path, help="also write every figure here")
    parser.add_argument("--precision", type=Precision, default=Precision.AUTO)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workers", type=int, default=2)
    return parser.parse_args()


def main() -> None:
    options = arguments()
    runtime = Runtime(device=options.device, precision=options.precision, workers=options.workers)
    detector, placement = load(options.detector), place(runtime)
    started, sets = time.monotonic(), {}
    for folder in (options.real, *options.fake):
        sets[Path(folder).name] = scored(detector, folder, placement, options.workers)
    seconds, count = time.monotonic() - started, sum(len(facts) for _, facts in sets.values())
    real, *fakes = sets
    scores, facts = sets[real]
    half = len(facts) // 2
    own = Calibration(
        scores=scores[:half], columns=detector.columns, facts=facts[:half], rule=RuleSpec(), created=utc_now()
    )
    sets[real] = scores[half:], facts[half:]
    sets[STORED] = detector.calibration.scores, detector.calibration.facts
    rows = compared(detector.calibration, own, sets, over=lambda rule: over_splits(scores, rule, options.splits))
    head = {
        "detector": detector.fingerprint,
        "device": str(placement.device),
        "precision": placement.precision,
        "versions": versions(),
        "load": os.getloadavg(),
        "calibration": {"before": len(detector.calibration), "after": half},
        "images": {name: len(facts) for name, (_, facts) in sets.items()},
        "images_per_second": count / seconds,
    }
    print("\n".join(f"{name}: {value}" for name, value in head.items()))
    for tail in Tail:
        table(rows, tail, real, fakes)
    if options.json:
        options.json.write_text(json.dumps({**head, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
