"""Does an encoder that learned from reals alone know fakes, or only what was done to an image?

    PYTHONPATH=weights python benchmarks/encoder_judge.py density.safetensors [--masked masked.safetensors]
        --fit DIR... --unseen DIR... --fake DIR... --cache DIR [--encoder NAME --encoder-weights FILE]

`weights/build_encoder.py` makes both files.

In each folder of --fit a half of at most 160 images (by content hash) fits the scores, a quarter calibrates them, and
the rest is held out. Every score flags what lies above the 95 % quantile of its calibration. On reals alone: the
flagged share of held-out reals of those sources and of --unseen, and the AUC of disturbed reals against the same reals,
each source on its own. Then the AUC of each generator against the reals of each source.

Scores: NLL minus entropy of the density and of hidden blocks, in its lower tail and as a Gaussian; Gaussians of the
last layer of the latter, of the forensic encoder, of a linear self-description and of another encoder; classifiers of
disturbed reals; Fisher's sum of two. --cache keeps
features, so that a stopped run goes on.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
import torch
from build_encoder import LIMIT, Density, Masked, files_in, pixels_of, square
from disturbed import PatchModel, disturbances
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.nn import functional

from muflow_cli.bench.intervals import clopper_pearson
from muflow_cli.engine.branch import Encoder
from muflow_cli.engine.forensic import luma_of
from muflow_cli.engine.weights import find_weights
from muflow_cli.specs import FeatureSpec

Floats = NDArray[np.float64]
Key = tuple[str, str]  # kind and folder
ALPHA: Final = 0.05
HELD_OUT: Final = 60  # images of a held-out group
DISTURBED: Final = 24  # of them that are disturbed
RESAMPLES: Final = 100


def encoder_of(name: str, weights: Path | None) -> Callable[[Tensor], Tensor]:
    """Means of an encoder's channels (B, F) of images (B, 3, 256, 256) in grey levels."""
    encoder = Encoder.load(FeatureSpec(encoder=name, grid=1), find_weights(name, weights).tensors)
    return lambda images: torch.cat([map_.flatten(1) for map_ in encoder(images)], dim=1)


def self_description(images: Tensor) -> Tensor:
    """(B, 49) weights of the best linear prediction of a pixel's luma from its 7 x 7 neighbourhood, and its log error.

    After FSD (Nguyen et al., CVPR 2025), which describes an image by the predictors that fit it best.
    """
    luma = luma_of(images)
    windows = functional.unfold(luma - luma.mean(dim=(2, 3), keepdim=True), 7)
    moments = (windows @ windows.mT / windows.shape[2]).double()
    others = [index for index in range(49) if index != 24]
    around = moments[:, others][:, :, others] + 0.1 * torch.eye(48, dtype=torch.float64)  # about the power of rounding
    weights = torch.linalg.solve(around, moments[:, others, 24])
    error = moments[:, 24, 24] - (weights * moments[:, others, 24]).sum(dim=1)
    return torch.cat([weights, error.clamp_min(1e-3).log()[:, None]], dim=1).float()


def encoders(options: argparse.Namespace) -> dict[str, Callable[[Tensor], Tensor]]:
    """Name -> features; the names of learned ones hold the digest of their weights, for the cache."""
    density = Density()
    density.load_state_dict(load_file(options.weights))
    digest = hashlib.sha256(options.weights.read_bytes()).hexdigest()[:8]
    found = {
        f"density-{digest}": lambda images: density.eval()(images).flatten(1),
        "forensic": encoder_of("forensic", None),
        "predictor": self_description,
    }
    if options.masked:
        masked = Masked()
        masked.load_state_dict(load_file(options.masked))
        found[f"masked-{hashlib.sha256(options.masked.read_bytes()).hexdigest()[:8]}"] = masked.eval()
    if options.encoder:
        found[options.encoder] = encoder_of(options.encoder, options.encoder_weights)
    return found


