"""Frozen settings of a run, which no detector holds: which files are read, and where to compute."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from muflow_cli.bounds import between
from muflow_cli.errors import BadSpec
from muflow_cli.records import Verdict
from muflow_cli.system import processors

_LONGEST_NAME: Final = 200

# With more cores than these, threads that decode wait for Python's lock; with fewer, scoring is what a scan waits for.
_THREADS_SUFFICE: Final = 4

# A clip of any length gives at most so many frames, which bounds the memory that its views take.
MOST_FRAMES: Final = 1000


class Precision(StrEnum):
    """Arithmetic of the convolutions; densities and log-determinants are float32 whatever this says."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"


class Backend(StrEnum):
    """The library that computes the scores; all but torch come with extras and compute on processors, in fp32.

    `auto`: in `muflow scan` ONNX Runtime where it was measured to be faster (`agreement.fastest`); elsewhere torch.
    """

    AUTO = "auto"
    TORCH = "torch"
    ONNXRUNTIME = "onnxruntime"
    OPENVINO = "openvino"


class Damaged(StrEnum):
    """What becomes of an image whose coded data is damaged or cut but can be decoded.

    `refuse`: one error record, unless a part of the last row of blocks is all that is missing. `score`: a score that is
    marked as that of a damaged image.
    """

    REFUSE = "refuse"
    SCORE = "score"


class OnNoFace(StrEnum):
    """What becomes of an image without a face, where a detector looks for faces.

    `report`: a result with the verdict `no_face`. `whole`: the whole image is scored as if it were a face. `skip`: it
    is counted, and has no result.
    """

    REPORT = "report"
    WHOLE = "whole"
    SKIP = "skip"


class Atypical(StrEnum):
    """What the verdict on an image, or face, outside the ranges of the calibration images is.

    `flag`: it is flagged, whatever its score. `inconclusive`: that verdict, since nothing is promised for such images.
    `report`: the verdict that any other would have; the result names the facts in all three cases.
    """

    FLAG = "flag"
    INCONCLUSIVE = "inconclusive"
    REPORT = "report"

    def verdict(self, own: Verdict, atypical_input: Collection[str]) -> Verdict:
        """The verdict on what the rule would judge as `own`, given the names of its facts outside the ranges."""
        if not atypical_input or self is Atypical.REPORT:
            return own
        return Verdict.FLAGGED if self is Atypical.FLAG else Verdict.INCONCLUSIVE


@dataclass(frozen=True, kw_only=True, slots=True)
class Runtime:
    """Where and how fast to compute; no score depends on it but for rounding.

    Attributes:
        device: auto (a CUDA device if there is one), cpu, cuda or cuda:N.
        precision: arithmetic of the convolutions.
        batch_size: views per batch; 0 = the device's own.
        workers: threads or processes that decode; 0 = one per core.
        backend: the library that computes; fitting always computes with torch.
        processes: decode in processes; None = where there are more than 4 cores.
    """

    device: str = "auto"
    precision: Precision = Precision.AUTO
    batch_size: int = 0
    workers: int = 0
    backend: Backend = Backend.TORCH
    processes: bool | None = None

    def __post_init__(self) -> None:
        between(self, 0, 1_000_000, "batch_size")
        between(self, 0, 1024, "workers")

    @property
    def threads(self) -> int:
        """Number of threads or processes that decode, at least 1."""
        return self.workers or processors()

    @property
    def decodes_in_processes(self) -> bool:
        """Whether images are decoded in processes of their own."""
        return processors() > _THREADS_SUFFICE if self.processes is None else self.processes


@dataclass(frozen=True, kw_only=True, slots=True)
class Custody:
    """What a report says of the case it belongs to; no result depends on it.

    Attributes:
        case: number or name of the case, at most 200 printable characters.
        examiner: who runs the scan, likewise.
    """

    case: str | None = None
    examiner: str | None = None

    def __post_init__(self) -> None:
        for name in ("case", "examiner"):
            value = getattr(self, name)
            if value is not None and not (value.strip() and value.isprintable() and len(value) <= _LONGEST_NAME):
                raise BadSpec(f"--{name}", ascii(value), f"1 to {_LONGEST_NAME} printable characters")


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipSpec:
    """Which frames of a clip are looked at.

    Attributes:
        frames: number of frames, spread evenly over the clip.
        every: seconds between two frames instead, as many frames as that gives; 0 = `frames` decides.
        seed: with the content hash, decides where in its part of the clip each frame lies.
        animations: also treat a GIF as a clip, which otherwise is its first frame.
        max_bytes: a larger file is one error record, unread; a clip is hashed whole and read in parts.
    """

    frames: int = 16
    every: float = 0.0
    seed: int = 0
    animations: bool = False
    max_bytes: int = 64 * 2**30

    def __post_init__(self) -> None:
        between(self, 1, MOST_FRAMES, "frames")
        between(self, 0, 86_400, "every")
        between(self, 1, 2**60, "max_bytes")
        between(self, 0, 2**63 - 1, "seed")


@dataclass(frozen=True, kw_only=True, slots=True)
class InputSpec:
    """Which files are read, and how much of them.

    Attributes:
        exclude: glob patterns on the path as given or on any part of it.
        hidden: also names that begin with a dot.
        follow_links: enter directories and files behind symbolic links inside a folder.
        max_bytes: a larger file is one error record, unread.
        max_pixels: an image with more pixels is one error record, undecoded.
        damaged: what becomes of images whose coded data is damaged or cut.
        c2pa_anchors: certificates (PEM) that may vouch for the signer of a C2PA manifest; None = none may.
        max_seconds: an image whose decoding takes more processor time, or four times as long on a busy machine, is one
            error record, where it is decoded in a process of its own; a thread decodes only what takes a few seconds.
        archives: also read the members of archives inside folders; an archive that is named is always opened.
        max_faces: faces of one image that are scored, the largest first, where a detector looks for faces.
        on_no_face: what becomes of an image without a face that can be scored.
        face_model: path of the model file, for a detector of faces that needs one.
        all_frames: every frame of an animation and every page of a document is an input, not the first alone.
        embedded_video: the video inside a motion photo is an input beside the photo, where clips are read.
        clips: which frames of a clip are looked at; None = clips are not read: in folders they are no inputs, and one
            that is named is an error record.
    """

    exclude: tuple[str, ...] = ()
    hidden: bool = False
    follow_links: bool = False
    max_bytes: int = 256 * 2**20
    max_pixels: int = 100_000_000
    damaged: Damaged = Damaged.REFUSE
    c2pa_anchors: str | None = None
    max_seconds: float = 30.0
    archives: bool = True
    max_faces: int = 20
    on_no_face: OnNoFace = OnNoFace.REPORT
    face_model: str | None = None
    all_frames: bool = False
    embedded_video: bool = False
    clips: ClipSpec | None = None

    def __post_init__(self) -> None:
        between(self, 1, 2**60, "max_bytes", "max_pixels")
        between(self, 0.001, 86_400, "max_seconds")
        between(self, 1, 1000, "max_faces")
