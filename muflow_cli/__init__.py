"""muflow: a detector of synthetic face images, trained on real faces only (µFlow, arXiv 2606.30528).

The public API: `import muflow_cli as muflow`, then `muflow.load`, `muflow.fit`, `muflow.calibrate`, `muflow.scan`,
`muflow.bench` and `Detector.score`. docs/api.md shows all of it with examples. Everything is imported when it is first
used, so that `import muflow_cli` loads neither torch nor scikit-learn.

Shape legend used in every docstring: B images, V views, C channels, H W height and width, D dimensions, K mixture
components, S columns, N images per average, M averages, P grid positions.
"""

import sys
from importlib import import_module
from types import ModuleType

# Not typing's, whose import takes longer than all that happens before the command `muflow` can catch a signal.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from muflow_cli.api import bench, calibrate, fit, scan
    from muflow_cli.bundle import load, save
    from muflow_cli.detector import Detector
    from muflow_cli.errors import MuflowError
    from muflow_cli.records import (
        FaceScore,
        Facts,
        Judgement,
        NoFace,
        Result,
        Scored,
        Side,
        Unjudged,
        Unreadable,
        Verdict,
    )
    from muflow_cli.run_records import Shift
    from muflow_cli.run_specs import Atypical, Backend, ClipSpec, Damaged, InputSpec, OnNoFace, Precision, Runtime
    from muflow_cli.specs import ContainerSpec, FaceSpec

__version__ = "0.2.0"

__all__ = [
    "Atypical",
    "Backend",
    "ClipSpec",
    "ContainerSpec",
    "Damaged",
    "Detector",
    "FaceScore",
    "FaceSpec",
    "Facts",
    "InputSpec",
    "Judgement",
    "MuflowError",
    "NoFace",
    "OnNoFace",
    "Precision",
    "Result",
    "Runtime",
    "Scored",
    "Shift",
    "Side",
    "Unjudged",
    "Unreadable",
    "Verdict",
    "__version__",
    "bench",
    "calibrate",
    "fit",
    "load",
    "save",
    "scan",
]

_HOMES = {
    **dict.fromkeys(("bench", "calibrate", "fit", "scan"), "api"),
    **dict.fromkeys(("load", "save"), "bundle"),
    "Detector": "detector",
    "MuflowError": "errors",
    **dict.fromkeys(("FaceScore", "Facts", "Judgement", "NoFace", "Result"), "records"),
    **dict.fromkeys(("Scored", "Side", "Unjudged", "Unreadable", "Verdict"), "records"),
    "Shift": "run_records",
    **dict.fromkeys(("Atypical", "Backend", "ClipSpec", "Damaged", "InputSpec", "OnNoFace"), "run_specs"),
    **dict.fromkeys(("Precision", "Runtime"), "run_specs"),
    **dict.fromkeys(("ContainerSpec", "FaceSpec"), "specs"),
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


class _Package(ModuleType):
    """This package, whose functions `fit`, `calibrate`, `scan` and `bench` are called as their folders are.

    Python binds a folder's module to its name when something in it is imported; the function keeps the name here.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if name not in _HOMES or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
