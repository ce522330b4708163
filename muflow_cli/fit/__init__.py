"""`fit`: a folder of real faces -> a detector."""

from muflow_cli.fit.workflow import FitRequest, FitSummary, fit

__all__ = ["FitRequest", "FitSummary", "fit"]
