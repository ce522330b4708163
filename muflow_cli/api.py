"""The workflows as functions: what the command line does, for programs. Re-exported by `muflow_cli`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from muflow_cli.agreement import agreement, computing
from muflow_cli.bundle import load
from muflow_cli.calibrate.workflow import CalibrateRequest, CalibrateSummary
from muflow_cli.calibrate.workflow import calibrate as run_calibrate
from muflow_cli.clip_results import reading_clips
from muflow_cli.default_detector import embedded_detector
from muflow_cli.detector import Detector
from muflow_cli.engine.devices import place
from muflow_cli.environment import begin_run, deciding
from muflow_cli.errors import BadSpec, IncompatibleOptions
from muflow_cli.fit.records import FitRequest, FitSummary
from muflow_cli.fit.workflow import fit as run_fit
from muflow_cli.images.find import find
from muflow_cli.presets import PRESETS
from muflow_cli.progress import ProgressListener
from muflow_cli.records import Result
from muflow_cli.run_specs import Atypical, InputSpec, Runtime
from muflow_cli.scan.comparison import check_comparison, compare
from muflow_cli.scan.evidence import open_evidence
from muflow_cli.scan.resume import resumable
from muflow_cli.scan.settings import Comparison
from muflow_cli.scan.workflow import Scan, ScanRequest
from muflow_cli.settings import override, with_branches, with_faces
from muflow_cli.specs import ContainerSpec, FaceSpec

if TYPE_CHECKING:
    from muflow_cli.bench.workflow import BenchResult

StrPath = str | os.PathLike[str]
StrPaths = StrPath | Iterable[StrPath]

_RUNTIME = Runtime()
_INPUTS = InputSpec()


def fit(
    reals: StrPaths,
    output: StrPath,
    *,
    preset: str = "light",
    settings: Iterable[str] = (),
    branches: Iterable[str] = (),
    weights: Mapping[str, StrPath] | None = None,
    faces: FaceSpec | None = None,
    reports: Iterable[StrPath] = (),
    container: ContainerSpec | None = None,
    runtime: Runtime = _RUNTIME,
    inputs: InputSpec = _INPUTS,
    allow_declared: bool = False,
    resume: bool = False,
    force: bool = False,
    progress: ProgressListener | None = None,
) -> FitSummary:
    """Fit a detector to real faces and write its bundle; no synthetic image is ever read.

    Args:
        reals: files, folders, globs or archives of real face images.
        output: the bundle to write.
        preset: "light" or "paper".
        settings: as `--set` takes them, such as "flow.steps=0".
        branches: as `--branch` takes them, such as "traces=forensic,view.kind=crops"; none = one branch, `main`.
        weights: branch name -> local weights of its encoder; torchvision downloads the others.
        faces: find, align and score each face of an image; None = score the image as a whole.
        reports: files for the history of the training, .csv or .html.
        container: what every image, or the square of every face, goes through before it is looked at.
        runtime: device, precision, workers.
        inputs: which files are read.
        allow_declared: also use images whose files declare themselves synthetic.
        resume: continue a run that was killed.
        force: replace an existing output.
        progress: told of the stages.

    Raises:
        MuflowError: with `.problem` and `.remedy`.
    """
    if preset not in PRESETS:
        raise BadSpec("preset", preset, "one of " + ", ".join(PRESETS))
    spec = replace(override(with_branches(PRESETS[preset], tuple(branches)), settings), container=container)
    request = FitRequest(
        reals=_texts(reals),
        output=Path(output),
        reports=tuple(map(Path, reports)),
        spec=spec if faces is None else with_faces(spec, faces),
        weights={name: Path(path) for name, path in (weights or {}).items()},
        inputs=inputs,
        runtime=runtime,
        allow_declared=allow_declared,
        resume=resume,
        force=force,
    )
    return run_fit(request, progress)


def calibrate(
    detector: StrPath,
    reals: StrPaths = (),
    *,
    output: StrPath | None = None,
    adapt: StrPaths = (),
    append: bool = False,
    runtime: Runtime = _RUNTIME,
    inputs: InputSpec = _INPUTS,
    allow_declared: bool = False,
    force: bool = False,
    progress: ProgressListener | None = None,
    **rule: Any,
) -> CalibrateSummary:
    """Give a detector other calibration reals, another rule, or both, and write its bundle.

    Args:
        detector: the bundle.
        reals: real face images that the detector was not fitted on, or videos where `inputs.clips` says which frames of
            them are looked at; none = the stored scores.
        output: the bundle to write; None = `detector` itself, which needs `force`.
        adapt: at least 50 real face images of one source, on which the projections are re-centred and re-whitened;
            without `reals`, some of them calibrate instead.
        append: add to the stored scores instead of replacing them.
        runtime: device, precision, workers.
        inputs: which files are read.
        allow_declared: also use images whose files declare themselves synthetic.
        force: replace an existing output.
        progress: told of the stages.
        **rule: fields of RuleSpec (method, alpha, tail, band, by) to change.

    Raises:
        MuflowError: with `.problem` and `.remedy`; nothing is written then.
    """
    request = CalibrateRequest(
        detector=Path(detector),
        reals=_texts(reals),
        output=None if output is None else Path(output),
        rule=rule,
        adapt=_texts(adapt),
        append=append,
        inputs=inputs,
        runtime=runtime,
        allow_declared=allow_declared,
        force=force,
    )
    return run_calibrate(request, progress)


def scan(
    paths: StrPaths,
    detector: Detector | StrPath | None = None,
    *,
    fdr: float | None = None,
    adaptive: bool = False,
    reweight: bool = False,
    atypical: Atypical | str = Atypical.INCONCLUSIVE,
    per_frame: bool = False,
    resume: StrPath | None = None,
    strict: bool = False,
    runtime: Runtime = _RUNTIME,
    inputs: InputSpec = _INPUTS,
) -> Iterator[Result]:
    """One result per input, in the order of the inputs, as soon as it is known.

    Args:
        paths: images, folders, globs, archives or addresses.
        detector: or its bundle; None = the built-in demo detector.
        fdr: flag by q-values at this false discovery rate instead of the rule's alpha; results then come at the end.
        adaptive: with `fdr`, flag by p-values of a score that is learned between calibration reals and these images.
        reweight: flag by p-values that count a calibration image the more, the more it is like these as a file.
        atypical: verdict on images outside the ranges of the calibration images, "flag", "inconclusive" or "report".
        per_frame: judge each frame of a video as an image, where the detector is calibrated on images.
        resume: a JSON-lines report of the same detector; what it holds is not scored again. It is only read.
        strict: refuse to compute other scores than the calibration holds (docs/export.md); else nothing is compared.
        runtime: device, precision, batch size, workers, backend.
        inputs: which files are read.

    Raises:
        MuflowError: with `.problem` and `.remedy`.
    """
    if atypical not in set(Atypical):
        raise BadSpec("atypical", atypical, "one of " + ", ".join(Atypical))
    comparison = Comparison(fdr=fdr, adaptive=adaptive, reweight=reweight)
    if not isinstance(detector, Detector):
        detector = load(embedded_detector() if detector is None else Path(detector))
    inputs = reading_clips(inputs, detector.calibration)
    request = ScanRequest(
        detector=detector, runtime=runtime, inputs=inputs, atypical=Atypical(atypical), per_frame=per_frame
    )
    placement = place(runtime)
    check_comparison(comparison, detector.calibration, placement)
    if strict:
        agreement(detector, placement, always=True).require()
    if comparison.any:
        if resume is not None:
            raise IncompatibleOptions(
                "resume", "reweight" if reweight else "fdr", "a comparison of all images needs each of them"
            )
        return _compared(request, _texts(paths), comparison)
    earlier = {}
    if resume is not None:
        options = deciding(inputs) | {"atypical": request.atypical.value, "per_frame": per_frame} | comparison.options
        options |= computing(placement)
        run = begin_run(str(placement.device), placement.precision, options=options)
        earlier = resumable(Path(resume), run, detector.info(""))
    return Scan(request, earlier=earlier).results(find(_texts(paths), inputs))


def _compared(request: ScanRequest, paths: tuple[str, ...], comparison: Comparison) -> Iterator[Result]:
    count = request.detector.feature_count if comparison.features else 0
    with open_evidence(None, b"", count, resumed=False) as evidence:
        results = list(Scan(request, evidence=evidence).results(find(paths, request.inputs)))
        calibration = request.detector.calibration
        yield from compare(results, comparison, calibration, evidence, {}, request.atypical).results


def bench(
    detector: StrPath,
    *,
    real: Iterable[str] = (),
    fake: Iterable[str] = (),
    data: Iterable[str] = (),
    overlap: str = "refuse",
    container: ContainerSpec | None = None,
    gates: Iterable[str] = (),
    limit: int = 0,
    resamples: int = 1000,
    seed: int = 0,
    adaptive: bool = False,
    groups: bool = False,
    protocols: Iterable[str] = (),
    folds: int = 5,
    fit_on: Iterable[str] = (),
    runtime: Runtime = _RUNTIME,
    inputs: InputSpec = _INPUTS,
    progress: ProgressListener | None = None,
) -> BenchResult:
    """Measure a detector on labelled images; the headline of the report is the worst real source.

    Args:
        detector: the bundle.
        real: folders of real images, each `DIR` or `NAME=DIR`.
        fake: folders of synthetic images, likewise.
        data: labelled trees or CSV manifests, likewise.
        overlap: what happens to images that the detector knows, "refuse", "drop" or "allow".
        container: every image is stored in it before anything looks at it; None = measured as found.
        gates: conditions such as "macro_auc>=0.8"; `failed_gates` of the result counts those that do not hold.
        limit: most images per label and group; 0 = all.
        resamples: of the bootstrap.
        seed: of the bootstrap, the limit and the folds.
        adaptive: also measure adaptive p-values in batches.
        groups: also measure how often groups are unlike the calibration.
        protocols: fit the detector's settings again in place of measuring the detector, by "seen", "pooled", "unseen"
            or several of them.
        folds: of the protocols.
        fit_on: folders of further reals that the fits of the protocols may use, each `DIR` or `NAME=DIR`.
        runtime: device, precision, batch size, workers.
        inputs: which files are read.
        progress: told of the stages.

    Raises:
        MuflowError: with `.problem` and `.remedy`.
    """
    # SciPy and scikit-learn take seconds to load, and only this function needs them.
    from muflow_cli.bench.data import OverlapPolicy
    from muflow_cli.bench.datasets import data_arguments
    from muflow_cli.bench.folds import parse_protocols
    from muflow_cli.bench.gates import parse_gate
    from muflow_cli.bench.intervals import BootstrapSpec
    from muflow_cli.bench.workflow import BenchRequest
    from muflow_cli.bench.workflow import bench as run_bench

    if overlap not in set(OverlapPolicy):
        raise BadSpec("overlap", overlap, "one of " + ", ".join(OverlapPolicy))
    request = BenchRequest(
        detector=Path(detector),
        data=data_arguments(real, fake, data),
        inputs=inputs,
        runtime=runtime,
        overlap=OverlapPolicy(overlap),
        container=container,
        limit=limit,
        bootstrap=BootstrapSpec(resamples=resamples, seed=seed),
        adaptive=adaptive,
        groups=groups,
        protocols=parse_protocols(protocols),
        folds=folds,
        fit_on=data_arguments(fit_on, (), ()),
        gates=tuple(parse_gate(text) for text in gates),
    )
    return run_bench(request, progress)


def _texts(paths: StrPaths) -> tuple[str, ...]:
    """Paths as find takes them: one alone, or several."""
    return (os.fspath(paths),) if isinstance(paths, str | os.PathLike) else tuple(os.fspath(path) for path in paths)
