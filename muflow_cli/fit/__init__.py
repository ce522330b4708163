"""`fit`: a folder of real faces -> a detector."""

from muflow_cli.fit.records import FitRequest, FitSummary
from muflow_cli.fit.workflow import fit

__all__ = ["FitRequest", "FitSummary", "fit"]
