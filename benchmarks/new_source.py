"""A new source of reals: rates before and after calibrating, adapting (`calibrate --adapt`) and reweighting.

    python benchmarks/new_source.py DETECTOR --real DIR --real DIR --fake DIR --fake DIR

Every image is scored once, near copies count once, and images that the detector knows are left out. Of each folder of
reals, random splits give images to adapt to, to calibrate on and to test, and every way is tested on the same images:

    as is         the detector as it is
    calibrated    on the images that adapt below and those that calibrate below, so on as many as `adapted` has in all
    adapted only  to the first part, with the stored calibration of the detector, which the command does not offer
    adapted       to the first part, and calibrated on the second

A cell is the mean share of flagged images over the splits, and its deviation. A second table judges batches of reals
and fakes by weighted p-values (`scan --reweight`) with the detector's own calibration.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from muflow_cli.bench.data import known_to
from muflow_cli.bench.intervals import clopper_pearson
from muflow_cli.bundle import load
from muflow_cli.calibration.judge import Judge
from muflow_cli.calibration.pvalues import Scores
from muflow_cli.calibration.rules import rule_class
from muflow_cli.calibration.weights import likelihood_ratios
from muflow_cli.detector import Detector
from muflow_cli.engine.adaptation import adapted
from muflow_cli.engine.branch import Branch
from muflow_cli.engine.devices import place
from muflow_cli.engine.encoding import PlacedEncoder
from muflow_cli.engine.projection import RunningMoments
from muflow_cli.images.find import find
from muflow_cli.images.loader import Loaded
from muflow_cli.images.loader import load as load_images
from muflow_cli.images.near import distinct, near_duplicate_groups, near_hash
from muflow_cli.records import Facts, Verdict
from muflow_cli.run_specs import InputSpec, Runtime
from muflow_cli.specs import RuleSpec

WAYS = ("as is", "calibrated", "adapted only", "adapted")
BATCH = 100
SHARES = (0.0, 0.2, 0.5)


@dataclass(frozen=True)
class Source:
    """Distinct images of a folder: facts, per branch and layer the pooled maps (V, C, g, g) of each image, and the
    detector's scores (n, S)."""

    facts: Sequence[Facts]
    pooled: Sequence[dict[str, list[torch.Tensor]]]
    columns: Scores = field(default_factory=lambda: np.empty(0))

    def __len__(self) -> int:
        return len(self.facts)


def read(folder: Path, detector: Detector, encoders: dict[str, PlacedEncoder]) -> Source:
    """The images of a folder that the detector does not know, one of each photograph."""
    runtime, known = Runtime(), known_to(detector)
    spec = detector.load_spec(InputSpec(), runtime, place(runtime))
    facts, hashes, pooled = [], [], []
    for item in load_images(find([str(folder)], InputSpec()), spec):
        if isinstance(item, Loaded) and not known.how(item.facts.sha256):
            facts.append(item.facts)
            hashes.append(near_hash(item.views))
            views = {name: torch.tensor(own).permute(0, 3, 1, 2) for name, own in item.views.items()}
            pooled.append({name: encoders[name].submit(own).result() for name, own in views.items()})
    rows = distinct([image.sha256 for image in facts], near_duplicate_groups(hashes))
    source = Source([facts[row] for row in rows], [pooled[row] for row in rows])
    return replace(source, columns=columns(source, detector.branches))


@torch.inference_mode()
def columns(source: Source, branches: Mapping[str, Branch]) -> Scores:
    """(n, S) scores of the images."""
    result = []
    for name, branch in branches.items():
        for layer, head in enumerate(branch.layer_heads()):
            maps = [image[name][layer] for image in source.pooled]
            by_view = head(torch.cat(maps)).mean(dim=(1, 2)).double()
            result.append(torch.stack([own.mean() for own in by_view.split([len(map_) for map_ in maps])]).numpy())
    return np.stack(result, axis=1)


def adapted_to(source: Source, rows: Sequence[int], branches: Mapping[str, Branch]) -> dict[str, Branch]:
    """The branches adapted to some of the images."""
    changed = {}
    for name, branch in branches.items():
        own = []
        for layer, head in enumerate(branch.layer_heads()):
            running = RunningMoments()
            for row in rows:
                running.add(head.projection.with_adaptation(None)(source.pooled[row][name][layer]))
            own.append(running.moments())
        changed[name] = adapted(branch, own, len(rows))
    return changed


def flagging(reals: Scores, rule: RuleSpec) -> Callable[[Scores], float]:
    """Share of images that the rule on these reals flags."""
    fitted = rule_class(rule.method).fit(reals, rule)
    return lambda scores: float(fitted.judge(scores).flagged.mean())


