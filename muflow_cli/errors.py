"""What a user can put right: one small tree, each error writing its own sentence. The CLI catches the base once."""

from __future__ import annotations


class MuflowError(Exception):
    """Base of every error that is the input's fault: printed as one sentence, exit status 2."""


class BadSpec(MuflowError):
    """A setting outside what it may be."""

    def __init__(self, name: str, value: object, needed: str) -> None:
        super().__init__(f"{name} is {value}: it must be {needed}")


class BadBundle(MuflowError):
    """A detector file that cannot be used: truncated, foreign, newer or inconsistent."""

    def __init__(self, path: str, what: str, remedy: str) -> None:
        super().__init__(f"{path} {what}: {remedy}")


class BadWeights(MuflowError):
    """An encoder weights file that does not fit the encoder."""


class TooFewPictures(MuflowError):
    """Not enough real pictures for what was asked."""

    def __init__(self, purpose: str, found: int, needed: int, why: str) -> None:
        super().__init__(f"{purpose} needs at least {needed} real pictures ({why}), found {found}: add pictures")


class TooFewScores(MuflowError):
    """Not enough scores of real pictures for a rule."""

    def __init__(self, purpose: str, found: int, needed: int) -> None:
        super().__init__(f"{purpose} needs scores of {needed} real pictures, found {found}: add pictures")


class BadCalibration(MuflowError):
    """Calibration scores that cannot be used."""

    def __init__(self, what: str) -> None:
        super().__init__(f"the calibration {what}: calibrate the detector again")


class OutputExists(MuflowError):
    """An output file that is already there."""

    def __init__(self, path: str) -> None:
        super().__init__(f"{path} exists: choose another name, or replace it with --force")


class CannotWrite(MuflowError):
    """An output that cannot be written."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"cannot write {path} ({reason}): choose a place that can be written, with room")


class NotFinite(MuflowError):
    """A computation left the numbers."""


class NothingToDo(MuflowError):
    """No input was found where the user pointed."""


class BadReport(MuflowError):
    """A report that cannot be read back."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}: give a json or jsonl report as muflow wrote it, without --fields")


class CannotResume(MuflowError):
    """A report that this run may not go on with."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"cannot resume {path}: {why}; choose another output, or start anew with --force alone")


class BadScores(MuflowError):
    """Scores and labels that a metric cannot be computed from."""

    def __init__(self, purpose: str, reals: int, fakes: int) -> None:
        super().__init__(
            f"{purpose} needs scores of at least one real and one fake picture, found {reals} real and {fakes} fake: "
            "add the missing kind"
        )


class BadExpression(MuflowError):
    """A small text of the command line that does not parse; columns count from 1."""

    def __init__(self, kind: str, text: str, column: int, problem: str) -> None:
        super().__init__(f"{kind} {text!r}, column {column}: {problem}")


class BadTable(MuflowError):
    """A CSV file whose line or column is wrong; lines count from 1, the header being line 1."""

    def __init__(self, path: str, line: int, column: str, problem: str) -> None:
        super().__init__(f"{path}, line {line}, column {column!r}: {problem}")


class BadData(MuflowError):
    """Labelled pictures that contradict themselves or each other."""