def groups(options: argparse.Namespace) -> dict[Key, tuple[list[Path], Callable[[Image.Image], Image.Image]]]:
    """Files of each group, and what happens to an image before the container."""
    files = {folder.name: files_in(folder, LIMIT) for folder in (*options.fit, *options.unseen, *options.fake)}
    found: dict[Key, tuple[list[Path], Callable[[Image.Image], Image.Image]]] = {}
    held = {folder.name: files[folder.name][:HELD_OUT] for folder in options.unseen}
    for folder in options.fit:
        own = files[folder.name]
        half, end = len(own) // 2, len(own) * 3 // 4
        found["fit", folder.name] = (own[:half], lambda image: image)
        found["calibration", folder.name] = (own[half:end], lambda image: image)
        held[folder.name] = own[end:][:HELD_OUT]
    patch_model = PatchModel([square(path) for folder in options.fit for path in files[folder.name][:20]])
    for kind, disturb in ({"real": lambda image: image} | disturbances(patch_model)).items():
        found |= {
            (kind, name): (own[: HELD_OUT if kind == "real" else DISTURBED], disturb) for name, own in held.items()
        }
    # A classifier learns what is disturbed from the reals that fit the other scores.
    for kind, disturb in disturbances(patch_model).items():
        found |= {(f"fit {kind}", f.name): (files[f.name][:DISTURBED], disturb) for f in options.fit}
    return found | {("fake", f.name): (files[f.name][:HELD_OUT], lambda image: image) for f in options.fake}


def all_features(options: argparse.Namespace) -> dict[str, dict[Key, Floats]]:
    """Features (N, F) by encoder (without digest) and group."""
    found: dict[str, dict[Key, Floats]] = {}
    options.cache.mkdir(exist_ok=True)
    chosen = encoders(options)
    for key, (files, disturb) in groups(options).items():
        read = cache(lambda files=files, disturb=disturb: [pixels_of(disturb(square(path))) for path in files])
        for name, encoder in chosen.items():
            kept = options.cache / f"{'.'.join((name, *key))}.npy".replace(":", "_").replace(" ", "_")
            if not kept.exists():
                parts = [torch.from_numpy(np.stack(read()[i : i + 8])) for i in range(0, len(files), 8)]
                with torch.inference_mode():
                    rows = [encoder(part.permute(0, 3, 1, 2).float()).numpy() for part in parts]
                half_written = kept.with_suffix(".part.npy")
                np.save(half_written, np.concatenate(rows))
                half_written.replace(kept)
            found.setdefault(name.split("-")[0], {})[key] = np.load(kept).astype(np.float64)
        print(*key, len(files), flush=True)
    return found


def joined(groups_: Mapping[Key, Floats], kind: str) -> Floats:
    """All groups of a kind."""
    return np.concatenate([values for (own, _), values in groups_.items() if own == kind])


def gaussian(features: Mapping[Key, Floats], dimensions: int) -> dict[Key, Floats]:
    """Mean squared deviation from the fitted reals along their largest components."""
    fitted = joined(features, "fit")
    mean, std = fitted.mean(axis=0), fitted.std(axis=0) + 1e-9
    standard = {key: ((values - mean) / std).clip(-8, 8) for key, values in features.items()}
    _, values, axes = np.linalg.svd(((fitted - mean) / std).clip(-8, 8), full_matrices=False)
    white = axes[:dimensions].T / values[:dimensions] * len(fitted) ** 0.5
    return {key: np.square(own @ white).mean(axis=1) for key, own in standard.items()}


def classifier(features: Mapping[Key, Floats]) -> dict[Key, Floats]:
    """Log odds of "disturbed", learned from fitted reals and the same after every disturbance."""
    reals = joined(features, "fit")
    disturbed = np.concatenate([values for (kind, _), values in features.items() if kind.startswith("fit ")])
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500, class_weight="balanced"))
    model.fit(np.concatenate([reals, disturbed]), np.repeat([0, 1], [len(reals), len(disturbed)]))
    return {key: model.decision_function(values) for key, values in features.items()}


def fisher(first: Mapping[Key, Floats], second: Mapping[Key, Floats]) -> dict[Key, Floats]:
    """Minus the logarithms of both upper-tail p-values against the calibration."""

    def surprise(scores: Mapping[Key, Floats], key: Key) -> Floats:
        known = joined(scores, "calibration")
        return -np.log((1 + (known >= scores[key][:, None]).sum(axis=1)) / (len(known) + 1))

    return {key: surprise(first, key) + surprise(second, key) for key in first}


