"""`bench`: labelled images -> figures that do not flatter the detector."""

from muflow_cli.bench.workflow import BenchRequest, BenchResult, bench

__all__ = ["BenchRequest", "BenchResult", "bench"]