def split_shares(
    detector: Detector, rule: RuleSpec, source: Source, fakes: dict[str, Source], order: np.ndarray, adapting: int
) -> dict[str, list[float]]:
    """For each way the share of flagged images among tested reals and each kind of fakes, of one split."""
    needed = rule_class(rule.method).minimum_images(rule)
    calibrating = max(needed, (len(order) - adapting) // 2)
    first, second, tested = np.split(order, [adapting, adapting + calibrating])
    branches = adapted_to(source, first, detector.branches)
    moved = [columns(images, branches) for images in (source, *fakes.values())]
    fitted = [images.columns for images in (source, *fakes.values())]
    stored = detector.calibration.scores
    ways = {
        "as is": (stored, fitted),
        "calibrated": (source.columns[np.concatenate([first, second])], fitted),
        "adapted only": (stored, moved),
        "adapted": (moved[0][second], moved),
    }
    return {
        way: [flagging(reals, rule)(scores) for scores in (own[tested], *others)]
        for way, (reals, (own, *others)) in ways.items()
    }


def batch_row(
    detector: Detector, rule: RuleSpec, source: Source, fake: Source, share: float, draws: int
) -> list[np.ndarray]:
    """Reals and fakes flagged one by one, the same by weighted p-values, both undecided, effective count; per draw."""
    judge = Judge(replace(detector.calibration, rule=rule))
    rows = []
    for seed in range(draws):
        generator = np.random.default_rng(seed)
        fakes = round(BATCH * share)
        reals = min(len(source), BATCH - fakes)
        parts = [(source, generator.permutation(len(source))[:reals]), (fake, generator.permutation(len(fake))[:fakes])]
        facts = [images.facts[row] for images, drawn in parts for row in drawn]
        scores = np.concatenate([images.columns[drawn] for images, drawn in parts])
        weights = likelihood_ratios(detector.calibration.facts, facts)
        judged = judge.weighted(scores, facts, weights)
        plain = np.array([one.verdict is Verdict.FLAGGED for one in judge.judge(scores, facts)])
        flagged, undecided = judged.p_value <= rule.alpha, judged.least > rule.alpha
        both = [own[part] for own in (plain, flagged, undecided) for part in (slice(reals), slice(reals, None))]
        rows.append([*(own.mean() if len(own) else np.nan for own in both), judged.effective])
    return list(np.array(rows).T)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("detector", type=Path)
    parser.add_argument("--real", type=Path, action="append", required=True, help="folder of reals of one source")
    parser.add_argument("--fake", type=Path, action="append", default=[], help="folder of synthetic images")
    parser.add_argument("--alpha", type=float, default=0.05)
    parser.add_argument("--adapting", type=int, default=50, help="images that adapt")
    parser.add_argument("--splits", type=int, default=10)
    return parser.parse_args()


def main() -> None:
    options = arguments()
    detector = load(options.detector)
    rule = replace(detector.calibration.rule, alpha=options.alpha)
    encoders = {name: PlacedEncoder(branch.encoder, place()) for name, branch in detector.branches.items()}
    fakes = {folder.name: read(folder, detector, encoders) for folder in options.fake}
    print(f"{rule.method}, alpha {rule.alpha:g}, tail {rule.tail}; {options.adapting} images adapt")
    print("fakes:", ", ".join(f"{name} {len(images)}" for name, images in fakes.items()))
    heads = ["reals", "n", "way", "reals flagged", *fakes]
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    sources = {folder.name: read(folder, detector, encoders) for folder in options.real}
    for folder, source in zip(options.real, sources.values(), strict=True):
        judged = rule_class(rule.method).fit(detector.calibration.scores, rule).judge(source.columns)
        interval = clopper_pearson(int(judged.flagged.sum()), len(source))
        whole = f"{judged.flagged.mean():.3f} [{interval.low:.3f}, {interval.high:.3f}]"
        print(f"| {folder.name} | {len(source)} | as is, all images | {whole} |{' |' * len(fakes)}", flush=True)
        drawn = [np.random.default_rng(seed).permutation(len(source)) for seed in range(options.splits)]
        splits = [split_shares(detector, rule, source, fakes, order, options.adapting) for order in drawn]
        for way in WAYS:
            shares = np.array([split[way] for split in splits])
            cells = [
                f"{mean:.3f} ± {off:.3f}" for mean, off in zip(shares.mean(axis=0), shares.std(axis=0), strict=True)
            ]
            print(f"| {folder.name} | {len(source)} | {way} | {' | '.join(cells)} |", flush=True)
    print(f"\nBatches of {BATCH}, weighted p-values against {len(detector.calibration)} calibration images")
    heads = [
        "reals",
        "fakes",
        "share",
        "reals flagged",
        "fakes flagged",
        "the same, weighted",
        "undecided",
        "effective",
    ]
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for name, source in sources.items():
        for share in SHARES:
            for kind, fake in list(fakes.items())[: None if share else 1]:
                means = [float(own.mean()) for own in batch_row(detector, rule, source, fake, share, options.splits)]
                real, false, weighted, weighted_false, undecided, undecided_false, effective = means
                cells = f"{weighted:.2f} / {weighted_false:.2f} | {undecided:.2f} / {undecided_false:.2f}"
                label = kind if share else "none"
                print(
                    f"| {name} | {label} | {share:.0%} | {real:.2f} | {false:.2f} | {cells} | {effective:.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
