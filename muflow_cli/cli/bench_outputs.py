"""The outputs of `muflow bench`: held from before the work to its end, and the scores kept beside the first of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.console import Console

from muflow_cli.claims import InputGuard, claimed
from muflow_cli.cli.interruption import last_words
from muflow_cli.cli.progress import StageProgress, stderr_console
from muflow_cli.errors import CannotWrite, IncompatibleOptions, MuflowError
from muflow_cli.files import write_whole
from muflow_cli.output.suffixes import check_suffix

if TYPE_CHECKING:
    from muflow_cli.bench import BenchRequest, BenchResult
    from muflow_cli.bench.kept import Kept
    from muflow_cli.output.bench_writers import BenchFormat

_UNBOUNDED: Final = 10_000  # columns of output that no screen shows


@dataclass(frozen=True, slots=True)
class BenchOutputs:
    """Where the results go.

    Attributes:
        files: path and format of each file.
        as_json: stdout holds JSON instead of tables.
        force: existing files are replaced.
        quiet: stderr holds errors only.
    """

    files: Sequence[tuple[Path, BenchFormat]]
    as_json: bool
    force: bool
    quiet: bool

    @property
    def paths(self) -> list[Path]:
        """Paths of the files."""
        return [path for path, _ in self.files]

    def write(self, result: BenchResult) -> None:
        """Every file, then stdout; where that holds JSON and no table of gates, stderr names those that failed."""
        from muflow_cli.bench.page import page_of
        from muflow_cli.bench.scores import scores_csv
        from muflow_cli.output import bench_text
        from muflow_cli.output.bench_writers import BENCH_WRITERS, BenchContext

        context = BenchContext(
            report=result.document, page=lambda: page_of(result), scores=lambda: scores_csv(result.rows)
        )
        for path, kind in self.files:
            write_whole(path, BENCH_WRITERS[kind].write(context), force=self.force)
        if not self.as_json:
            bench_text.print_tables(result.document, table_console())
            return
        sys.stdout.buffer.write(bench_text.to_bytes(result.document))
        console = stderr_console(self.quiet)
        for held, gate, where, value, _ in bench_text.gate_rows(result.document):
            if held == "FAILED":
                console.print(f"gate failed: {gate} ({where} has {value})")


def chosen_files(output: Sequence[Path], former: Mapping[str, Path | None]) -> list[tuple[Path, BenchFormat]]:
    """Path and format of every file: by suffix for -o, by option for its former spellings."""
    from muflow_cli.output.bench_writers import BENCH_WRITERS, BenchFormat, bench_format_of

    page = former.get("html")
    if page is not None:
        check_suffix("--report", page, BENCH_WRITERS[BenchFormat.HTML].suffixes)
    files = [(path, bench_format_of(path)) for path in output]
    return files + [(path, BenchFormat(kind)) for kind, path in former.items() if path is not None]


def measure(request: BenchRequest, outputs: BenchOutputs, inputs: Sequence[str | Path], *, resume: bool) -> int:
    """Measure and write, with all outputs held from before the work to its end; the number of gates that failed.

    Args:
        request: what to measure.
        outputs: of the run.
        inputs: what the run reads, which no output may replace.
        resume: continue from the scores that an earlier run kept.

    Raises:
        IncompatibleOptions: for `resume` without an output.
        MuflowError: where kept scores would be lost; otherwise as `claims.claimed` and `bench`.
    """
    from muflow_cli.bench.kept import Kept, is_kept, kept_path

    paths, force = outputs.paths, outputs.force
    if resume and not paths:
        raise IncompatibleOptions("--resume", "-o FILE", "scores are kept beside the first output", needs=True)
    if not paths or request.detector is None or request.protocols:
        with claimed(paths, force=force, inputs=inputs):
            return _measure(request, outputs, None)
    beside = kept_path(paths[0])
    if os.path.lexists(beside) and not is_kept(beside):
        why, remedy = "it is not what a benchmark keeps there", "move it away, or choose another name for the output"
        raise CannotWrite(str(beside), why, remedy)
    if beside.exists() and not (resume or force):
        remedy = "continue that run with --resume, or start again with --force"
        raise MuflowError(f"{beside} holds the scores of a run that did not end", remedy)
    kept = Kept(beside, resume=resume, note=stderr_console(outputs.quiet).print)
    with (
        claimed([*paths, beside], force=force, resumed=beside if resume else None, inputs=inputs),
        kept,
        last_words(kept.words),
    ):
        failed_gates = _measure(request, outputs, kept)
        kept.remove()
    return failed_gates


def _measure(request: BenchRequest, outputs: BenchOutputs, kept: Kept | None) -> int:
    """Measure and write; the number of gates that did not hold."""
    from muflow_cli.bench import bench

    with StageProgress(stderr_console(outputs.quiet)) as progress:
        result = bench(request, progress, kept)
    guard = InputGuard(outputs.paths)
    for row in result.rows:
        guard.check(row.path)
    outputs.write(result)
    return result.failed_gates


def table_console() -> Console:
    """Stdout for tables, as wide as the terminal; a file or a pipe has no edge at which a line would have to end."""
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else _UNBOUNDED
    return Console(highlight=False, markup=False, emoji=False, width=width)
