"""Seeded rows with known labels, groups and scores, and the report made of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from muflow_cli.bench.data import OverlapPolicy
from muflow_cli.bench.document import Measured, Settings, build_document
from muflow_cli.bench.evaluate import EvaluateSpec, evaluate
from muflow_cli.bench.families import family
from muflow_cli.bench.intervals import BootstrapSpec
from muflow_cli.bench.manifest import Label
from muflow_cli.bench.metrics import auc
from muflow_cli.bench.nulls import null_baselines
from muflow_cli.bench.records import BenchRun
from muflow_cli.bench.robustness import Condition, On
from muflow_cli.bench.scores import Row
from muflow_cli.images.perturb import parse
from muflow_cli.records import Facts

SPEC = EvaluateSpec(bootstrap=BootstrapSpec(resamples=50), centre=0.0, family=family)
RUN = BenchRun(
    version="0",
    argv=("muflow", "bench"),
    started="2026-03-01T09:00:00Z",
    finished="2026-03-01T09:10:00Z",
    versions={"python": "3"},
    stages={"score": 1.5},
    device="cpu",
    precision="fp32",
)

# group -> label, real source, mean of its scores, images
GROUPS = {
    "celebahq": (Label.REAL, "celebahq", 0.0, 40),
    "<b>unsplash</b>": (Label.REAL, "<b>unsplash</b>", 0.6, 30),
    "stylegan2": (Label.FAKE, "gans", 1.0, 25),
    "sdxl_tiles": (Label.FAKE, "diffusion", 2.0, 20),
    "weird|name": (Label.FAKE, "other", -1.5, 15),
}


def make_row(group: str, number: int, generator: np.random.Generator, shift: float = 0.0) -> Row:
    """One row whose p-value and verdict follow from its score."""
    label, source, mean, _ = GROUPS[group]
    score = float(generator.normal(mean + shift))
    p_value = round(max(0.005, 2 * float(np.exp(-(score**2))) / 2), 3)
    facts = Facts(
        sha256=f"{hash_of(group):032x}{number:032x}", bytes=1000 + number, format="JPEG", width=64, height=64,
        jpeg_quality=75, sharpness=float(generator.uniform(5, 20)),
    )  # fmt: skip  # a fixed record
    return Row(
        path=f"{group}/{number:03}.jpg", label=label, group=group, source=source, score=score,
        column_scores=(score - 0.25, score + 0.25), p_value=min(1.0, p_value), suspicion=-min(1.0, p_value),
        flagged=p_value <= 0.05, sha256=facts.sha256, facts=facts,
    )  # fmt: skip  # a fixed record


def hash_of(text: str) -> int:
    """A number for a name, the same in every process."""
    return sum(ord(character) * position for position, character in enumerate(text, 1))


def make_rows(seed: int = 0, shift: float = 0.0) -> list[Row]:
    """Rows of every group."""
    generator = np.random.default_rng(seed)
    return [make_row(group, n, generator, shift) for group, (*_, count) in GROUPS.items() for n in range(count)]


def make_measured(rows: list[Row]) -> Measured:
    """Everything a report can hold."""
    spec = replace(SPEC, metrics={"auc": auc})
    conditions = [
        (Condition(parse(f"jpeg:q={q}"), side), evaluate(make_rows(shift=-0.01 * (100 - q)), spec))
        for q in (90, 30, 60)
        for side in (On.BOTH, On.REALS)
    ]
    return Measured(
        rows=rows, evaluation=evaluate(rows, SPEC), conditions=conditions, nulls=null_baselines(rows, seed=0)
    )


def make_report(rows: list[Row] | None = None) -> dict[str, Any]:
    """A whole report."""
    settings = Settings(evaluate=SPEC, overlap=OverlapPolicy.REFUSE, limit=0)
    return build_document(make_measured(rows or make_rows()), settings, RUN)
