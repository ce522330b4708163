"""False positives on unseen real sources, and AUC, of flows that were stopped and sized in different ways.

Every image goes through one container (resized to a square, JPEG) and is encoded once. Detectors are fitted to the
sources in --real. The sources in --unseen take no part in fitting; neither do fakes, which are only scored at the end.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from muflow_cli.bench.intervals import clopper_pearson
from muflow_cli.bench.metrics import auc, count
from muflow_cli.calibration.pvalues import mean_scores
from muflow_cli.calibration.rules import Conformal
from muflow_cli.canonical import to_json
from muflow_cli.engine.branch import Encoder, Head
from muflow_cli.engine.devices import place
from muflow_cli.engine.encoding import PlacedEncoder
from muflow_cli.engine.projection import Projection, fit_projection
from muflow_cli.engine.train_state import TrainHooks
from muflow_cli.engine.training import train
from muflow_cli.engine.weights import find_weights
from muflow_cli.fit.features import encode
from muflow_cli.fit.selection import Chosen, Rounds, select
from muflow_cli.fit.sources import Fold, rounds_of
from muflow_cli.fit.split import Split, split
from muflow_cli.fit.store import Store, build_store
from muflow_cli.fit.targets import Averaging, Targets, mu_targets
from muflow_cli.fit.work import Work
from muflow_cli.images.find import find_each
from muflow_cli.images.inputs import Input
from muflow_cli.images.loader import LoadSpec, load
from muflow_cli.images.near import near_duplicate_groups
from muflow_cli.presets import LIGHT
from muflow_cli.progress import NoProgress
from muflow_cli.records import Unreadable
from muflow_cli.run_specs import InputSpec, Runtime
from muflow_cli.settings import override
from muflow_cli.specs import DetectorSpec, RuleSpec

# Name -> settings of flow and training that differ from 8 steps and 120 epochs.
WAYS = {
    "8 steps, 120 epochs": ("train.selection=held-out", "train.stop_patience=1000000"),
    "8 steps, 600 epochs": ("train.selection=held-out", "train.stop_patience=1000000", "train.epochs=600"),
    "chosen by left-out sources": ("train.selection=sources",),
    "the prior": ("train.selection=prior",),
    "2 steps, 120 epochs": ("train.selection=held-out", "train.stop_patience=1000000", "flow.steps=2"),
    "volume-preserving, 8 steps": (
        "train.selection=held-out",
        "train.stop_patience=1000000",
        "flow.volume_preserving=true",
    ),
    "penalised, 8 steps": ("train.selection=held-out", "train.stop_patience=1000000", "flow.spectral_penalty=0.01"),
    "identity": ("train.selection=held-out", "flow.steps=0"),
}


@dataclass(frozen=True, slots=True)
class Images:
    """Every image in one store, by folder, and how the reals that are fitted to are dealt."""

    store: Store
    group_of: list[str]
    seen: frozenset[str]
    parts: Split
    made: tuple[Fold, ...]


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--real", nargs="+", required=True, help="folders of real faces to fit to")
    parser.add_argument("--unseen", nargs="+", default=[], help="folders of real faces of other sources")
    parser.add_argument("--fake", nargs="*", default=[], help="folders of fakes, one for each generator")
    parser.add_argument("--most", type=int, default=300, help="images of a folder")
    parser.add_argument("--held-back", type=float, default=0.25, help="share of --real that is only measured")
    parser.add_argument("--quality", type=int, default=90, help="of the JPEG that every image becomes")
    parser.add_argument("--ways", nargs="*", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--encoder", default="resnet50")
    parser.add_argument("--encoder-weights", type=Path)
    parser.add_argument("--set", nargs="*", default=[], dest="settings", help="as `muflow fit --set` takes them")
    return parser.parse_args()


def in_one_container(image: Image.Image, side: int, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.convert("RGB").resize((side, side), Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def read(given: argparse.Namespace, spec: DetectorSpec, folder: Path) -> Images:
    branch = spec.branches[0]
    arguments = [*given.real, *given.unseen, *given.fake]
    found: list[tuple[str, Input | Unreadable]] = []
    for argument in arguments:
        found += list(find_each([argument], InputSpec()))[: given.most]
    load_spec = LoadSpec(
        views={branch.name: branch.view},
        inputs=InputSpec(),
        workers=1,
        ahead=32,
        transform=lambda image: in_one_container(image, branch.view.size, given.quality),
    )
    sources = {item.path: argument for argument, item in found}
    loaded = load([item for _, item in found], load_spec)
    store = build_store(loaded, folder, {branch.name: branch.view.size}, sources=sources, allow_declared=True)
    group_of = [entry.source for entry in store.entries]
    seen = frozenset(given.real)
    every = near_duplicate_groups([entry.near_hash for entry in store.entries])
    first: dict[int, str] = {}
    for entry, group in zip(store.entries, every.tolist(), strict=True):
        first[group] = min(entry.facts.sha256, first.get(group, entry.facts.sha256))
    # Near copies stay on one side, by the smallest content hash of theirs.
    back = {group for group, digest in first.items() if int(digest[:8], 16) < given.held_back * 2**32}
    fitted = [index for index, source in enumerate(group_of) if source in seen and int(every[index]) not in back]
    groups = every[fitted]
    digests = [store.entries[index].facts.sha256 for index in fitted]
    dealt = split(digests, groups, spec.train)
    parts = Split(*(tuple(fitted[i] for i in part) for part in (dealt.train, dealt.validation, dealt.calibration)))
    in_parts = rounds_of(
        [group_of[index] for index in fitted], groups, digests, [*dealt.train, *dealt.validation], spec.train
    )
    made = tuple(Fold(fold.names, tuple(fitted[i] for i in fold.images)) for fold in in_parts)
    return Images(store, group_of, seen, parts, made)


class Bench:
    """What all ways share: features, projections and targets."""

    def __init__(self, given: argparse.Namespace, spec: DetectorSpec, folder: Path) -> None:
        self.images, self.branch, self.work = read(given, spec, folder), spec.branches[0], Work(folder)
        placement = place(Runtime())
        weights = find_weights(self.branch.feature.encoder, given.encoder_weights)
        self.encoder = PlacedEncoder(Encoder.load(self.branch.feature, weights.tensors), placement)
        parts, store = self.images.parts, self.images.store
        # The rounds of leaving out need the training reals first, then the held-out ones.
        first = [*parts.train, *parts.validation]
        self.order = first + [index for index in range(len(store.entries)) if index not in set(first)]
        views = store.views[self.branch.name]
        self.pooled = encode(self.encoder, views, store.rows(self.branch.name, self.order), self.work, NoProgress())
        count_ = len(parts.train)
        self.projections = [
            fit_projection([torch.from_numpy(np.array(map_[:count_]))], self.branch.feature) for map_ in self.pooled
        ]
        averaging = Averaging(
            views=views,
            rows=[store.entries[index].first[self.branch.name] for index in parts.train],
            target=self.branch.target,
            seed=spec.train.seed,
        )
        self.targets: Targets = mu_targets(averaging, self.encoder, self.projections, NoProgress())

    def layers(self) -> Iterator[tuple[Projection, NDArray[np.generic]]]:
        return zip(self.projections, self.pooled, strict=True)

    def chosen(self, spec: DetectorSpec) -> Chosen:
        branch = spec.branches[0]
        return select(
            Rounds(
                branch=branch,
                train=spec.train,
                store=self.images.store,
                parts=self.images.parts,
                folds=self.images.made,
                encoder=self.encoder,
                pooled=self.pooled,
                work=self.work,
                progress=NoProgress(),
            )
        )

    @torch.inference_mode()
    def scored(self, flows: Sequence[torch.nn.Module]) -> NDArray[np.float64]:
        """(images, layers) scores, in the order of the store."""
        columns = []
        for map_, projection, flow, mixture in zip(
            self.pooled, self.projections, flows, self.targets.mixtures, strict=True
        ):
            head = Head(projection, flow, mixture, self.branch.target.score_kind)
            parts = [head(torch.from_numpy(np.array(map_[i : i + 256]))) for i in range(0, len(map_), 256)]
            columns.append(torch.cat(parts).mean(dim=(1, 2)).double().numpy())
        in_order = np.empty((len(self.order), len(columns)))
        in_order[self.order] = np.stack(columns, axis=1)
        return in_order

    def fitted(self, spec: DetectorSpec) -> tuple[NDArray[np.float64], dict[str, object]]:
        start = time.process_time()
        chosen = self.chosen(spec)
        spent = time.process_time() - start
        many = len(self.images.parts.train), len(self.images.parts.validation)
        with torch.inference_mode():
            vectors = [p(torch.from_numpy(np.array(m[: sum(many)]))) for p, m in self.layers()]
        features = [v.clone().split(many) for v in vectors]
        start = time.process_time()
        trained = train(
            [f[0] for f in features],
            [f[1] for f in features],
            self.targets.mixtures,
            chosen.branch.flow,
            chosen.train,
            hooks=TrainHooks(),
        )
        facts: dict[str, object] = {
            "steps": chosen.branch.flow.steps,
            "epochs": trained.epochs,
            "best": trained.best_epoch,
            "validation_nll": round(trained.validation_nll, 4),
            "select_seconds": round(spent, 1),
            "train_seconds": round(time.process_time() - start, 1),
        }
        return self.scored(trained.flows), facts


def figures(images: Images, scores: NDArray[np.float64], fakes: Sequence[str], rule: RuleSpec) -> dict[str, object]:
    """Rates of flagged reals with 95 % intervals, and AUC of each generator, one- and two-sided, by kind of reals."""
    calibration = list(images.parts.calibration)
    used = {*images.parts.train, *images.parts.validation, *calibration}
    judged = Conformal.fit(scores[calibration], rule).judge(scores)
    one, two = mean_scores(scores), -judged.p_value
    rows = {
        name: [i for i, group in enumerate(images.group_of) if group == name and i not in used]
        for name in dict.fromkeys(images.group_of)
    }
    found: dict[str, object] = {}
    for kind in ("seen", "unseen"):
        sources = [n for n in rows if n not in fakes and (n in images.seen) == (kind == "seen") and len(rows[n]) > 9]
        rates = {n: float(judged.flagged[rows[n]].mean()) for n in sources}
        flagged, number = sum(int(judged.flagged[rows[n]].sum()) for n in sources), sum(len(rows[n]) for n in sources)
        found[kind] = {
            "images": number,
            "rate": rates and float(np.mean(list(rates.values()))),
            "interval": number and to_json(clopper_pearson(flagged, number)),
            "rates": {Path(name).name: round(rate, 3) for name, rate in rates.items()},
            "auc": {
                name: {
                    Path(fake).name: round(
                        float(np.mean([_auc(values[rows[source]], values[rows[fake]]) for source in sources])), 3
                    )
                    for fake in fakes
                }
                for name, values in (("upper", one), ("two-sided", two))
            }
            if sources
            else {},
        }
    return found


def _auc(reals: NDArray[np.float64], fakes: NDArray[np.float64]) -> float:
    labels = np.r_[np.zeros(len(reals), bool), np.ones(len(fakes), bool)]
    return float(auc(count(np.r_[reals, fakes], labels)))


def ways(given: argparse.Namespace, spec: DetectorSpec) -> Iterator[tuple[str, DetectorSpec]]:
    for name in given.ways:
        yield name, override(spec, WAYS[name])


def main() -> None:
    given = options()
    torch.set_num_threads(1)
    spec = override(LIGHT, [f"feature.encoder={given.encoder}", *given.settings])
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(given, spec, Path(folder))
        for name, way in ways(given, spec):
            scores, facts = bench.fitted(way)
            print(
                json.dumps({"way": name, **facts, **figures(bench.images, scores, given.fake, spec.rule)}), flush=True
            )


if __name__ == "__main__":
    main()
