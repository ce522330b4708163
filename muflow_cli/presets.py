"""PRESETS: the configurations in use, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from muflow_cli.specs import (
    BranchSpec,
    DetectorSpec,
    FeatureSpec,
    FlowSpec,
    Normalisation,
    RuleSpec,
    Selection,
    Tail,
    TargetSpec,
    TrainSpec,
    View,
    ViewSpec,
)

# Reals of other sources decide how long a flow trains and how large it is; docs/training.md has the figures.
LIGHT: Final = DetectorSpec(train=TrainSpec(selection=Selection.SOURCES))

# Pontorno et al. 2026 as published, short of the traps listed in the README: LayerNorm without affine parameters,
# a mixture over the vectors that the flow sees, every position's vector scored, distinct views only.
PAPER: Final = DetectorSpec(
    preset="paper",
    branches=(
        BranchSpec(
            view=ViewSpec(kind=View.CROPS, size=256, count=16, fit_count=4, draft=False),
            feature=FeatureSpec(dimensions=0, grid=0, normalisation=Normalisation.LAYERNORM),
            flow=FlowSpec(steps=8, kernels=(3,), hidden_ratio=1.0, clamp=2.0, matched_init=False),
            target=TargetSpec(images_per_average=500, n_averages=1000, components=1),
        ),
    ),
    train=TrainSpec(
        epochs=1000,
        batch_size=32,
        learning_rate=1e-4,
        weight_decay=1e-5,
        plateau_factor=0.7,
        plateau_patience=35,
        stop_patience=50,
    ),
    rule=RuleSpec(method="gaussian", alpha=0.1, tail=Tail.UPPER),
)

# The network that did best for its cost, as far as its last layer in use (docs/encoders.md); it needs the extra timm.
LITE: Final = replace(
    LIGHT,
    preset="lite",
    branches=(BranchSpec(feature=FeatureSpec(encoder="timm:tf_efficientnet_lite0", layers=("blocks.4",))),),
)

PRESETS: Final[Mapping[str, DetectorSpec]] = {"light": LIGHT, "lite": LITE, "paper": PAPER}
