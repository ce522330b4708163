"""What adaptive p-values find in batches with known labels, beside what one image at a time finds. Pure.

Batches are drawn again and again from a real source and a generator. Within a batch every image is another one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import false_discovery_control

from muflow_cli.bench.evaluate import Figure
from muflow_cli.bench.intervals import BootstrapSpec, EventRate, event_rate, percentile_interval
from muflow_cli.bench.metrics import Floats, signed_auc
from muflow_cli.bench.scores import Row, grouped
from muflow_cli.calibration.batch import component_count, learned_p_values
from muflow_cli.calibration.components import Sample, components, whitened

SIZES: Final = (50, 200, 1000)
SHARES: Final = (0.01, 0.05, 0.2, 0.5)
RATES: Final = (0.05, 0.1, 0.2)
# A scan learns at the rate that it flags at. Here one learner serves all rates, which costs a third.
LEARNED_AT: Final = 0.1
REPEATS: Final = 20
# Components of all images of a pair; each batch has its own 100 of these.
_SHORTENED: Final = 256

FeaturesOf = Mapping[str, NDArray[np.float16]]


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchRate:
    """What Benjamini-Hochberg flags at one false discovery rate; means over the batches, with bootstrap intervals.

    Attributes:
        fdr: the nominal rate.
        power: share of the fakes that the adaptive p-values flag.
        fdp: share of reals among the images that these flag; 0 where they flag none.
        one_image_power: the same by the p-values of single images.
        one_image_fdp: likewise.
    """

    fdr: float
    power: Figure
    fdp: Figure
    one_image_power: Figure
    one_image_fdp: Figure


@dataclass(frozen=True, kw_only=True, slots=True)
class MixedBatches:
    """Batches of one size and share of fakes, from one real source and one generator.

    Attributes:
        source: of the reals.
        generator: of the fakes.
        size: images in a batch.
        fakes: number of fakes among them.
        auc: of the adaptive p-values; mean over the batches.
        rates: one entry for each false discovery rate.
    """

    source: str
    generator: str
    size: int
    fakes: int
    auc: Figure
    rates: tuple[BatchRate, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class RealBatches:
    """Batches of reals of one source alone, in which everything that is flagged is flagged wrongly.

    Attributes:
        source: of the reals.
        size: images in a batch.
        any_flagged: false discovery rate -> batches with a flagged image; at most that rate of them, where the reals of
            the source are exchangeable with the calibration's.
    """

    source: str
    size: int
    any_flagged: Mapping[str, EventRate]


@dataclass(frozen=True, kw_only=True, slots=True)
class Batches:
    """Adaptive p-values in batches; sizes and shares that the images do not suffice for are left out.

    Attributes:
        reals: number of calibration reals.
        repeats: batches of each kind.
        learned_at: false discovery rate at which the classifier is chosen.
        mixed: batches with fakes.
        real: batches without.
    """

    reals: int
    repeats: int
    learned_at: float
    mixed: tuple[MixedBatches, ...]
    real: tuple[RealBatches, ...]


def by_source(rows: Sequence[Row], *, fake: bool) -> dict[str, list[Row]]:
    """Generator or real source -> its rows, in the order of their content hashes."""
    return dict(sorted(grouped(sorted(rows, key=lambda row: row.sha256 or ""), fake=fake).items()))


def sample_of(rows: Sequence[Row], features: FeaturesOf) -> Sample:
    """The rows as images to compare."""
    digests = [str(row.sha256) for row in rows]
    return Sample(digests, np.stack([features[digest] for digest in digests]))


def measure_batches(
    rows: Sequence[Row],
    features: FeaturesOf,
    calibration: Sample,
    bootstrap: BootstrapSpec,
    advance: Callable[[], None] = lambda: None,
    repeats: int = REPEATS,
) -> Batches:
    """Draw and judge batches of every real source, alone and with every generator.

    Args:
        rows: with content hashes and p-values, each photograph once.
        features: content hash -> features (F,) of every row.
        calibration: the reals of the calibration, enough for `LEARNED_AT`.
        bootstrap: resamples and level of the intervals; its seed also draws the batches.
        advance: told of every pair of a real source and a generator.
        repeats: batches of each kind.
    """
    mixed: list[MixedBatches] = []
    real: list[RealBatches] = []
    generators = by_source(rows, fake=True).values()
    for reals in by_source(rows, fake=False).values():
        sizes = [size for size in SIZES if size <= len(reals)]
        if sizes:
            pool = _Pool(calibration, reals, [], features, bootstrap, repeats)
            real += [pool.real_batches(size) for size in sizes]
        for fakes in generators:
            cells = list(_cells(len(reals), len(fakes)))
            if cells:
                pool = _Pool(calibration, reals, fakes, features, bootstrap, repeats)
                mixed += [pool.mixed_batches(*cell) for cell in cells]
            advance()
    return Batches(reals=len(calibration), repeats=repeats, learned_at=LEARNED_AT, mixed=tuple(mixed), real=tuple(real))


def _cells(reals: int, fakes: int) -> Iterator[tuple[int, int]]:
    """Size and number of fakes of the batches that so many images suffice for."""
    for size in SIZES:
        for share in SHARES:
            wanted = round(size * share)
            if 0 < wanted <= fakes and size - wanted <= reals:
                yield size, wanted


class _Pool:
    """The images of a real source, and of a generator or none, that batches are drawn from."""

    def __init__(
        self,
        calibration: Sample,
        reals: Sequence[Row],
        fakes: Sequence[Row],
        features: FeaturesOf,
        bootstrap: BootstrapSpec,
        repeats: int,
    ) -> None:
        self._reals, self._fakes, self._calibration = len(reals), len(fakes), len(calibration)
        self._source, self._generator = reals[0].source, fakes[0].group if fakes else ""
        self._bootstrap, self._repeats = bootstrap, repeats
        self._one_image = np.array([row.p_value for row in (*reals, *fakes)], dtype=np.float64)
        pool = sample_of([*reals, *fakes], features)
        self._digests = np.array([*calibration.digests, *pool.digests])
        # Once for all batches, since this takes the most time. It treats the calibration and all reals alike, and the
        # batches are drawn by chance, so the p-values stay valid.
        self._vectors = components(calibration, pool, _SHORTENED, whiten=False)

    def real_batches(self, size: int) -> RealBatches:
        """Batches of reals alone."""
        least = np.array(
            [false_discovery_control(self._adaptive(batch, deal)).min() for deal, batch in self._drawn(size, 0)]
        )
        return RealBatches(
            source=self._source,
            size=size,
            any_flagged={
                f"{fdr:g}": event_rate(int(np.sum(least <= fdr)), self._repeats, self._bootstrap.level) for fdr in RATES
            },
        )

    def mixed_batches(self, size: int, fakes: int) -> MixedBatches:
        """Batches with `fakes` fakes, the reals first."""
        fake = np.arange(size) >= size - fakes
        measured = []
        for deal, batch in self._drawn(size, fakes):
            adaptive = self._adaptive(batch, deal)
            q_values = [false_discovery_control(p_values) for p_values in (adaptive, self._one_image[batch])]
            figures = [signed_auc(-adaptive, fake)]
            for fdr in RATES:
                for flagged in (own <= fdr for own in q_values):
                    figures += [flagged[fake].mean(), flagged[~fake].sum() / max(1, flagged.sum())]
            measured.append(figures)
        auc, *rest = self._means(np.array(measured))
        rates = [
            BatchRate(fdr=fdr, power=power, fdp=fdp, one_image_power=one_image_power, one_image_fdp=one_image_fdp)
            for fdr, power, fdp, one_image_power, one_image_fdp in zip(
                RATES, *(rest[first::4] for first in range(4)), strict=True
            )
        ]
        return MixedBatches(
            source=self._source, generator=self._generator, size=size, fakes=fakes, auc=auc, rates=tuple(rates)
        )

    def _drawn(self, size: int, fakes: int) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Number and images of every batch, as positions in the pool; by seed, names, size and fakes."""
        names = f"{self._source}\0{self._generator}" if fakes else self._source
        for number in range(self._repeats):
            seeds = [self._bootstrap.seed, size, fakes, number, *names.encode("utf-8", "surrogateescape")]
            generator = np.random.default_rng(seeds)
            batch = generator.choice(self._reals, size - fakes, replace=False)
            if fakes:
                batch = np.append(batch, self._reals + generator.choice(self._fakes, fakes, replace=False))
            yield number, batch

    def _adaptive(self, batch: NDArray[np.int64], deal: int) -> Floats:
        """(m,) adaptive p-values; the calibration is dealt anew for every batch, since the guarantee is a mean."""
        members = np.concatenate([np.arange(self._calibration), self._calibration + batch])
        order = np.argsort(self._digests[members], kind="stable")
        vectors = whitened(self._vectors[members[order]], component_count(len(order)))
        return learned_p_values(vectors, order, self._calibration, LEARNED_AT, seed=deal).p_values

    def _means(self, measured: Floats) -> list[Figure]:
        """Means of the columns of (repeats, figures), with bootstrap intervals over the repeats."""
        bootstrap = self._bootstrap
        generator = np.random.default_rng(bootstrap.seed)
        drawn = generator.integers(0, len(measured), size=(bootstrap.resamples, len(measured)))
        figures = []
        for column in measured.T:
            interval = percentile_interval(column[drawn].mean(axis=1), bootstrap.level)
            figures.append(Figure(float(column.mean()), interval.low, interval.high))
        return figures
