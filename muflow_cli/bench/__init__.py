"""`bench`: labelled pictures -> figures that do not flatter."""

from muflow_cli.bench.workflow import BenchRequest, BenchResult, bench

__all__ = ["BenchRequest", "BenchResult", "bench"]
