"""Results as every output test needs them: plain, odd and hostile."""

from __future__ import annotations

import dataclasses
import io
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from muflow_cli.environment import deciding
from muflow_cli.output.report import Exhibit, ReportData
from muflow_cli.output.report_writer import Exhibits
from muflow_cli.output.writers import WRITERS, OutputFormat, WriterContext
from muflow_cli.records import (
    CalibrationMatch,
    Declared,
    FaceScore,
    Facts,
    Judgement,
    Mark,
    NoFace,
    Origin,
    Result,
    Scored,
    Side,
    Trust,
    Unreadable,
    Verdict,
)
from muflow_cli.run_records import AdaptiveInfo, DetectorInfo, ImageGroup, RunInfo, Shift, Summary
from muflow_cli.run_specs import InputSpec
from muflow_cli.scan.settings import Comparison

RUN = RunInfo(
    tool="muflow",
    version="0.1.0",
    argv=("muflow", "scan", "faces", "--json"),
    started="2026-03-01T09:00:00Z",
    device="cpu",
    precision="fp32",
    versions={"torch": "2.15.0", "pillow": "13.0.0"},
    options=deciding(InputSpec()) | {"atypical": "inconclusive"} | Comparison().options,
)
FINISHED = RunInfo(
    **{name: getattr(RUN, name) for name in RunInfo.__dataclass_fields__ if name != "finished"},
    finished="2026-03-01T09:00:02Z",
)
DETECTOR = DetectorInfo(
    path="light.safetensors",
    fingerprint="5f" * 32,
    calibration_fingerprint="c4" * 32,
    encoder="resnet50",
    rule="conformal",
    alpha=0.05,
    tail="both",
    columns=("main/layer2", "main/layer3"),
    calibration_images=300,
    smallest_p_value=2 / 301,
    file_sha256="f1" * 32,
)
GROUPS = (
    ImageGroup(name="=shop", images=40, flagged=12, p_value=0.0001, q_value=0.0002, unlike_calibration=True,
               tail=Side.LOW, atypical=0.025),
    ImageGroup(name="faces", images=3, flagged=2, p_value=0.25, q_value=0.25, unlike_calibration=False,
               tail=Side.HIGH, atypical=0.0),
    ImageGroup(name=os.fsdecode(b"faces/\xe9t\xe9 <b>"), images=1, flagged=0, p_value=None, q_value=None,
               unlike_calibration=False, tail=Side.HIGH, atypical=1.0),
)  # fmt: skip  # one number beside the other reads as a table
SHIFT = Shift(
    images=44,
    alike=False,
    p_value=0.0004,
    share=0.25,
    share_at_least=0.148,
    rate_at_most=0.073,
    distance=0.31,
    column="main/layer3",
)
SUMMARY = Summary(
    inputs=7,
    scored=5,
    flagged=3,
    unreadable=1,
    duplicates=1,
    atypical=1,
    faces=2,
    no_face=1,
    seconds=2.0,
    images_per_second=2.0,
    unreadable_by_code={"truncated": 1},
    flagged_by_tail={"high": 1, "low": 2},
    declared_by_origin={"synthetic": 1},
    atypical_by_fact={"format": 1, "width": 1},
    shift=SHIFT,
    groups=GROUPS,
    results_sha256="ab" * 32,
    stages={"decode": 0.4, "score": 1.5},
    bottleneck="score",
    head_sha256="cd" * 32,
    report_sha256="ef" * 32,
)

# Names that have broken a terminal, a spreadsheet, a browser or an encoder before.
HOSTILE_NAMES = [
    "<script>alert(1)</script>.jpg",
    "</script><img src=x onerror=alert(1)>.png",
    "\"quoted\" 'both' & ampersand.jpg",
    "photo\u202egpj.exe",
    "line\nbreak\r\n\ttab.jpg",
    "\x1b[31mred\x1b]0;title\x07.jpg",
    "[bold red]markup[/] :smile:.jpg",
    "=cmd|' /C calc'!A0.jpg",
    "+1.jpg",
    "-2+3.jpg",
    "@SUM(A1).jpg",
    "'=already quoted.jpg",
    "\t=tab first.jpg",
    " =space first.jpg",
    "</script closed=.jpg",
    "<!--<script never closed.jpg",
    "{{ 7 * 7 }} {% raw %}.jpg",
    "C:\\new\\table.jpg",
    "zero\u200bwidth \ufeff bom\u2028separator.jpg",
    "\U0001f600 emoji, comma.jpg",
    os.fsdecode(b"latin-\xe9\xff\x80.jpg"),
    "",
]


SYNTHETIC = Declared(
    origin=Origin.SYNTHETIC,
    marks=(
        Mark(
            kind="c2pa",
            claim=Origin.SYNTHETIC,
            detail={"generator": "GPT-4o", "source": "trainedAlgorithmicMedia"},
            trust=Trust.UNTRUSTED,
        ),
        Mark(kind="a1111", claim=Origin.SYNTHETIC, detail={"prompt": '<b>=1+1</b> \\ "face"', "seed": "12345"}),
        Mark(kind="exif", claim=Origin.CAMERA, detail={"make": "Canon"}),
    ),
)


