"""Scores of held-out reals as a detector stores them, and the judge that they make."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from muflow_cli.calibration.clips import Sampling, frame_columns
from muflow_cli.calibration.computed import Computed, ComputedBy, check_computed
from muflow_cli.calibration.features import Features
from muflow_cli.calibration.pvalues import Scores, mean_scores
from muflow_cli.calibration.rules import rule_class
from muflow_cli.canonical import canonical_json, from_json, to_json
from muflow_cli.errors import BadCalibration, BadSpec, TooFewScores
from muflow_cli.records import CalibratedOn, Facts
from muflow_cli.specs import RuleSpec

_COUNTS: Final = ("bytes", "width", "height")
_FACE: Final = ("face_side", "face_tilt")
_NO_QUALITY: Final = -1
_SHA256: Final = re.compile("[0-9a-f]{64}")


def source_digest(sha256: Sequence[str]) -> str:
    """SHA-256 over the sorted content hashes, lower-case hexadecimal: names a set of images whatever their order."""
    return hashlib.sha256(b"".join(bytes.fromhex(digest) for digest in sorted(sha256))).hexdigest()


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibration:
    """The reals that a verdict is measured against; one row per distinct image, ascending by content hash.

    Rows may be given in any order and images more than once: identical bytes count once.

    Attributes:
        scores: (n, S) one score per column, nats per dimension, n >= 1, of reals that the flow never saw.
        columns: (S,) names of the columns, `branch/layer`, all different.
        facts: (n,) what was read of each image.
        rule: how the scores become a verdict.
        created: UTC, ISO 8601.
        source_digest: of the content hashes, see `source_digest`; computed where empty, else checked.
        near_hashes: (n, 8) uint8 perceptual hashes, by which near copies of these images are recognised; None in
            bundles of earlier versions.
        features: of the images, with which a batch is compared (`calibration.batch`); None where they were left out.
        computed: what computed the scores, and scores of probe images; None in bundles of earlier versions, and where
            images were scored in several ways.
        clips: which frames the clips gave, where each row is a clip; None where each is a still image.

    Raises:
        BadCalibration: when the parts do not belong together.
        BadSpec: for a rule that does not exist or cannot use its settings.
        TooFewScores: without any image.
    """

    scores: Scores
    columns: tuple[str, ...]
    facts: tuple[Facts, ...]
    rule: RuleSpec
    created: str
    source_digest: str = ""
    near_hashes: NDArray[np.uint8] | None = None
    features: Features | None = None
    computed: Computed | None = None
    clips: Sampling | None = None

    def __post_init__(self) -> None:
        rule_class(self.rule.method).check(self.rule)
        scores = np.asarray(self.scores, dtype=np.float64)
        if scores.ndim != 2 or scores.shape[1] == 0 or len(scores) != len(self.facts):
            raise BadCalibration(f"holds scores of shape {scores.shape} for {len(self.facts)} images")
        count = scores.shape[1]
        if len(self.columns) != count:
            raise BadCalibration(f"names {len(self.columns)} columns and holds scores of {count}")
        if not all(isinstance(name, str) and name for name in self.columns) or len(set(self.columns)) < count:
            raise BadCalibration("has column names that are empty, repeated or not text")
        if len(scores) == 0:
            raise TooFewScores("calibration", 0, 1)
        if not np.isfinite(scores).all():
            raise BadCalibration("holds scores that are NaN or infinite")
        check_computed(self.computed, count if self.clips is None else frame_columns(count))
        rows = _first_rows_by_hash(self.facts)
        facts = tuple(self.facts[row] for row in rows)
        digest = source_digest([image.sha256 for image in facts])
        if self.source_digest not in ("", digest):
            raise BadCalibration("names another set of images than it holds")
        object.__setattr__(self, "scores", np.ascontiguousarray(scores[rows]))
        object.__setattr__(self, "near_hashes", _near_hashes(self.near_hashes, rows, len(scores)))
        if self.features is not None:
            object.__setattr__(self, "features", self.features.of_rows(rows, len(scores)))
        object.__setattr__(self, "columns", tuple(self.columns))
        object.__setattr__(self, "facts", facts)
        object.__setattr__(self, "source_digest", digest)

    def __len__(self) -> int:
        return len(self.facts)

    @property
    def mean_scores(self) -> Scores:
        """(n,) the mean of each image's columns."""
        return mean_scores(self.scores)

    @property
    def calibrated_on(self) -> CalibratedOn:
        """What its rows are."""
        return CalibratedOn.STILLS if self.clips is None else CalibratedOn.CLIPS

    @property
    def median_score(self) -> float:
        """Median of the mean scores."""
        return float(np.median(self.mean_scores))

    @property
    def smallest_p_value(self) -> float:
        """Smallest p-value that the rule can give with all these reals."""
        return rule_class(self.rule.method).smallest_p_value(self.rule, len(self))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What a safetensors file holds: scores, their mean, content hashes (n, 32), perceptual hashes (n, 8)
        where they are known, and one array (n,) for each fact.

        A missing quality is -1, a missing sharpness NaN; `format` counts into the names listed in `meta`.
        """
        formats = self._formats()
        quality = [_NO_QUALITY if image.jpeg_quality is None else image.jpeg_quality for image in self.facts]
        sharpness = [np.nan if image.sharpness is None else image.sharpness for image in self.facts]
        digests = b"".join(bytes.fromhex(image.sha256) for image in self.facts)
        return {
            "scores": self.scores,
            "score": self.mean_scores,
            "sha256": np.frombuffer(digests, dtype=np.uint8).reshape(len(self), 32).copy(),
            "format": np.array([formats.index(image.format) for image in self.facts], dtype=np.int64),
            "jpeg_quality": np.array(quality, dtype=np.int64),
            "sharpness": np.array(sharpness, dtype=np.float64),
            **{name: np.array([getattr(image, name) for image in self.facts], dtype=np.int64) for name in _COUNTS},
            **self._face_arrays(),
            **({} if self.near_hashes is None else {"near_hash": self.near_hashes}),
            **({} if self.features is None else {"features": self.features.values}),
            **({} if self.computed is None else {"probes": self.computed.probes}),
        }

    def _face_arrays(self) -> dict[str, NDArray[np.float64]]:
        """Size and tilt of each image's face, (n,), NaN where it has none; nothing where no image has one."""
        known = {name: [getattr(image, name) for image in self.facts] for name in _FACE}
        if all(value is None for values in known.values() for value in values):
            return {}
        return {name: np.array(values, dtype=np.float64) for name, values in known.items()}

    def meta(self) -> dict[str, object]:
        """What the arrays do not say, for JSON: rule, date, source_digest, names of formats and columns, images."""
        return {
            "rule": to_json(self.rule),
            "created": self.created,
            "source_digest": self.source_digest,
            "formats": list(self._formats()),
            "columns": list(self.columns),
            "images": len(self),
            **self._clips_meta(),
            **({} if self.features is None else {"features": self.features.meta()}),
            **({} if self.computed is None else {"computed": to_json(self.computed.by)}),
        }

    def _clips_meta(self) -> dict[str, object]:
        """Which frames the clips gave; nothing for stills, whose calibrations keep their bytes."""
        return {} if self.clips is None else {"clips": to_json(self.clips)}

    @classmethod
    def load(cls, arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]) -> Calibration:
        """The calibration that `arrays` and `meta` describe.

        Raises:
            BadCalibration: where they do not describe one.
        """
        try:
            datetime.fromisoformat(meta["created"])
            own = dict(meta.get("features") or {})
            _check_arrays(arrays, meta["images"], len(meta["columns"]), int(own.pop("count", 0)))
            if not all(isinstance(name, str) for name in meta["formats"]):
                raise BadCalibration("names a format that is not text")
            by = from_json(ComputedBy, meta["computed"]) if "probes" in arrays else None
            calibration = cls(
                scores=arrays["scores"],
                columns=tuple(meta["columns"]),
                facts=_facts_from(arrays, meta["formats"]),
                rule=from_json(RuleSpec, meta["rule"]),
                created=meta["created"],
                source_digest=meta["source_digest"],
                near_hashes=arrays.get("near_hash"),
                features=Features(arrays["features"], **own) if "features" in arrays else None,
                computed=None if by is None else Computed(arrays["probes"], by),
                clips=from_json(Sampling, meta["clips"]) if "clips" in meta else None,
            )
            stored = calibration.arrays()
        except BadSpec as error:
            raise BadCalibration(f"has a rule that cannot be used ({error.problem})") from error
        except (LookupError, ValueError, TypeError, OverflowError, TooFewScores) as error:
            raise BadCalibration("does not have the form that muflow writes") from error
        if calibration.meta() != dict(meta) or any(arrays[name].tobytes() != stored[name].tobytes() for name in stored):
            raise BadCalibration("contradicts itself")
        return calibration

    def fingerprint(self) -> str:
        """SHA-256 over rule, formats, columns, and names, dtypes, shapes and bytes of the arrays; not over the date."""
        head: dict[str, object] = {
            "rule": to_json(self.rule),
            "formats": list(self._formats()),
            "columns": list(self.columns),
        }
        head |= self._clips_meta()
        if self.features is not None:
            head["features"] = self.features.meta()
        digest = hashlib.sha256(canonical_json(head))
        for name, array in sorted(self.arrays().items()):
            digest.update(canonical_json([name, array.dtype.str, list(array.shape)]))
            digest.update(array.tobytes())
        return digest.hexdigest()

    def _formats(self) -> tuple[str, ...]:
        return tuple(sorted({image.format for image in self.facts}))


