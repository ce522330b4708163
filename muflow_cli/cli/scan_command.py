"""`muflow scan`: its options, and what they mean together."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from muflow_cli.claims import check_outputs, claimed
from muflow_cli.cli import clip_options, options, report_options, scan_options, scan_results
from muflow_cli.cli.interruption import INTERRUPTED, Stop
from muflow_cli.cli.progress import ScanProgress, stderr_console
from muflow_cli.cli.scan_inputs import STDIN, absent_arguments, reading_stdin, scan_arguments
from muflow_cli.cli.scan_outputs import ChosenOutputs, choose_outputs
from muflow_cli.cli.scan_status import BAD, FailOn, fail_on_of, status_of
from muflow_cli.cli.scan_text import interrupted_text, summary_lines
from muflow_cli.cli.scan_verify import verify_report
from muflow_cli.cli.signing import Signing, prepare_signing
from muflow_cli.cli.startup import quick_start
from muflow_cli.cli.told import Told
from muflow_cli.cluster import ClusterSpec, parse_engine
from muflow_cli.default_detector import find_detector
from muflow_cli.errors import IncompatibleOptions
from muflow_cli.output.encode import fields_of
from muflow_cli.output.writers import OutputFormat, Per, Printed
from muflow_cli.run_specs import Atypical, Backend, Custody, Damaged, OnNoFace, Precision
from muflow_cli.scan.resume import written_before
from muflow_cli.scan.settings import Comparison

if TYPE_CHECKING:
    from muflow_cli.scan.job import Job

_RESULTS: Final = "Results"
_RUN: Final = "Run"


def scan_command(
    paths: scan_options.Paths = None,
    detector: scan_options.Detector = None,
    output: scan_options.Output = None,
    as_json: scan_options.AsJson = False,
    format_: scan_options.Format = None,
    json_output: Annotated[Path | None, typer.Option("--json-output", hidden=True)] = None,
    jsonl_output: Annotated[Path | None, typer.Option("--jsonl-output", hidden=True)] = None,
    csv_output: Annotated[Path | None, typer.Option("--csv-output", hidden=True)] = None,
    sarif_output: Annotated[Path | None, typer.Option("--sarif-output", hidden=True)] = None,
    report: Annotated[Path | None, typer.Option("--report", hidden=True)] = None,
    fields: scan_options.Fields = None,
    only: scan_results.Only = None,
    sort: scan_results.Sort = None,
    copy_flagged: scan_results.CopyFlagged = None,
    force: scan_options.Force = False,
    files_from: scan_options.FilesFrom = None,
    null: scan_options.Null = False,
    exclude: options.Exclude = None,
    known: scan_results.Known = None,
    hidden: options.Hidden = False,
    follow_links: scan_options.FollowLinks = False,
    max_bytes: options.MaxBytes = options.MAX_BYTES,
    max_pixels: options.MaxPixels = options.MAX_PIXELS,
    damaged: options.DamagedOption = Damaged.REFUSE,
    atypical: options.AtypicalOption = Atypical.INCONCLUSIVE,
    max_seconds: options.MaxSeconds = options.MAX_SECONDS,
    no_archives: options.NoArchives = False,
    max_faces: options.MaxFaces = options.MAX_FACES,
    on_no_face: options.OnNoFaceOption = OnNoFace.REPORT,
    face_model: options.FaceModel = None,
    frames: clip_options.Frames = None,
    every: clip_options.Every = None,
    animations: clip_options.Animations = False,
    embedded_video: clip_options.EmbeddedVideo = False,
    max_clip_bytes: clip_options.MaxClipBytes = clip_options.MAX_CLIP_BYTES,
    per: clip_options.PerOption = Per.IMAGE,
    case: report_options.Case = None,
    examiner: report_options.Examiner = None,
    print_: report_options.PrintOption = Printed.ALL,
    csv_bom: scan_results.CsvBom = False,
    fdr: scan_options.Fdr = None,
    adaptive: scan_options.Adaptive = False,
    groups: scan_options.Groups = False,
    reweight: scan_options.Reweight = False,
    group_by: scan_options.GroupBy = None,
    shard: scan_results.ShardOption = None,
    resume: scan_options.Resume = False,
    verify: scan_options.Verify = None,
    workers: options.Workers = 0,
    batch_size: scan_options.BatchSize = 0,
    engine: options.Engine = "local",
    device: options.Device = "auto",
    precision: options.PrecisionOption = Precision.AUTO,
    backend: options.BackendOption = Backend.AUTO,
    strict: options.Strict = False,
    fail_on: scan_options.FailOn = "flagged,declared",
    c2pa_trust: scan_options.C2paTrust = None,
    sign: scan_options.Sign = None,
    signers: scan_options.Signers = None,
    exit_zero: scan_options.ExitZero = False,
    all_frames: options.AllFrames = False,
    list_skipped: options.ListSkipped = False,
    _log_file: options.LogFile = None,
    quiet: options.Quiet = False,
    verbose: scan_options.Verbose = False,
) -> None:
    """Score images and flag those that are unlike the real faces the detector was fitted to.

    Results go to stdout or to files; progress, warnings and the summary go to stderr. Every input gets one result, in
    input order; the result of an input that cannot be read says why.

    A file may say itself that it is synthetic (content credentials, a generator's settings). This is reported beside
    the verdict, and no score depends on it.

    An image whose format, size or quality no calibration image has is inconclusive, since nothing is known of the rate
    for such images; --atypical report or flag gives it another verdict.

    A detector of faces (muflow fit --faces) has options of its own: --max-faces N, --on-no-face whole or skip, --per
    face for a CSV with one row for each face, --face-model FILE.
    Videos need muflow-cli[video]: --frames N or --every SECONDS says which frames are looked at; a detector that is not
    calibrated on videos gives them scores alone, or with --per frame a verdict for each as an image.

    --reweight flags by p-values that count a calibration image the more, the more it is like these images in format,
    size, quality and sharpness. It helps where the batch is another mix of such files; a batch full of synthetic images
    is a shift as well, and more of them are then missed.

    The report names its case and examiner with --case NUMBER and --examiner NAME; with --print flagged, its page prints
    the flagged images only.

    **Exit status**: 0 nothing to report; 1 an image was flagged or declares itself synthetic (--fail-on says what
    counts; with error, an unreadable input counts too); 2 wrong usage, a PATH that does not exist (the others are
    scanned), an unreadable detector, or an output that cannot be written; 3 nothing of that, but some inputs
    unreadable; 130 interrupted, finished work is kept.
    With --verify: 0 everything matches, 1 something differs, 2 not a muflow report.

    **Examples**

    ```sh
    # Verdicts for a folder, as a table
    muflow scan photos/ --detector faces.safetensors
    # A long run; after a crash, the same command continues it
    muflow scan /archive --detector faces.safetensors -o night.jsonl --resume
    # Two formats for programs and a page for people
    muflow scan photos/ -o r.json -o r.csv -o r.html
    # Files that another program lists, separated by NUL; MUFLOW_DETECTOR names the detector
    find . -newer last -print0 | muflow scan --files-from - -0 --json
    # Expect at most a tenth of the flagged images to be real
    muflow scan photos/ --fdr 0.1
    # The same, by what the images have in common; one verdict for each account's folder
    muflow scan avatars/ --detector mine.safetensors --fdr 0.1 --adaptive --groups -o avatars.groups.csv
    # An image, or an archive, from another program
    curl -s https://example.org/face.jpg | muflow scan - --json
    # Groups named in the column account of a CSV file whose column path names the images
    muflow scan --files-from list.csv --group-by account --detector mine.safetensors -o accounts.groups.csv
    # With a detector of faces (muflow fit --faces), one row for each face
    muflow scan party/ --detector faces.safetensors -o party.csv --per face
    # Sign the report with a key of ssh-keygen
    muflow scan photos/ -o case.jsonl --sign ~/.ssh/id_ed25519
    # Exit with 1 only on the detector's own verdicts
    muflow scan photos/ --fail-on flagged
    # Check that a report and its files are unchanged
    muflow scan --verify night.jsonl
    ```
    """
    console = stderr_console(quiet)
    aliases = dict(zip(_ALIASES, (json_output, jsonl_output, csv_output, sarif_output, report), strict=True))
    if verify is not None or signers is not None:
        raise typer.Exit(verify_report(verify, signers, paths, output or sign or any(aliases.values()), console))
    outputs = choose_outputs(output, aliases, format_, as_json=as_json)
    custody, failing = Custody(case=case, examiner=examiner), fail_on_of(fail_on)
    names, cluster = fields_of(fields), _cluster(engine, workers, paths or ())
    resumed = _resumed(outputs, names, paths or []) if resume else None
    grouped = _grouped(groups, group_by, listed=files_from and not null and not paths)
    comparison = Comparison(fdr=fdr, adaptive=adaptive, groups=grouped, reweight=reweight)
    outputs.check_wanted(comparison, print_)
    results = scan_results.result_options(
        only, sort, copy_flagged, known, shard, outputs, paths or (), comparison, resume=resume
    )
    arguments, read = scan_arguments(paths or [], files_from, outputs.paths, null=null, group_by=group_by)
    inputs = replace(
        options.input_spec(
            exclude, hidden, follow_links, max_bytes, max_pixels, damaged, max_seconds, no_archives, face_model
        ),
        max_faces=max_faces,
        on_no_face=on_no_face,
        all_frames=all_frames,
        embedded_video=embedded_video,
    )
    signing = prepare_signing(sign, outputs, console)
    own = [*read, *(known or ()), *([] if sign is None else [sign])]
    earlier = [] if resumed is None else written_before(resumed, outputs.paths)
    check_outputs(signing.claims, force=force, resumed=resumed, earlier=earlier, inputs=own)
    told = Told(
        console,
        absent=absent_arguments(paths or [], inputs, listed=files_from is not None),
        list_skipped=list_skipped,
        verbose=verbose,
    )
    bundle = find_detector(detector, console.print)
    with quick_start():
        from muflow_cli.bundle import load
        from muflow_cli.images.metadata.signatures import read_anchors
        from muflow_cli.scan.job import Job

        loaded = load(bundle)
    outputs.check_faces(inputs, per, looks_for_faces=loaded.spec.faces is not None)
    job = Job(
        detector=loaded,
        detector_path=str(bundle),
        arguments=arguments,
        destinations=outputs.destinations(resumed),
        inputs=replace(
            clip_options.reading(inputs, frames, every, animations, max_clip_bytes, loaded.calibration),
            c2pa_anchors=None if c2pa_trust is None else read_anchors(c2pa_trust),
        ),
        runtime=options.runtime(device, precision, workers, batch_size, backend),
        cluster=cluster,
        strict=strict,
        atypical=atypical,
        fields=names,
        per=per,
        printed=print_,
        custody=custody,
        csv_mark=csv_bom,
        comparison=comparison,
        selection=results.selection,
        copy_flagged=results.copy_flagged,
        hash_lists=results.hash_lists,
        shard=results.shard,
        argv=tuple(sys.argv),
    )
    with claimed(signing.claims, force=force, resumed=resumed, earlier=earlier, inputs=[bundle, *own]):
        raise typer.Exit(_run(job, signing, told, failing, exit_zero=exit_zero))


def _cluster(engine: str, workers: int, paths: Sequence[str]) -> ClusterSpec | None:
    """The cluster that `--engine` names."""
    cluster = parse_engine(engine, workers)
    if cluster is not None and STDIN in paths:
        raise IncompatibleOptions("--engine ray", "PATH -", "other machines cannot read the standard input of this one")
    return cluster


def _grouped(groups: bool, group_by: str | None, *, listed: object) -> bool:
    """Whether to judge groups; `listed`: whether all inputs are of a list that may have columns."""
    if group_by is not None and not listed:
        why = "that CSV file alone names the images and their groups"
        raise IncompatibleOptions("--group-by", "--files-from FILE without PATH", why, needs=True)
    return groups or group_by is not None


def _resumed(outputs: ChosenOutputs, names: tuple[str, ...] | None, paths: Sequence[str]) -> Path:
    """The report that `--resume` continues."""
    if STDIN in paths:
        raise IncompatibleOptions("--resume", "PATH -", "standard input cannot be read again")
    if names is not None:
        raise IncompatibleOptions("--resume", "--fields", "only a report with all fields can be continued")
    return outputs.resumable()


_ALIASES: Final = (
    OutputFormat.JSON,
    OutputFormat.JSONL,
    OutputFormat.CSV,
    OutputFormat.SARIF,
    OutputFormat.HTML,
)


def _run(job: Job, signing: Signing, told: Told, failing: frozenset[FailOn], *, exit_zero: bool) -> int:
    from muflow_cli.images.find import find
    from muflow_cli.scan.run import run

    # A list can be read only once, and a server is not asked twice to learn a number.
    countable = isinstance(job.arguments, list) and not any("://" in argument for argument in job.arguments)
    beside = sys.stdout.isatty() and any(destination.file is None for destination in job.destinations)
    with reading_stdin(job.arguments, job.inputs.max_bytes) as arguments:
        job = replace(job, arguments=arguments)
        listing = (lambda: find(arguments, job.inputs)) if countable else None
        with ScanProgress(told.console, listing, beside=beside, verbose=told.verbose) as progress, Stop() as stop:
            summary = run(job, progress, stop, told.skip)
            stopped = stop()
    for line in summary_lines(summary, job.detector.calibration.rule.alpha, job.atypical, job.calibrated_on):
        told.console.print(line)
    if stopped:
        goes_on = job.comparison.any and job.kept_report is not None
        said = interrupted_text(summary, provisional=job.comparison.any, goes_on=goes_on)
        sys.stderr.write(f"muflow: interrupted; {said}\n")  # said with --quiet too
    signing.sign()
    lacks_paths = told.end()
    return INTERRUPTED if stopped else BAD if lacks_paths else status_of(summary, failing, exit_zero=exit_zero)
