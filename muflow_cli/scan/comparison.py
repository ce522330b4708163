"""What all images of a run say together: q-values, adaptive p-values, and p-values of groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np

from muflow_cli.calibration.calibration import Calibration
from muflow_cli.calibration.components import Sample
from muflow_cli.engine.devices import Placement
from muflow_cli.errors import FeaturesDiffer, NoFeatures, TooFewForRate
from muflow_cli.images.frames import without_frame
from muflow_cli.images.inputs import Input, InputKind
from muflow_cli.images.remote import is_remote
from muflow_cli.records import Result, Scored, Side
from muflow_cli.run_records import AdaptiveInfo, ImageGroup, ReweightInfo
from muflow_cli.run_specs import Atypical
from muflow_cli.scan.evidence import Evidence
from muflow_cli.scan.fdr import photographs, with_q_values
from muflow_cli.scan.reweighting import check_reweighting, reweighted
from muflow_cli.scan.settings import Comparison


@dataclass(frozen=True, slots=True)
class Compared:
    """Results with their final verdicts, how adaptive and weighted p-values came about, and the groups, by name."""

    results: Sequence[Result]
    adaptive: AdaptiveInfo | None = None
    reweight: ReweightInfo | None = None
    groups: tuple[ImageGroup, ...] = ()


def check_comparison(comparison: Comparison, calibration: Calibration, placement: Placement) -> None:
    """Refuse a calibration that a batch cannot be compared with.

    Raises:
        NoFeatures: where it holds none.
        FeaturesDiffer: where they were computed otherwise than this run computes.
        TooFewForRate: where an adaptive run could never flag an image.
        CannotReweight: for a rule whose flags do not come from p-values, or a detector of faces.
    """
    if comparison.reweight:
        check_reweighting(calibration)
    if not comparison.features:
        return
    features = calibration.features
    if features is None:
        raise NoFeatures
    stored, now = (features.device, features.precision), placement.computed_by
    if stored != now:
        raise FeaturesDiffer(" in ".join(stored), " in ".join(now), features.precision)
    from muflow_cli.calibration.batch import fewest_reals

    fdr = comparison.fdr
    if comparison.adaptive and fdr is not None and len(calibration) < fewest_reals(fdr):
        raise TooFewForRate(fdr, len(calibration), fewest_reals(fdr))


def group_name(item: Input) -> str:
    """The group that a list names for an input, or else the archive, folder or address that it lies in."""
    if item.group:
        return item.group
    if item.kind in (InputKind.ZIP_MEMBER, InputKind.TAR_MEMBER):
        path = item.path if item.frame == 1 else without_frame(item.path)
        return path.removesuffix(f"!{item.member}")
    folder, _, _ = item.path.rpartition("/")
    if is_remote(item.path):
        return folder
    return folder or ("/" if item.path.startswith("/") else ".")


def compare(
    results: Sequence[Result],
    comparison: Comparison,
    calibration: Calibration,
    evidence: Evidence,
    group_of: Mapping[str, str],
    atypical: Atypical = Atypical.REPORT,
) -> Compared:
    """The results of a run by `comparison`.

    Args:
        results: of the whole run.
        comparison: already checked.
        calibration: of the detector.
        evidence: of every scored image.
        group_of: path of a result -> name of its group.
        atypical: what becomes of images outside the calibration's ranges.
    """
    photograph_of = photographs(results, evidence.near)
    if not photograph_of:
        return Compared(results)
    first = {result.facts.key: result for result in results if isinstance(result, Scored)}
    distinct = sorted(set(photograph_of.values()))
    info, weighted = None, None
    if comparison.reweight:
        results, weighted = reweighted(results, photograph_of, calibration)
    if comparison.fdr is not None:
        p_values = {digest: first[digest].judgement.p_value for digest in distinct}
        if comparison.adaptive:
            p_values, info = _adaptive(comparison.fdr, distinct, first, calibration, evidence)
            results = [_with_adaptive(result, photograph_of, p_values) for result in results]
        results = with_q_values(results, comparison.fdr, photograph_of, p_values, atypical)
    if not comparison.groups:
        return Compared(results, info, weighted)
    results = [
        replace(result, group=group_of[result.path]) if isinstance(result, Scored) else result for result in results
    ]
    level = calibration.rule.alpha if comparison.fdr is None else comparison.fdr
    return Compared(results, info, weighted, _groups(results, level, photograph_of, calibration, evidence))


def calibration_sample(calibration: Calibration) -> Sample:
    """The reals of a calibration that `check_comparison` has let pass."""
    assert calibration.features is not None  # noqa: S101 - `check_comparison` has looked
    return Sample([image.sha256 for image in calibration.facts], calibration.features.values)


def _adaptive(
    fdr: float, distinct: Sequence[str], first: Mapping[str, Scored], calibration: Calibration, evidence: Evidence
) -> tuple[dict[str, float], AdaptiveInfo]:
    """The adaptive p-value of every photograph."""
    from muflow_cli.calibration.batch import adaptive_p_values, fewest_flagged  # scikit-learn takes a second to import

    learned = adaptive_p_values(calibration_sample(calibration), evidence.sample(distinct), fdr)
    info = AdaptiveInfo(
        learner=learned.learner,
        training=learned.training,
        nulls=learned.nulls,
        fewest_flagged=fewest_flagged(len(distinct), learned.nulls, fdr),
        atypical=fmean(bool(first[digest].judgement.atypical_input) for digest in distinct),
    )
    return dict(zip(distinct, learned.p_values.tolist(), strict=True)), info


def _with_adaptive(result: Result, photograph_of: Mapping[str, str], p_values: Mapping[str, float]) -> Result:
    if not isinstance(result, Scored):
        return result
    own = p_values[photograph_of[result.facts.key]]
    return replace(result, judgement=replace(result.judgement, adaptive_p_value=own))


def _groups(
    results: Sequence[Result],
    level: float,
    photograph_of: Mapping[str, str],
    calibration: Calibration,
    evidence: Evidence,
) -> tuple[ImageGroup, ...]:
    from scipy.stats import false_discovery_control

    from muflow_cli.calibration.groups import group_p_values

    members: dict[str, dict[str, Scored]] = {}
    for result in results:
        if isinstance(result, Scored):
            members.setdefault(str(result.group), {}).setdefault(photograph_of[result.facts.key], result)
    distinct = sorted(set(photograph_of.values()))
    position = {digest: index for index, digest in enumerate(distinct)}
    p_values = group_p_values(
        calibration_sample(calibration),
        evidence.sample(distinct),
        {name: [position[digest] for digest in own] for name, own in members.items()},
    )
    q_values = dict(zip(p_values, false_discovery_control(list(p_values.values())), strict=True)) if p_values else {}
    groups = []
    for name, own in sorted(members.items()):
        q_value = float(q_values[name]) if name in q_values else None
        # Of the largest faces, whose features were compared.
        score = np.mean([(result.faces or (result,))[0].score for result in own.values()])
        groups.append(
            ImageGroup(
                name=name,
                images=len(own),
                flagged=sum(result.flagged for result in own.values()),
                p_value=p_values.get(name),
                q_value=q_value,
                unlike_calibration=q_value is not None and q_value <= level,
                tail=Side.HIGH if score >= calibration.median_score else Side.LOW,
                atypical=fmean(bool(result.judgement.atypical_input) for result in own.values()),
            )
        )
    return tuple(groups)
