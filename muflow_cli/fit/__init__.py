"""`fit`: a folder of real faces -> a detector that can scan."""

from muflow_cli.fit.workflow import FitRequest, FitSummary, fit

__all__ = ["FitRequest", "FitSummary", "fit"]
