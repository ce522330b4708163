"""Errors that a user can solve: one small tree. Each has a problem and a remedy; the CLI catches the base once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


class MuflowError(Exception):
    """Base of every error that is the input's fault: printed as one sentence, exit status 2.

    Attributes:
        problem: what is wrong, and where.
        remedy: what to do about it; empty where the problem says it.
    """

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(f"{problem}: {remedy}" if remedy else problem)
        self.problem = problem
        self.remedy = remedy

    def naming(self, problem: str) -> MuflowError:
        """An error of this class with this remedy and another problem."""
        return _unpickled(type(self), problem, self.remedy)

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the two texts, since a subclass is made from other arguments; a pool of processes needs it."""
        return _unpickled, (type(self), self.problem, self.remedy)


def _unpickled(kind: type[MuflowError], problem: str, remedy: str) -> MuflowError:
    error = kind.__new__(kind)
    MuflowError.__init__(error, problem, remedy)
    return error


class BadSpec(MuflowError):
    """A setting outside its range; `needed` completes "use ...", as in "at least 1"."""

    def __init__(self, name: str, value: object, needed: str) -> None:
        super().__init__(f"{name} is {value}", f"use {needed}")


class IncompatibleOptions(MuflowError):
    """Two options of the command line that cannot be combined, or one that needs another."""

    def __init__(self, option: str, other: str, why: str, *, needs: bool = False) -> None:
        relation = "needs" if needs else "cannot be combined with"
        super().__init__(f"{option} {relation} {other}, because {why}")


class BadBundle(MuflowError):
    """A detector file that cannot be used: truncated, foreign, newer or inconsistent."""

    def __init__(self, path: str, what: str, remedy: str) -> None:
        super().__init__(f"{path} {what}", remedy)


class BadWeights(MuflowError):
    """An encoder weights file that does not fit the encoder."""


class TooFewImages(MuflowError):
    """Not enough real images for a step."""

    def __init__(self, purpose: str, count: int, needed: int, why: str, remedy: str = "add images") -> None:
        super().__init__(f"{purpose} needs at least {needed} real images ({why}), found {count}", remedy)


class TooFewToAdapt(MuflowError):
    """Not enough real images to adapt a detector to, and to calibrate it on.

    Args:
        found: distinct images that may be used.
        adapt: fewest to adapt to.
        calibrate: fewest that the rule needs besides; 0 where other images calibrate.
        left_out: reason -> number of images that may not be used.
    """

    def __init__(self, found: int, adapt: int, calibrate: int, left_out: Mapping[str, int]) -> None:
        also = f" and {calibrate} to calibrate" if calibrate else ""
        reasons = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in left_out.items() if count)
        without = f" (left out: {reasons})" if reasons else ""
        remedy = "add images, or give others to calibrate on as REAL" if calibrate else "add images"
        super().__init__(f"--adapt needs {adapt} real images to adapt to{also}, found {found}{without}", remedy)


class CannotAdapt(MuflowError):
    """A detector that does not say what its training reals were like.

    Args:
        branch: whose projection holds no moments.
    """

    def __init__(self, branch: str) -> None:
        super().__init__(
            f"the detector cannot be adapted, because its branch {branch} holds no moments of the training reals",
            "fit it again with this version, or calibrate it without --adapt",
        )


class TooFewScores(MuflowError):
    """Not enough scores of real images for a rule.

    Args:
        purpose: what needs them.
        count: found.
        needed: at least.
        alpha: the least rate that so many allow; None where that is not what is missing.
    """

    def __init__(self, purpose: str, count: int, needed: int, alpha: float | None = None) -> None:
        lower = "" if alpha is None else f", or use --alpha {alpha:g}, the least that {count} allow"
        super().__init__(
            f"{purpose} needs scores of at least {needed} real images, found {count}", f"add images{lower}"
        )


class NoFeatures(MuflowError):
    """A batch cannot be compared with a calibration without features."""

    def __init__(self) -> None:
        super().__init__(
            "the detector holds no features of its calibration images, so --adaptive and --groups have nothing to "
            "compare with",
            "calibrate it again without --no-features (muflow calibrate DETECTOR REAL... -o NEW)",
        )


class TooFewForRate(MuflowError):
    """An adaptive run that could never flag an image.

    Args:
        fdr: false discovery rate.
        count: number of calibration images.
        needed: least number of them.
    """

    def __init__(self, fdr: float, count: int, needed: int) -> None:
        many = str(needed) if needed < 10**9 else "a billion"
        super().__init__(
            f"--adaptive at a false discovery rate of {fdr:g} needs at least {many} calibration images, and the "
            f"detector has {count}",
            f"calibrate it with more real images, or give a rate of at least 1/{count // 2 + 1}",
        )


class CannotReweight(MuflowError):
    """A detector whose p-values cannot be weighted."""

    def __init__(self, why: str, remedy: str) -> None:
        super().__init__(f"--reweight cannot be used with this detector, because {why}", remedy)


class FeaturesDiffer(MuflowError):
    """A batch cannot be compared with features that were computed otherwise.

    Args:
        stored: device and precision of the calibration.
        now: those of this run.
        precision: of the calibration.
    """

    def __init__(self, stored: str, now: str, precision: str) -> None:
        super().__init__(
            f"the features of the calibration were computed on {stored}, but this run computes on {now}, and the "
            "difference would count as evidence",
            f"compute on such a device with --precision {precision}, or calibrate the detector on this one",
        )