def scores_of(features: Mapping[str, dict[Key, Floats]]) -> dict[str, dict[Key, Floats]]:
    """Scores by name and group; a higher score is less like a real."""
    density = features["density"]
    # The means are in the order level, detail, colour: luma is every third, and 6 the diagonal of the finest level.
    found = {
        "density: diagonals of the finest level, low tail": {key: -values[:, 6] for key, values in density.items()},
        "density: nine means of luma, Gaussian": gaussian({k: v[:, ::3] for k, v in density.items()}, 9),
        "density: classifier of disturbed reals": classifier(density),
        "forensic: Gaussian of 20": gaussian(features["forensic"], 20),
        "forensic: classifier of disturbed reals": classifier(features["forensic"]),
        "predictor: Gaussian of 20": gaussian(features["predictor"], 20),
        "predictor: classifier of disturbed reals": classifier(features["predictor"]),
    }
    if "masked" in features:
        gaps = {key: values[:, :3] for key, values in features["masked"].items()}
        found |= {
            "masked: flat content, low tail": {key: -values[:, 0] for key, values in gaps.items()},
            "masked: three kinds of content, Gaussian": gaussian(gaps, 3),
            "masked: last layer, Gaussian": gaussian({k: v[:, 3:] for k, v in features["masked"].items()}, 16),
            "masked: classifier of disturbed reals": classifier(features["masked"]),
        }
    for name in features.keys() - {"density", "forensic", "predictor", "masked"}:
        other = gaussian(features[name], 60)
        found[f"{name}: Gaussian of 60"] = other
        for own in list(found)[:2]:
            found[f"{name} and {own}, Fisher"] = fisher(other, found[own])
    return found


def auc(reals: Floats, others: Floats) -> float:
    """The probability that another image has the higher score."""
    ranks = rankdata(np.concatenate([reals, others]))[len(reals) :]
    return float((ranks.mean() - (len(others) + 1) / 2) / len(reals))


def macro(reals: Mapping[str, Floats], others: Mapping[str, Floats]) -> str:
    """Mean AUC over all pairs and its percentile interval; images are drawn anew within each group."""
    rng = np.random.default_rng(0)

    def mean(draw: Callable[[Floats], Floats]) -> float:
        drawn = [draw(values) for values in reals.values()]
        return float(np.mean([auc(real, draw(other)) for other in others.values() for real in drawn]))

    drawn = [mean(lambda values: rng.choice(values, len(values))) for _ in range(RESAMPLES)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return f"{mean(lambda values: values):.2f} [{low:.2f}, {high:.2f}]"


def share(scores: Mapping[str, Floats], threshold: float) -> str:
    """Flagged share with its exact interval, and the largest of any source."""
    above = {name: values > threshold for name, values in scores.items()}
    all_ = np.concatenate(list(above.values()))
    interval = clopper_pearson(int(all_.sum()), len(all_))
    low, high = interval.low, interval.high
    return f"{all_.mean():.2f} [{low:.2f}, {high:.2f}] of {len(all_)}, at most {max(map(np.mean, above.values())):.2f}"


def both_tails(scores: Mapping[Key, Floats]) -> dict[Key, Floats]:
    """How deep in the nearer tail of the calibration."""
    known = np.sort(joined(scores, "calibration"))

    def depth(values: Floats) -> Floats:
        above, below = len(known) - np.searchsorted(known, values), np.searchsorted(known, values, side="right")
        return -np.minimum(above, below).astype(np.float64)

    return {key: depth(values) for key, values in scores.items()}


def print_figures(scores: Mapping[Key, Floats], seen: list[str]) -> None:
    """What is measured of one score."""
    threshold = float(np.quantile(joined(scores, "calibration"), 1 - ALPHA))
    of = {kind: {name: own for (k, name), own in scores.items() if k == kind} for kind, _ in scores}
    both = both_tails(scores)
    two_sided = {name: both["fake", name] for name in of["fake"]}
    reals: dict[bool, dict[str, Floats]] = {False: {}, True: {}}
    for name, values in of["real"].items():
        reals[name in seen][name] = values
    for which, own in (("seen", reals[True]), ("unseen", reals[False])):
        print(f"  {which}: flagged reals {share(own, threshold)}")
        folded = macro({name: both["real", name] for name in own}, two_sided)
        print(f"    fakes: {macro(own, of['fake'])}, both tails {folded}")
        for kind in [kind for kind in of if kind not in ("real", "fake", "calibration") and not kind.startswith("fit")]:
            aucs = [auc(own[name][:DISTURBED], of[kind][name]) for name in own]
            print(f"    {kind}: {np.mean(aucs):.2f}, worst source {min(aucs):.2f}")
        for name, others in of["fake"].items():
            print(f"    {name}: {macro(own, {name: others})}, flagged {share({name: others}, threshold)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--masked", type=Path, help="weights of the second candidate")
    for option in ("--fit", "--unseen", "--fake"):
        parser.add_argument(option, type=Path, nargs="+", required=True)
    parser.add_argument("--cache", type=Path, required=True, help="folder of features")
    parser.add_argument("--encoder", help="another encoder to compare and combine with")
    parser.add_argument("--encoder-weights", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name, scores in scores_of(all_features(options)).items():
        print(name)
        print_figures(scores, [folder.name for folder in options.fit])


if __name__ == "__main__":
    main()