def _near_hashes(hashes: NDArray[np.uint8] | None, rows: list[int], images: int) -> NDArray[np.uint8] | None:
    """The perceptual hashes of the given rows, checked."""
    if hashes is None:
        return None
    if hashes.shape != (images, 8) or hashes.dtype != np.uint8:
        raise BadCalibration("holds perceptual hashes of another type or number than its images")
    return np.ascontiguousarray(hashes[rows])


def _first_rows_by_hash(facts: Sequence[Facts]) -> list[int]:
    """Row of the first image of each content hash, ascending by hash."""
    first: dict[str, int] = {}
    for row, image in enumerate(facts):
        if not _SHA256.fullmatch(image.sha256):
            raise BadCalibration(f"holds an image whose content hash {image.sha256!r} is not a SHA-256")
        first.setdefault(image.sha256, row)
    return [first[sha256] for sha256 in sorted(first)]


def _check_arrays(arrays: Mapping[str, NDArray[Any]], images: int, columns: int, features: int) -> None:
    """Raise BadCalibration for stored arrays whose names, types, shapes or values no calibration has."""
    whole, real = (np.dtype(np.int64), (images,)), (np.dtype(np.float64), (images,))
    layout = {
        "scores": (np.dtype(np.float64), (images, columns)),
        "score": real,
        "sha256": (np.dtype(np.uint8), (images, 32)),
        "format": whole,
        "jpeg_quality": whole,
        "sharpness": real,
        **dict.fromkeys(_COUNTS, whole),
        **{name: real for name in _FACE if name in arrays},
        **({"near_hash": (np.dtype(np.uint8), (images, 8))} if "near_hash" in arrays else {}),
        **({"features": (np.dtype(np.float16), (images, features))} if "features" in arrays else {}),
        **(
            {"probes": (np.dtype(np.float64), (len(arrays["probes"]), arrays["probes"].shape[-1]))}
            if "probes" in arrays
            else {}
        ),
    }
    if {name: (array.dtype, array.shape) for name, array in arrays.items()} != layout:
        raise BadCalibration("holds arrays of other names, types or shapes than muflow writes")
    quality, sharpness = arrays["jpeg_quality"], arrays["sharpness"]
    plausible = (
        all((arrays[name] > 0).all() for name in _COUNTS)
        and ((quality == _NO_QUALITY) | ((quality >= 1) & (quality <= 100))).all()
        and (np.isnan(sharpness) | ((sharpness >= 0) & (sharpness < np.inf))).all()
        and not any(np.isinf(arrays[name]).any() for name in _FACE if name in arrays)
    )
    if not plausible:
        raise BadCalibration("holds facts that no image has, such as a negative size")


def _facts_from(arrays: Mapping[str, NDArray[Any]], formats: Sequence[str]) -> tuple[Facts, ...]:
    digests = [bytes(row).hex() for row in arrays["sha256"]]
    names = [formats[index] for index in arrays["format"].tolist()]
    quality = [None if value == _NO_QUALITY else value for value in arrays["jpeg_quality"].tolist()]
    sharpness = [None if np.isnan(value) else value for value in arrays["sharpness"].tolist()]
    counts = (arrays[name].tolist() for name in _COUNTS)
    nothing = np.full(len(digests), np.nan)
    face = ([None if np.isnan(value) else value for value in arrays.get(name, nothing).tolist()] for name in _FACE)
    rows = zip(digests, names, quality, sharpness, *counts, *face, strict=True)
    return tuple(
        Facts(
            sha256=s,
            format=f,
            jpeg_quality=q,
            sharpness=sharp,
            bytes=size,
            width=width,
            height=height,
            face_side=side,
            face_tilt=tilt,
        )
        for s, f, q, sharp, size, width, height, side, tilt in rows
    )
