"""Time of the stratified bootstrap (1,000 resamples of 10,000 scores) beside a loop over scikit-learn, on one core."""

from __future__ import annotations

import argparse
import time

import numpy as np
from sklearn.metrics import roc_auc_score

from muflow_cli.bench.intervals import BootstrapSpec, percentile_interval, resample
from muflow_cli.bench.metrics import RANKING_METRICS, auc


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    rng = np.random.default_rng(0)
    reals, fakes = rng.normal(0, 1, 5000), rng.normal(0.5, 1, 5000)
    for name, metrics in (("auc", {"auc": auc}), ("all five metrics", RANKING_METRICS)):
        started = time.process_time()
        drawn = resample(reals, {"fakes": fakes}, BootstrapSpec(), metrics)["fakes"]["auc"]
        print(f"{name:18} {time.process_time() - started:6.2f} s   {percentile_interval(drawn)}")
    started = time.process_time()
    labels = np.arange(10_000) >= 5000
    for _ in range(100):
        scores = np.concatenate([rng.choice(reals, 5000), rng.choice(fakes, 5000)])
        roc_auc_score(labels, scores)
    print(f"{'scikit-learn loop':18} {10 * (time.process_time() - started):6.2f} s   (100 resamples, times 10)")


if __name__ == "__main__":
    main()