class ScoresDiffer(MuflowError):
    """A run with --strict that computes other scores than the calibration holds, or cannot know."""

    def __init__(self, why: str) -> None:
        super().__init__(
            f"--strict cannot be met, because {why}",
            "compute as the detector was calibrated, or calibrate it here with muflow calibrate DETECTOR REAL...",
        )


class BadCalibration(MuflowError):
    """Calibration scores that cannot be used."""

    def __init__(self, what: str) -> None:
        super().__init__(f"the calibration {what}", "calibrate the detector again")


class OutputExists(MuflowError):
    """An output file that is already there."""

    def __init__(self, path: str) -> None:
        super().__init__(f"{path} exists", "choose another name, or replace it with --force")


class OutputIsInput(MuflowError):
    """An output that would replace a file which the run reads."""

    def __init__(self, output: str, source: str) -> None:
        also = "" if output == source else f", also named {source}"
        super().__init__(f"the output {output} is an input of this run{also}", "choose another name for the output")


class CannotWrite(MuflowError):
    """An output that cannot be written."""

    def __init__(self, path: str, reason: str, remedy: str = "choose a writable folder with enough free space") -> None:
        super().__init__(f"cannot write {path} ({reason})", remedy)


class CannotSign(MuflowError):
    """Outputs that cannot be signed, or not with this key."""


class MissingTool(MuflowError):
    """A program of the user's own that an option needs."""

    def __init__(self, option: str, tool: str, remedy: str) -> None:
        super().__init__(f"{option} needs {tool}, which is not on the PATH", remedy)


class MissingExtra(MuflowError):
    """Packages that an option needs and that come with an extra of this one; `purpose` begins the sentence."""

    def __init__(self, purpose: str, extra: str) -> None:
        super().__init__(f"{purpose} needs packages that are not installed", f"run pip install 'muflow-cli[{extra}]'")


class ClusterFailed(MuflowError):
    """A cluster that does not answer, has other files than this machine, or loses its workers again and again."""


class CannotExport(MuflowError):
    """A detector that another library cannot compute; `why` is torch's own reason, or how far the scores are off."""

    def __init__(self, why: str) -> None:
        super().__init__(f"the detector cannot be exported ({why})", "use --backend torch, or another encoder")


class BadFaceModel(MuflowError):
    """A model file that a face detector cannot use, or lacks."""

    def __init__(self, subject: str, what: str, remedy: str = "name a YuNet model in ONNX") -> None:
        super().__init__(f"{subject} {what}", remedy)


class NotFinite(MuflowError):
    """A computation that gave NaN or infinite values."""


class NothingToDo(MuflowError):
    """No input was found where the user pointed."""


class NoSuchInput(MuflowError):
    """Arguments that name no file and no folder.

    Args:
        names: of them, at least one.
    """

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(
            f"{names_of(names)} {'does' if len(names) == 1 else 'do'} not exist", "check the spelling and the folder"
        )


def names_of(names: Sequence[str], most: int = 3) -> str:
    """Some names as part of a sentence, each with its ends marked."""
    *others, last = [repr(name) for name in names[:most]] + ([f"{len(names) - most} more"] if len(names) > most else [])
    return f"{', '.join(others)} and {last}" if others else last


class BadReport(MuflowError):
    """A report that cannot be read back."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem, "give a json or jsonl report as muflow wrote it, without --fields")


class CannotResume(MuflowError):
    """A report that this run cannot continue."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(
            f"cannot resume {path}, because {why}", "choose another output, or start again with --force and no --resume"
        )


class BadScores(MuflowError):
    """Scores and labels that a metric cannot be computed from."""

    def __init__(self, purpose: str, reals: int, fakes: int) -> None:
        super().__init__(
            f"{purpose} needs scores of at least one real and one fake image, found {reals} real and {fakes} fake",
            "add the missing kind",
        )


class NotOnStills(MuflowError):
    """A detector that judges clips where still images are judged.

    Args:
        purpose: what judges them, as a user names it.
    """

    def __init__(self, purpose: str) -> None:
        super().__init__(
            f"{purpose} judges images, and the detector is calibrated on videos",
            "calibrate it on real images (muflow calibrate DETECTOR REAL... -o NEW)",
        )


class BadExpression(MuflowError):
    """A short text of the command line that does not parse; columns count from 1."""

    def __init__(self, kind: str, text: str, column: int, problem: str, remedy: str) -> None:
        super().__init__(f"{kind} {text!r}, column {column}, {problem}", remedy)


class BadList(MuflowError):
    """A list of paths that is no list."""

    def __init__(self, problem: str, remedy: str = "give one path per line, or end each with NUL and use -0") -> None:
        super().__init__(problem, remedy)


class BadTable(MuflowError):
    """A CSV file whose line or column is wrong; lines count from 1, the header being line 1."""

    def __init__(self, path: str, line: int, column: str, problem: str, remedy: str = "correct the file") -> None:
        super().__init__(f"{path}, line {line}, column {column!r}, {problem}", remedy)


class BadData(MuflowError):
    """Labelled images that contradict each other."""