def scored(path: str = "faces/a.jpg", *, number: int = 0, **changes: object) -> Scored:
    """A plain result with other fields of the result or of its judgement where given."""
    facts = Facts(
        sha256=f"{number:064x}",
        bytes=48_213 + number,
        format="JPEG",
        width=1024,
        height=768,
        jpeg_quality=92,
        sharpness=31.25,
    )
    verdict: dict[str, object] = {"p_value": 0.4, "verdict": Verdict.NOT_FLAGGED, "tail": Side.LOW}
    names = {field.name for field in dataclasses.fields(Judgement)}
    verdict |= {name: changes.pop(name) for name in names & changes.keys()}
    values = {"path": path, "facts": facts, "score": -1.125, "column_scores": (-1.5, -0.75), **changes}
    return Scored(judgement=Judgement(**verdict), **values)  # type: ignore[arg-type]  # the keys are their own


def unreadable(path: str = "faces/broken.jpg") -> Unreadable:
    """An image that ends too early."""
    return Unreadable(path=path, code="truncated", message="the file ends inside the image", sha256="e" * 64, bytes=9)


def face(left: float, *, p_value: float = 0.4, verdict: Verdict = Verdict.NOT_FLAGGED) -> FaceScore:
    """A face of 100 x 120 pixels whose box begins at `left`."""
    return FaceScore(
        box=(left, 50.0, left + 100, 170.5),
        landmarks=(
            (left + 30, 95.0),
            (left + 70, 95.0),
            (left + 50, 120.0),
            (left + 34, 143.0),
            (left + 66, 143.0),
        ),
        confidence=0.75,
        tilt=0.0,
        sharpness=12.5,
        score=-1.125,
        column_scores=(-1.5, -0.75),
        p_value=p_value,
        tail=Side.LOW,
        verdict=verdict,
        heaviest="main/layer2",
    )


RESULTS: list[Result] = [
    scored(),
    scored("faces/b.png", number=1, score=3.5, column_scores=(2.0, 5.0), p_value=0.0033, tail=Side.HIGH,
           verdict=Verdict.FLAGGED, q_value=0.01, heaviest="main/layer3", stratum="JPEG", declared=SYNTHETIC),
    unreadable(),
    scored(os.fsdecode(b"faces/\xe9t\xe9 <b>.jpg"), number=2, p_value=0.006, verdict=Verdict.FLAGGED,
           calibration=CalibrationMatch.EXTRAPOLATED, atypical_input=("format", "width")),
    scored("=faces/copy.jpg", duplicate_of="faces/a.jpg"),
    scored("faces/group.jpg", number=3, p_value=0.02, verdict=Verdict.FLAGGED, faces_left_out=1,
           faces=(face(10.5), face(400.0, p_value=0.01, verdict=Verdict.FLAGGED))),
    NoFace(path="faces/wall.jpg", facts=dataclasses.replace(scored(number=4).facts, sharpness=None), faces_left_out=2),
]  # fmt: skip  # one result a line reads as a table


def write_all(format_: OutputFormat, results: Iterable[Result], fields: tuple[str, ...] | None = None) -> bytes:
    """What the writer of a format makes of a whole run."""
    stream = io.BytesIO()
    context = WriterContext(fields=fields, calibration_scores=(-1.0, 0.0, 1.5), exhibits=Exhibits())
    writer = WRITERS[format_].make(stream, context)
    writer.begin(RUN, DETECTOR)
    for result in results:
        writer.write(result)
    writer.end(FINISHED, SUMMARY)
    return stream.getvalue()


def thumbnail() -> bytes:
    """A JPEG of 64 x 64."""
    stream = io.BytesIO()
    Image.linear_gradient("L").resize((64, 64)).save(stream, "JPEG")
    return stream.getvalue()


def row(index: int) -> Result:
    """One of many results: hostile names first, every 40th unreadable."""
    name = HOSTILE_NAMES[index] if index < len(HOSTILE_NAMES) else f"faces/{index:05d}.jpg"
    if index % 40 == 39:
        return unreadable(name)
    score = math.sin(index) * 3
    return scored(
        name,
        number=index,
        score=score,
        column_scores=(score - 1, score + 1),
        p_value=1 / (1 + abs(score)),
        verdict=Verdict.FLAGGED if abs(score) > 2.8 else Verdict.NOT_FLAGGED,
        tail=Side.HIGH if score > 0 else Side.LOW,
    )


def grouped(data: ReportData) -> ReportData:
    """The same report of an adaptive run by groups: every third image in the first group, and so on."""
    info = AdaptiveInfo(learner="logistic 0.01", training=150, nulls=150, fewest_flagged=14, atypical=0.031)

    def judged(result: Result, index: int) -> Result:
        if not isinstance(result, Scored):
            return result
        own = dataclasses.replace(result.judgement, adaptive_p_value=(1 + index) / 1000, q_value=(1 + index) / 500)
        return dataclasses.replace(result, group=GROUPS[index % len(GROUPS)].name, judgement=own)

    results = [judged(result, index) for index, result in enumerate(data.results)]
    summary = dataclasses.replace(data.summary, fdr=0.1, adaptive=info, groups=GROUPS)
    return dataclasses.replace(data, results=results, summary=summary)


def report_data(count: int, **changes: Any) -> ReportData:
    """A report of `count` inputs, every other one with an image and a heat map."""
    results = [row(index) for index in range(count)]
    grid = np.linspace(-1, 2, 16, dtype=np.float32).reshape(4, 4)
    exhibits = {i: Exhibit(thumbnail(), grid + np.float32(i % 3)) for i in range(0, count, 2)}
    values: dict[str, Any] = {
        "run": FINISHED,
        "detector": DETECTOR,
        "summary": dataclasses.replace(SUMMARY, inputs=count),
        "results": results,
        "calibration_scores": [math.cos(index) for index in range(300)],
        "exhibits": exhibits,
        "thresholds": (-0.99, 0.99),
        "file": Path("out/report.html"),
    }
    return ReportData(**{**values, **changes})
