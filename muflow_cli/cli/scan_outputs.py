"""The output options of `muflow scan`: what `-o`, `--format` and their older spellings mean together."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from muflow_cli.errors import IncompatibleOptions
from muflow_cli.output.suffixes import check_suffix
from muflow_cli.output.writers import WRITERS, OutputFormat, Per, Printed, format_of
from muflow_cli.run_specs import InputSpec
from muflow_cli.scan.settings import Comparison

if TYPE_CHECKING:
    from muflow_cli.scan.outputs import Destination

STDOUT: Final = Path("-")


@dataclass(frozen=True, slots=True)
class ChosenOutputs:
    """Where the results go.

    Attributes:
        stdout: format on stdout; None = nothing goes there.
        files: path and format of each file.
    """

    stdout: OutputFormat | None
    files: tuple[tuple[Path, OutputFormat], ...]

    @property
    def paths(self) -> list[Path]:
        """Paths of the files."""
        return [path for path, _ in self.files]

    @property
    def formats(self) -> set[OutputFormat | None]:
        """Every format that is written."""
        return {self.stdout, *(format_ for _, format_ in self.files)}

    def resumable(self) -> Path:
        """The one JSON-lines file; IncompatibleOptions where there is none, or more than one."""
        lines = [path for path, format_ in self.files if format_ is OutputFormat.JSONL]
        if len(lines) != 1:
            raise IncompatibleOptions("--resume", "one -o FILE.jsonl", "that is the report it continues", needs=True)
        return lines[0]

    def destinations(self, resumed: Path | None) -> list[Destination]:
        """All of them, stdout first; `resumed` is the report that is continued."""
        from muflow_cli.scan.outputs import Destination

        files = [Destination(format_, path, resumed=path == resumed) for path, format_ in self.files]
        return files if self.stdout is None else [Destination(self.stdout, None), *files]

    def check_faces(self, inputs: InputSpec, per: Per, *, looks_for_faces: bool) -> None:
        """Refuse options on faces that would do nothing; IncompatibleOptions."""
        default = InputSpec()
        given = {
            "--max-faces": inputs.max_faces != default.max_faces,
            "--on-no-face": inputs.on_no_face is not default.on_no_face,
            "--face-model": inputs.face_model is not None,
            "--per face": per is Per.FACE,
        }
        for option in (name for name, is_given in given.items() if is_given and not looks_for_faces):
            why = "this one scores whole images; muflow fit --faces makes one that looks for faces"
            raise IncompatibleOptions(option, "a detector of faces", why, needs=True)
        if per is Per.FACE and OutputFormat.CSV not in self.formats:
            raise IncompatibleOptions("--per face", "-o FILE.csv", "only a CSV has such rows", needs=True)

    def check_wanted(self, comparison: Comparison, printed: Printed) -> None:
        """Refuse a table of groups in a run without groups, and to print a page that none is; IncompatibleOptions."""
        if printed is not Printed.ALL and OutputFormat.HTML not in self.formats:
            raise IncompatibleOptions("--print", "-o FILE.html", "it chooses what that page prints", needs=True)
        tables = [f"-o {path}" for path, format_ in self.files if format_ is OutputFormat.GROUPS]
        tables += ["--format groups"] if self.stdout is OutputFormat.GROUPS else []
        if tables and not comparison.groups:
            raise IncompatibleOptions(tables[0], "--groups or --group-by", "it is the table of the groups", needs=True)


def choose_outputs(
    output: Sequence[Path] | None,
    aliases: Mapping[OutputFormat, Path | None],
    format_: OutputFormat | None,
    *,
    as_json: bool,
) -> ChosenOutputs:
    """Files by the suffixes of `output`; stdout as well if an option names it, or if `output` names no file.

    Args:
        output: values of -o; `-` is stdout.
        aliases: values of the older options, whose format does not depend on a suffix.
        format_: on stdout; else a table on a terminal, JSON lines in a pipe.
        as_json: the same as the format json.

    Raises:
        BadSpec: for a suffix that no format has.
        IncompatibleOptions: where two formats are given for stdout.
    """
    if as_json and format_ not in (None, OutputFormat.JSON):
        raise IncompatibleOptions("--json", f"--format {format_}", "stdout has one format")
    on_stdout = OutputFormat.JSON if as_json else format_
    given = [path for path in output or () if path != STDOUT]
    files = [(path, format_of(path)) for path in given]
    page = aliases.get(OutputFormat.HTML)
    if page is not None:
        check_suffix("--report", page, WRITERS[OutputFormat.HTML].suffixes)
    files += [(path, kind) for kind, path in aliases.items() if path is not None]
    if given and on_stdout is None and STDOUT not in (output or ()):
        return ChosenOutputs(None, tuple(files))
    own = OutputFormat.TABLE if sys.stdout.isatty() else OutputFormat.JSONL
    return ChosenOutputs(on_stdout or own, tuple(files))
