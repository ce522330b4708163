"""False-positive rates before and after calibrating on half of an unseen source of reals, for every rule.

Every picture is scored once. The reals are parted by rank of content hash: the first half calibrates, the second is
scanned. "Before" judges by the detector's stored calibration, "after" by the first half. Shares stand beside their
exact 95 % interval (Clopper and Pearson 1934), which holds for the scanned half given one threshold; how much the
threshold itself varies is told by the mean and deviation over seeded random halves. A rule whose alpha the reals
cannot carry is refused. The reals of the stored calibration are judged "after" too: where they are flagged as fakes
are, it is their source that the detector tells apart, and not that they are synthetic.

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

from muflow_cli.bundle import load
from muflow_cli.calibrate import Intake, score_pictures
from muflow_cli.calibration import Calibration, Judge
from muflow_cli.detector import Detector
from muflow_cli.engine.scoring import Placement, place
from muflow_cli.environment import utc_now, versions
from muflow_cli.errors import TooFewScores
from muflow_cli.intervals import clopper_pearson
from muflow_cli.pictures.find import find
from muflow_cli.pictures.pool import LoadSpec
from muflow_cli.pictures.pool import load as load_pictures
from muflow_cli.records import Facts
from muflow_cli.rules import RULES, Scores
from muflow_cli.specs import InputSpec, Method, Precision, RuleSpec, Tail

ALPHAS = (0.01, 0.05, 0.1)
STORED = "stored reals"
Pictures = tuple[Scores, tuple[Facts, ...]]


def scored(detector: Detector, folder: str, placement: Placement, workers: int) -> Pictures:
    """Scores and facts of the distinct pictures in a folder that the detector was not fitted on, sorted by hash."""
    inputs = InputSpec()
    spec = LoadSpec(view=detector.spec.view, inputs=inputs, workers=workers, ahead=2 * placement.batch_size)
    usable = Intake(detector, append=False).usable(load_pictures(find([folder], inputs), spec))
    pairs = sorted(score_pictures(detector.scorer(placement), usable), key=lambda pair: pair[0].sha256)
    return np.stack([row for _, row in pairs]), tuple(facts for facts, _ in pairs)


def measured(calibration: Calibration, rule: RuleSpec, sets: dict[str, Pictures]) -> dict[str, object]:
    """Per set the share flagged with its interval; or the number of reals that the rule needs."""
    try:
        judge = Judge(replace(calibration, rule=rule))
    except TooFewScores as error:
        return {"refused": str(error)}
    shares: dict[str, object] = {}
    for name, (scores, facts) in sets.items():
        verdicts = judge.judge(scores, facts)
        flagged = sum(verdict.flagged for verdict in verdicts)
        interval = clopper_pearson(flagged, len(verdicts))
        low_tail = sum(verdict.flagged and verdict.tail == "low" for verdict in verdicts)
        shares[name] = {
            "flagged": flagged,
            "low_tail": low_tail,
            "pictures": len(verdicts),
            "share": flagged / len(verdicts),
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
            fitted = RULES[rule.method](scores[order[:half]], rule)
        except TooFewScores:
            return None
        shares.append(fitted.judge(scores[order[half:]]).flagged.mean())
    return {"mean": float(np.mean(shares)), "deviation": float(np.std(shares))}


def compared(
    before: Calibration,
    after: Calibration,
    sets: dict[str, Pictures],
    over: Callable[[RuleSpec], dict[str, float] | None],
) -> list[dict[str, object]]:
    """A row for each tail, method and alpha."""
    rows: list[dict[str, object]] = []
    for tail, method, alpha in product(Tail, Method, ALPHAS):
        rule = RuleSpec(method=method, alpha=alpha, tail=tail)
        shares = {"before": measured(before, rule, sets), "after": measured(after, rule, sets)}
        rows.append({"method": method, "alpha": alpha, "tail": tail, **shares, "splits": over(rule)})
    return rows


def cell(shares: dict[str, object], name: str, *, interval: bool) -> str:
    one = shares.get(name)
    if not isinstance(one, dict):
        return "refused"
    return f"{one['share']:.3f}" + (f" [{one['low']:.3f}, {one['high']:.3f}]" if interval else "")


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
        cells = [cell(one, real, interval=True) for one in (before, after)]
        spread = row["splits"]
        cells.append(f"{spread['mean']:.3f} ± {spread['deviation']:.3f}" if isinstance(spread, dict) else "refused")
        cells.append(cell(after, STORED, interval=False))
        cells += [f"{cell(before, f, interval=False)} / {cell(after, f, interval=False)}" for f in fakes]
        print(f"| {row['method']} | {row['alpha']} | {' | '.join(cells)} |")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("detector", type=Path)
    parser.add_argument("--real", required=True, help="folder of reals from a source the detector was not fitted on")
    parser.add_argument("--fake", action="append", default=[], help="folder of synthetic pictures (repeatable)")
    parser.add_argument("--splits", type=int, default=100, help="random halves of the reals")
    parser.add_argument("--json", type=Path, help="also write every figure here")
    parser.add_argument("--precision", type=Precision, default=Precision.AUTO)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workers", type=int, default=2)
    return parser.parse_args()


def main() -> None:
    asked = arguments()
    detector, placement = load(asked.detector), place(asked.device, asked.precision)
    if detector.calibration is None:
        raise SystemExit("the detector has no stored calibration to compare with")
    started, sets = time.monotonic(), {}
    for folder in (asked.real, *asked.fake):
        sets[Path(folder).name] = scored(detector, folder, placement, asked.workers)
    seconds, count = time.monotonic() - started, sum(len(facts) for _, facts in sets.values())
    real, *fakes = sets
    scores, facts = sets[real]
    half = len(facts) // 2
    own = Calibration(scores=scores[:half], facts=facts[:half], rule=RuleSpec(), created=utc_now())
    sets[real] = scores[half:], facts[half:]
    sets[STORED] = detector.calibration.scores, detector.calibration.facts
    rows = compared(detector.calibration, own, sets, over=lambda rule: over_splits(scores, rule, asked.splits))
    head = {
        "detector": detector.fingerprint,
        "device": str(placement.device),
        "precision": placement.precision,
        "versions": versions(),
        "load": os.getloadavg(),
        "calibration": {"before": len(detector.calibration), "after": half},
        "pictures": {name: len(facts) for name, (_, facts) in sets.items()},
        "images_per_second": count / seconds,
    }
    print("\n".join(f"{name}: {value}" for name, value in head.items()))
    for tail in Tail:
        table(rows, tail, real, fakes)
    if asked.json:
        asked.json.write_text(json.dumps({**head, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
