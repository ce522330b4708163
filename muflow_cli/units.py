"""Images -> what is scored of them (their faces, or themselves), and the scores -> one result for each image."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
from numpy.typing import NDArray

from muflow_cli.calibration.judge import Judge
from muflow_cli.calibration.pvalues import over_tests
from muflow_cli.clip_results import FrameUnit, ScoredClip, frame_units
from muflow_cli.engine.scoring import ScoredUnit
from muflow_cli.images.clips import LoadedClip
from muflow_cli.images.loader import Listed, Loaded, Seen
from muflow_cli.images.prepare import LoadedFace
from muflow_cli.records import (
    CalibratedOn,
    Face,
    FaceScore,
    Facts,
    Judgement,
    NoFace,
    Scored,
    Unjudged,
    Unreadable,
    Verdict,
)


@dataclass(frozen=True, slots=True)
class Unit:
    """What gets scores of its own: a face of an image, or an image.

    Attributes:
        image: that it belongs to.
        index: of the face; 0 for an image that is scored as a whole.
    """

    image: Loaded
    index: int = 0

    @property
    def views(self) -> Mapping[str, NDArray[np.uint8]]:
        """(V, H, W, 3) of each branch."""
        return self.image.faces[self.index].views if self.image.faces else self.image.views

    @property
    def is_last(self) -> bool:
        """Whether no other unit of its image follows."""
        return self.index >= len(self.image.faces) - 1


Item = Unit | FrameUnit | NoFace | Seen | Listed | Unreadable


@dataclass(frozen=True, slots=True)
class ScoredImage:
    """An image whose units all have their scores, the largest face first.

    Attributes:
        image: its views may be left out, where another machine scored it.
        units: its faces, or the image itself.
        near: perceptual hash of its views, where they are left out and it is wanted.
    """

    image: Loaded
    units: Sequence[ScoredUnit[Unit]]
    near: int | None = None


ScoredItem = ScoredImage | ScoredClip | NoFace | Seen | Listed | Unreadable


def unjudged_still(scored: ScoredImage) -> Unjudged:
    """The result of an image of a detector that was calibrated on clips, by its largest face if it looks for faces."""
    image, columns = scored.image, scored.units[0].columns
    return Unjudged(
        path=image.path,
        facts=image.facts,
        score=float(columns.mean()),
        column_scores=tuple(columns.tolist()),
        calibration=CalibratedOn.CLIPS,
        declared=image.declared,
    )


def units_of(image: Loaded | LoadedClip) -> Sequence[Unit | FrameUnit]:
    """The frames of a clip, the faces of an image, or the image itself."""
    if isinstance(image, LoadedClip):
        return frame_units(image)
    return [Unit(image, index) for index in range(max(1, len(image.faces)))]


def unknown_units(
    item: Loaded | LoadedClip | NoFace | Seen | Listed | Unreadable, known: Callable[[str], bool]
) -> Iterator[Item]:
    """What is scored of an item: nothing, where its content is known by its key."""
    if isinstance(item, Loaded | LoadedClip | NoFace) and known(item.facts.key):
        yield Seen(item.path, item.facts.key)
    elif isinstance(item, Loaded | LoadedClip):
        yield from units_of(item)
    else:
        yield item


def by_image(stream: Iterable[ScoredUnit[Item] | Item]) -> Iterator[ScoredItem]:
    """What `score_stream` makes of units, with all units of an image or a clip in one; anything else is passed on."""
    held: list[ScoredUnit[Unit]] = []
    frames: list[ScoredUnit[FrameUnit]] = []
    for item in stream:
        if isinstance(item, ScoredUnit) and isinstance(item.unit, FrameUnit):
            frames.append(cast("ScoredUnit[FrameUnit]", item))
            if item.unit.is_last:
                yield ScoredClip(item.unit.clip, frames)
                frames = []
            continue
        if isinstance(item, ScoredUnit) and isinstance(item.unit, Unit):
            held.append(cast("ScoredUnit[Unit]", item))
            if item.unit.is_last:
                yield ScoredImage(item.unit.image, held)
                held = []
        else:
            assert not isinstance(item, ScoredUnit | Unit | FrameUnit)  # noqa: S101 - every unit has views, nothing else has
            yield item


def scored_result(scored: ScoredImage, judge: Judge) -> Scored:
    """The result of an image by its own score, or by those of its faces."""
    image = scored.image
    columns = np.stack([unit.columns for unit in scored.units])
    if not image.faces:
        (judgement,) = judge.judge(columns, [image.facts])
        return replace(_result(image, image.facts, columns[0], judgement), faces_left_out=image.faces_left_out)
    facts = [face.facts for face in image.faces]
    judgements = judge.judge(columns, facts, tests=len(facts))
    faces = [_face_score(*face) for face in zip(image.faces, columns, judgements, strict=True)]
    decisive = min(range(len(facts)), key=lambda index: judgements[index].p_value)
    result = _result(image, facts[decisive], columns[decisive], _of_image(judgements, decisive))
    return replace(result, faces=tuple(faces), faces_left_out=image.faces_left_out)


def judged_again(result: Scored, judge: Judge) -> Scored:
    """A result under the judge's rule; its scores count, not its verdict, which may be by a false discovery rate.

    A clip keeps its verdict, which a comparison of all images replaces where there is one.
    """
    if result.clip is not None:
        return replace(result, judgement=replace(result.judgement, q_value=None, adaptive_p_value=None))
    if not result.faces:
        (judgement,) = judge.judge(np.array([result.column_scores]), [result.facts])
        return replace(result, judgement=judgement)
    facts = [_facts_of(face, result.facts) for face in result.faces]
    columns = np.array([face.column_scores for face in result.faces])
    judgements = judge.judge(columns, facts, tests=len(facts))
    decisive = min(range(len(facts)), key=lambda index: judgements[index].p_value)
    faces = [
        replace(face, verdict=own.verdict, p_value=own.p_value, tail=own.tail)
        for face, own in zip(result.faces, judgements, strict=True)
    ]
    return replace(result, judgement=_of_image(judgements, decisive), faces=tuple(faces))


def _result(image: Loaded, facts: Facts, columns: NDArray[np.float64], judgement: Judgement) -> Scored:
    return Scored(
        path=image.path,
        facts=facts,
        score=float(columns.mean()),
        column_scores=tuple(columns.tolist()),
        judgement=judgement,
        declared=image.declared,
    )


def _face_score(face: LoadedFace, columns: NDArray[np.float64], judgement: Judgement) -> FaceScore:
    return FaceScore(
        box=face.face.box,
        landmarks=face.face.landmarks,
        confidence=face.face.confidence,
        tilt=face.face.tilt,
        sharpness=face.facts.sharpness,
        score=float(columns.mean()),
        column_scores=tuple(columns.tolist()),
        p_value=judgement.p_value,
        tail=judgement.tail,
        verdict=judgement.verdict,
        atypical_input=judgement.atypical_input,
        heaviest=judgement.heaviest,
    )


def _facts_of(face: FaceScore, image: Facts) -> Facts:
    place: Face = face.face
    return replace(image, sharpness=face.sharpness, face_side=place.side, face_tilt=place.tilt)


def _of_image(judgements: Sequence[Judgement], decisive: int) -> Judgement:
    """The judgement of an image by those of its faces: that of the decisive one, with Bonferroni's p-value."""
    own = judgements[decisive]
    flagged = any(judgement.verdict is Verdict.FLAGGED for judgement in judgements)
    p_value = over_tests(own.p_value, len(judgements))
    return replace(own, p_value=p_value, verdict=Verdict.FLAGGED if flagged else own.verdict)
