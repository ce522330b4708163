"""`muflow scan --sign`: what it needs before a scan, and what it does after one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from muflow_cli.cli.scan_outputs import ChosenOutputs
from muflow_cli.errors import CannotSign, IncompatibleOptions
from muflow_cli.signatures import check_key, sign, signature_of


@dataclass(frozen=True, slots=True)
class Signing:
    """The signatures of a run, which may have none.

    Attributes:
        key: value of --sign; None = nothing is signed.
        files: of the run's results.
    """

    key: Path | None
    files: tuple[Path, ...]

    @property
    def claims(self) -> list[Path]:
        """Every file that the run writes, signatures included."""
        return [*self.files, *(signature_of(file) for file in self.files if self.key is not None)]

    def sign(self) -> None:
        """Sign the files, which are complete; raises as `signatures.sign`."""
        if self.key is not None:
            sign(self.key, self.files)


def prepare_signing(key: Path | None, outputs: ChosenOutputs, console: Console) -> Signing:
    """The signatures of a run, refused before the scan where they could not be made after it.

    Raises:
        IncompatibleOptions: for results on standard output.
        CannotSign: for an output that is a device or a pipe, and for a key that cannot be used.
        MissingTool: without ssh-keygen.
    """
    signing = Signing(key, tuple(outputs.paths))
    if key is None:
        return signing
    if outputs.stdout is not None:
        raise IncompatibleOptions("--sign", "results on standard output", "only a file can be signed (-o FILE)")
    for file in signing.files:
        if file.exists() and not file.is_file():
            raise CannotSign(f"cannot sign {file} (not a file)", "choose another output")
    if check_key(key):
        console.print(f"the passphrase of {key} is asked for when the scan has ended; ssh-add {key} asks for it now")
    return signing
