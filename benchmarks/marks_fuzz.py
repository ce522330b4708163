"""Read the marks of mutated files in one process: no crash, no hang, flat memory; with the extra c2pa, its library too.

    python tests/marked_files.py FOLDER; python benchmarks/marks_fuzz.py FOLDER [--files 3000]

FOLDER holds files with marks; the mutations are those of mutations.py.
"""

from __future__ import annotations

import argparse
import collections
import resource
import sys
import time
from pathlib import Path

import numpy as np
from mutations import mutate
from PIL import Image

from muflow_cli.images.marks import read_marks
from muflow_cli.images.thumbnails import thumbnail_mark


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="files with marks")
    parser.add_argument("--files", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=2.0, help="seconds that one file may take")
    options = parser.parse_args()
    generator = np.random.default_rng(options.seed)
    seeds = [file.read_bytes() for file in sorted(options.folder.iterdir()) if file.suffix != ".csv"]
    image = Image.radial_gradient("L").convert("RGB")
    counts: collections.Counter[str] = collections.Counter()
    slowest, peaks = 0.0, []
    for index in range(options.files):
        data = mutate(seeds[index % len(seeds)], seeds, generator)
        begun = time.process_time()
        declared = read_marks(data)
        thumbnail_mark(data, image)
        slowest = max(slowest, time.process_time() - begun)
        counts.update([declared.origin.value, *(f"{mark.kind} {mark.trust}" for mark in declared.marks)])
        if index % (options.files // 10 or 1) == 0:
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
    print(f"{options.files} files, slowest {slowest * 1e3:.0f} ms, peak memory over the run in MiB {peaks}")
    print(", ".join(f"{count} {name}" for name, count in counts.most_common()))
    sys.exit(1 if slowest > options.limit else 0)


if __name__ == "__main__":
    main()
