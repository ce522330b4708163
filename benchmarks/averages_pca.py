"""Draw averages of real and synthetic faces in the plane of their two main directions, for several N, as one SVG.

    python benchmarks/averages_pca.py DETECTOR -o averages.svg --real DIR... --fake DIR... --sizes 1,16,256

Every image is read as the detector reads it (container, view), and the features of its first branch's last layer, means
over positions, are those of the averages themselves (Pontorno et al. 2026, Fig. 2). Each panel has directions of its
own, taken from all its points. A generator that forms a cloud of its own as N grows shares something that averaging
does not remove.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.metrics import silhouette_score

from muflow_cli.bundle import load
from muflow_cli.engine.averaging import average, draw_members
from muflow_cli.engine.devices import place
from muflow_cli.images.find import find
from muflow_cli.images.loader import Loaded
from muflow_cli.images.loader import load as load_images
from muflow_cli.run_specs import InputSpec, Runtime

REALS = ("#0b6", "#27c", "#084", "#59d", "#063", "#9bf")
FAKES = ("#e80", "#a0a", "#f6a", "#c33", "#850", "#f66")
SIDE = 320


def views_of(folder: Path, detector_path: Path, most: int) -> torch.Tensor:
    """(n, 3, H, W) uint8 views of the first branch of at most `most` images."""
    detector = load(detector_path)
    spec = detector.load_spec(InputSpec(), Runtime(workers=1), place(Runtime(device="cpu")))
    name = next(iter(detector.branches))
    views: list[NDArray[np.uint8]] = []
    for item in load_images(find([str(folder)], InputSpec()), spec):
        if isinstance(item, Loaded) and len(views) < most:
            views.append(item.views[name][0])
    return torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2)


@torch.inference_mode()
def features(detector_path: Path, images: torch.Tensor, size: int, count: int) -> NDArray[np.float64]:
    """(count, C) means over positions of the last layer, of `count` averages of `size` images."""
    detector = load(detector_path)
    encoder = next(iter(detector.branches.values())).encoder
    members = draw_members(len(images), count, size, torch.Generator().manual_seed(size))
    averages = average(images.split(64), members, len(images))
    maps = [encoder.layer_maps(part)[-1] for part in averages.split(8)]
    return torch.cat(maps).mean(dim=(2, 3)).double().numpy()


def colours(names: list[str], fakes: set[str]) -> dict[str, str]:
    """Folder -> colour, cold for reals and warm for fakes."""
    reals = [name for name in names if name not in fakes]
    synthetic = [name for name in names if name in fakes]
    return {name: REALS[i % len(REALS)] for i, name in enumerate(reals)} | {
        name: FAKES[i % len(FAKES)] for i, name in enumerate(synthetic)
    }


def panel(points: dict[str, NDArray[np.float64]], fakes: set[str], left: int, title: str) -> str:
    """A scatter plot as SVG; circles are reals, crosses fakes."""
    names = [name for name, rows in points.items() for _ in rows]
    rows = np.concatenate(list(points.values()))
    rows = (rows - rows.mean(0)) / (rows.std(0) + 1e-9)
    plane = PCA(2, svd_solver="full").fit_transform(rows)
    low, high = plane.min(0), plane.max(0)
    palette = colours(list(points), fakes)
    place_ = 20 + (SIDE - 40) * (plane - low) / (high - low)
    marks = [f'<text x="{left + 10}" y="14">{title}, silhouette {silhouette_score(rows, names):.2f}</text>']
    for (across, up), name in zip(place_, names, strict=True):
        colour, x, y = palette[name], left + across, SIDE - up + 20
        shape = f'<path d="M{x - 3:.1f} {y - 3:.1f}l6 6m0-6l-6 6" stroke="{colour}"/>'
        marks.append(shape if name in fakes else f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>')
    return "".join(marks)


def main() -> None:
    """Read, average, encode and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("detector", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--real", nargs="+", type=Path, required=True)
    parser.add_argument("--fake", nargs="+", type=Path, required=True)
    parser.add_argument("--sizes", default="1,16,64")
    parser.add_argument("--count", type=int, default=30, help="averages per folder and size")
    parser.add_argument("--most", type=int, default=150, help="images per folder")
    options = parser.parse_args()
    sizes = [int(size) for size in options.sizes.split(",")]
    images = {path.name: views_of(path, options.detector, options.most) for path in [*options.real, *options.fake]}
    fakes = {path.name for path in options.fake}
    panels = []
    for number, size in enumerate(sizes):
        points = {
            name: features(options.detector, views, size, options.count)
            for name, views in images.items()
            if len(views) >= size
        }
        panels.append(panel(points, fakes, number * SIDE, f"N = {size}"))
    palette = colours(list(images), fakes)
    legend = "".join(
        f'<text x="{10 + 160 * (i % 6)}" y="{SIDE + 40 + 16 * (i // 6)}" fill="{palette[name]}">'
        f"{'x' if name in fakes else 'o'} {name}</text>"
        for i, name in enumerate(images)
    )
    width, height = SIDE * len(sizes), SIDE + 70
    options.output.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        f'font-size="11" fill="none"><rect width="{width}" height="{height}" fill="white"/><g fill="#222">'
        f"{''.join(panels)}{legend}</g></svg>\n"
    )


if __name__ == "__main__":
    main()
