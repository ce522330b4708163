"""The workflow of `bench --protocol`: read and encode once -> fit again by protocol -> score -> figures per source.

Fakes are only scored. Each is scored by one fit of every protocol and source, and so is each real, by a fit that used
neither it nor a near copy of it. The scores of different fits are comparable because each is measured from the median
of its own calibration, in that calibration's median absolute deviations.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from muflow_cli.bench.data import Selection
from muflow_cli.bench.datasets import Dataset, Sample
from muflow_cli.bench.detects import make_claims
from muflow_cli.bench.document import headline_of
from muflow_cli.bench.evaluate import Against, EvaluateSpec, evaluate
from muflow_cli.bench.folds import Protocol, Task, tasks_of, turns
from muflow_cli.bench.manifest import Label
from muflow_cli.bench.nulls import NullAgainst, null_baselines
from muflow_cli.bench.protocol_images import ProtocolImages, read_images, unscored
from muflow_cli.bench.records import ProtocolFigures, ProtocolFit, Protocols, ProtocolSource
from muflow_cli.bench.refit import Encoded, Refitted, Template, refit
from muflow_cli.bench.scores import Row
from muflow_cli.bench.scoring import Scoring
from muflow_cli.calibration.calibration import source_digest
from muflow_cli.errors import BadCalibration, IncompatibleOptions, NotFinite, NothingToDo, TooFewImages, TooFewScores
from muflow_cli.files import temporary_folder
from muflow_cli.fit.sources import rounds_of
from muflow_cli.fit.split import Split, deal
from muflow_cli.progress import ProgressListener
from muflow_cli.records import Unreadable, Verdict
from muflow_cli.specs import ContainerSpec, TargetKind
from muflow_cli.specs import Selection as Choice

# Errors that leave a source without figures and do not end the run.
_IMPOSSIBLE: Final = (TooFewImages, TooFewScores, BadCalibration, NotFinite)


Nulls = Mapping[str, Mapping[str, NullAgainst]]


@dataclass(frozen=True, kw_only=True, slots=True)
class ProtocolsSpec:
    """What is fitted to what.

    Attributes:
        protocols: each at most once.
        folds: at least 2.
        fit_on: further reals, which are never measured.
        evaluate: how scores become figures; its centre is 0, the median of every calibration.
    """

    protocols: tuple[Protocol, ...]
    folds: int
    fit_on: Dataset
    evaluate: EvaluateSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """What `measure_protocols` gives back.

    Attributes:
        protocols: for the report.
        rows: of the images that are measured, without scores.
        selection: of these images.
        failed: images that could not be decoded.
        nulls: baseline -> real source -> figures, the same for every protocol.
        fitted: for each fit, the content hashes of the images that it used.
        scored: for each fit, those of the images that it scored.
    """

    protocols: Protocols
    rows: Sequence[Row]
    selection: Selection
    failed: Sequence[Unreadable]
    nulls: Nulls
    fitted: Sequence[frozenset[str]]
    scored: Sequence[frozenset[str]]


def measure_protocols(
    spec: ProtocolsSpec, selection: Selection, scoring: Scoring, progress: ProgressListener
) -> Measurement:
    """Fit the settings of a detector again, as the protocols say, and measure every fit on what it did not use.

    Args:
        spec: protocols, folds, further reals.
        selection: the images to measure, each content once.
        scoring: the detector, of which no fitted part is used, and how images are read for it.
        progress: told of the stages; the number of fits is a note.

    Raises:
        BadData: where an image of `fit_on` is a fake of the selection.
        IncompatibleOptions: where no protocol can use `fit_on`.
    """
    measured = {image.sample.source for image in selection.images if image.sample.label is Label.REAL}
    unused = {sample.source for sample in spec.fit_on.samples} - measured
    if unused and set(spec.protocols) == {Protocol.SEEN}:
        why = "protocol seen fits to the measured source alone"
        raise IncompatibleOptions("--fit-on", "--protocol pooled or unseen", why, needs=True)
    with temporary_folder("muflow-protocols-") as folder:
        template = Template(scoring.detector, scoring.placement)
        images = read_images(selection, spec.fit_on, scoring, template, folder, progress)
        plan = {
            protocol: tasks_of(protocol, images.pool, turns(images.fakes, images.generators), spec.folds)
            for protocol in spec.protocols
        }
        run = _Run(images, template, folder)
        run.make(plan, progress)
    progress.stage("null baselines", None)
    container = scoring.stored_as
    nulls = null_baselines(images.rows, spec.evaluate.bootstrap.seed, marks=container is None)
    figures = (run.figures(protocol, tasks, spec.evaluate, nulls, container) for protocol, tasks in plan.items())
    return Measurement(
        protocols=Protocols(
            folds=spec.folds,
            fit_only=images.fit_only(),
            left_out=images.left_out(),
            fits=tuple(run.fits),
            figures=tuple(figures),
        ),
        rows=images.rows,
        selection=images.selection,
        failed=images.failed,
        nulls=nulls,
        fitted=run.fitted,
        scored=run.scored,
    )


class _Run:
    """The fits of all protocols, each made once, and the rows that it scored.

    Attributes:
        fits: for the report.
        fitted: for each fit, the content hashes of the images that it used.
        scored: for each fit, those of the images that it scored.
    """

    def __init__(self, images: ProtocolImages, template: Template, folder: Path) -> None:
        self.images, self.template, self.folder = images, template, folder
        self.fits: list[ProtocolFit] = []
        self.fitted: list[frozenset[str]] = []
        self.scored: list[frozenset[str]] = []
        self._rows: list[Mapping[str, Row]] = []
        # What a fit may use -> its position, or why it is not possible.
        self._at: dict[tuple[int, ...], int | str] = {}

    def make(self, plan: Mapping[Protocol, Sequence[Task]], progress: ProgressListener) -> None:
        """Fit and score everything of the plan."""
        tasks: dict[tuple[int, ...], list[Task]] = {}
        for own in plan.values():
            for task in own:
                tasks.setdefault(task.fit_to, []).append(task)
        dealt: dict[tuple[int, ...], Split] = {}
        for fit_to in tasks:
            try:
                dealt[fit_to] = self._dealt(fit_to)
            except _IMPOSSIBLE as error:
                self._at[fit_to] = error.problem
        if not dealt:
            reasons = [reason for reason in self._at.values() if isinstance(reason, str)]
            why = reasons[0] if reasons else "there is no other source to fit to"
            raise NothingToDo(f"no fit is possible ({why})", "give more real images, or other sources with --fit-on")
        progress.note(self._announcement(plan, dealt))
        self.images = self.images.encode(self.template, progress)
        progress.stage("fit and score", len(dealt))
        for fit_to, parts in dealt.items():
            try:
                self._make(parts, tasks[fit_to])
                self._at[fit_to] = len(self.fits) - 1
            except _IMPOSSIBLE as error:
                self._at[fit_to] = error.problem
            progress.advance()

    def _dealt(self, fit_to: tuple[int, ...]) -> Split:
        """The split of the images that a fit may use, as positions in the pool."""
        pool = self.images.pool
        digests = [pool.digests[index] for index in fit_to]
        parts = deal(digests, pool.groups[list(fit_to)], self.template.detector.spec)
        return Split(
            *(
                tuple(fit_to[position] for position in part)
                for part in (parts.train, parts.validation, parts.calibration)
            )
        )

    def _announcement(self, plan: Mapping[Protocol, Sequence[Task]], dealt: Mapping[tuple[int, ...], Split]) -> str:
        """How much there is to do, as a sentence."""
        counts = ", ".join(
            f"{protocol} {len({task.fit_to for task in tasks} & dealt.keys())}" for protocol, tasks in plan.items()
        )
        targets = [branch.target for branch in self.template.detector.spec.branches]
        averages = sum(
            target.n_averages for target in targets if target.kind is TargetKind.MU and target.images_per_average > 1
        )
        encoded = f", and {averages:,} averages are encoded for each" if averages else ""
        fewest, most = min(map(len, dealt)), max(map(len, dealt))
        rounds = sum(map(self._rounds, dealt.values())) * len(targets)
        chosen = f", and {rounds:,} rounds without a source choose their training" if rounds else ""
        return f"{len(dealt)} fits ({counts}) to {fewest:,} to {most:,} real images{encoded}{chosen}"

    def _rounds(self, parts: Split) -> int:
        """How often the flow of a branch is also trained without a source, to choose how it is trained with all."""
        pool, train = self.images.pool, self.template.detector.spec.train
        if train.selection is not Choice.SOURCES:
            return 0
        rounds = rounds_of(pool.sources, pool.groups, pool.digests, [*parts.train, *parts.validation], train)
        return len(rounds) if len(rounds) > 1 else 0

    def _make(self, parts: Split, tasks: Sequence[Task]) -> None:
        """Fit, and score what the tasks say."""
        pool, at = self.images.pool, self.images.reals.at
        stored = (
            tuple(at[pool.digests[index]] for index in part)
            for part in (parts.train, parts.validation, parts.calibration)
        )
        fitted = refit(
            self.template,
            self.images.reals,
            self.images.scanned,
            Split(*stored),
            self.folder / f"fit-{len(self.fits)}",
        )
        rows = self._scored(fitted, tasks)
        used = [*parts.train, *parts.validation, *parts.calibration]
        digests = [pool.digests[index] for index in used]
        self.fits.append(
            ProtocolFit(
                images=dict(sorted(Counter(pool.sources[index] for index in used).items())),
                train=len(parts.train),
                validation=len(parts.validation),
                calibration=len(parts.calibration),
                digest=source_digest(digests),
                epochs=fitted.epochs,
            )
        )
        self.fitted.append(frozenset(digests))
        self.scored.append(frozenset(rows))
        self._rows.append(rows)

    def _scored(self, fitted: Refitted, tasks: Sequence[Task]) -> dict[str, Row]:
        """Content hash -> row of every image that a fit scores."""
        images = self.images
        reals = sorted({images.pool.digests[index] for task in tasks for index in task.reals})
        fakes = sorted({images.fakes[index] for task in tasks for index in task.fakes})
        return {
            **_judged(fitted, images.scanned, reals, images.samples),
            **_judged(fitted, images.stored_fakes, fakes, images.samples),
        }

    def figures(
        self,
        protocol: Protocol,
        tasks: Sequence[Task],
        spec: EvaluateSpec,
        nulls: Nulls,
        container: ContainerSpec | None,
    ) -> ProtocolFigures:
        """The figures of every real source under a protocol."""
        sources = {
            name: self._source(name, [task for task in tasks if task.source in (None, name)], spec)
            for name in self.images.sources
        }
        measured: dict[str, Against] = {
            name: source.figures for name, source in sources.items() if source.figures is not None
        }
        return ProtocolFigures(
            protocol=protocol,
            headline=headline_of(measured) if measured else None,
            claims=make_claims(measured, nulls, container) if measured else (),
            sources=sources,
        )

    def _source(self, name: str, tasks: Sequence[Task], spec: EvaluateSpec) -> ProtocolSource:
        images, pool = self.images, self.images.pool
        reals = sum(pool.sources[index] == name for task in tasks for index in task.reals)
        rows, positions = [], []
        for task in tasks:
            at = self._at[task.fit_to]
            if isinstance(at, str):
                return ProtocolSource(reals=reals, fits=(), figures=None, note=at)
            own = [pool.digests[index] for index in task.reals if pool.sources[index] == name]
            rows += [self._rows[at][sha256] for sha256 in (*own, *(images.fakes[index] for index in task.fakes))]
            positions.append(at)
        rows.sort(key=lambda row: (row.fake, row.group, row.sha256 or ""))
        figures = evaluate(rows, spec).sources[name]
        return ProtocolSource(reals=reals, fits=tuple(positions), figures=figures, note=None)


def _judged(
    fitted: Refitted, encoded: Encoded, digests: Sequence[str], samples: Mapping[str, Sample]
) -> dict[str, Row]:
    """Content hash -> row, whose score and suspicion are comparable between fits."""
    if not digests:
        return {}
    columns = fitted.columns(encoded, digests)
    judgements = fitted.judge.judge(columns, [encoded.facts(sha256) for sha256 in digests])
    rows = zip(unscored(digests, samples, encoded), fitted.standard(columns), judgements, strict=True)
    return {
        row.sha256 or "": replace(
            row,
            score=float(score),
            p_value=judgement.p_value,
            suspicion=-judgement.p_value,
            flagged=judgement.verdict is Verdict.FLAGGED,
        )
        for row, score, judgement in rows
    }
