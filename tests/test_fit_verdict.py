"""What the summary of a fit says in words."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from muflow_cli.calibration.coverage import rate_bounds
from muflow_cli.calibration.rules import Conformal
from muflow_cli.cli.fit_verdict import verdict_rows
from muflow_cli.detector import BranchProvenance, Candidate, LeftOut, Provenance, Selected
from muflow_cli.fit.records import FitSummary
from muflow_cli.specs import RuleSpec

RULE = RuleSpec(method="conformal", alpha=0.05)
ORIGIN = BranchProvenance(
    weights_origin="w", weights_sha256="", overlap=0.1, effective_sample_size=9.0, components=(3,), reg_covar=(1e-6,),
    epochs=9, best_epoch=5, train_nll=1.0, validation_nll=1.02, stopped="", selected=None,
)  # fmt: skip  # one record


def summary(origin: BranchProvenance = ORIGIN, **changes: Any) -> FitSummary:
    provenance = Provenance(
        created="", versions={}, device="cpu", precision="fp32", train=700, validation=100, train_digest="",
        branches={"main": origin},
    )  # fmt: skip
    values: dict[str, Any] = {
        "output": "my faces.safetensors", "used": 1000, "skipped": {}, "declared_synthetic": (), "train": 700,
        "validation": 100, "calibration": 200, "near_duplicates": 0, "provenance": provenance, "columns": ("main/a",),
        "regularisation_raised": (), "seconds": {}, "fingerprint": "", "calibration_fingerprint": "",
        "rule": "conformal", "alpha": 0.05, "true_rate": Conformal.rate_bounds(RULE, 200), "spread": {"main": 0.2},
    }  # fmt: skip
    return FitSummary(**{**values, **changes})


@pytest.mark.parametrize(
    ("validation_nll", "word"), [(0.9, "good"), (1.09, "good"), (1.15, "fair"), (1.3, "poor"), (90.0, "poor")]
)
def test_the_verdict_follows_from_how_far_held_out_reals_lie(validation_nll: float, word: str) -> None:
    rows = dict(verdict_rows(summary(replace(ORIGIN, validation_nll=validation_nll))))
    assert rows["verdict"].split(":")[0].split(",")[0] == word


def test_the_false_positives_to_expect_are_the_bounds_of_the_rule() -> None:
    text = dict(verdict_rows(summary()))["expect"]
    bounds = rate_bounds(*Conformal.flagged_ranks(RULE, 200))
    low, high = map(float, re.findall(r"[\d.]+", text)[:2])
    assert (low, high) == (round(100 * bounds.low, 1), round(100 * bounds.high, 1))
    assert low < 5 < high
    assert "promise" in dict(verdict_rows(summary(true_rate=None, rule="lof")))["expect"]


def test_reals_of_sources_that_were_left_out_speak_for_other_sources() -> None:
    def text(rate: float) -> str:
        selected = Selected(
            left_out=(LeftOut(sources=("a",), images=9),), steps=2, epochs=9,
            candidates=(Candidate(steps=2, epochs=9, rate=rate, standard_error=0.0, nll=1.0),),
        )  # fmt: skip
        return dict(verdict_rows(summary(replace(ORIGIN, selected=selected))))["other sources"]

    assert text(0.25).startswith("25 % of the reals of sources left out were flagged where 20 % are nominal")
    assert text(0.55).startswith("poor: 55 %")
    assert "other sources" not in dict(verdict_rows(summary()))


def test_the_next_command_can_be_pasted() -> None:
    assert "muflow bench 'my faces.safetensors' --real DIR" in dict(verdict_rows(summary()))["next"]
