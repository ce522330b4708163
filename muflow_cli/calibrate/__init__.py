"""`calibrate`: the user's own reals -> another threshold for the same detector."""

from muflow_cli.calibrate.workflow import CalibrateRequest, CalibrateSummary, calibrate

__all__ = ["CalibrateRequest", "CalibrateSummary", "calibrate"]
