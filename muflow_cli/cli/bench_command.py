"""`muflow bench`: its options, and what they mean together."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from muflow_cli.cli import options
from muflow_cli.cli.bench_outputs import BenchOutputs, chosen_files, measure
from muflow_cli.errors import BadSpec, IncompatibleOptions, MuflowError, NothingToDo
from muflow_cli.run_specs import Backend, Damaged, Precision

if TYPE_CHECKING:
    from muflow_cli.bench.data import OverlapPolicy
    from muflow_cli.bench.robustness import Condition
    from muflow_cli.output.bench_writers import BenchFormat

DATA: Final = "Data"
OUTPUTS: Final = "Outputs"
_ROBUSTNESS: Final = "Robustness"
_PROTOCOLS: Final = "Fitting again"
_GATES: Final = "Gates"
_EXHIBITS: Final = 6  # images in each list of a page

Texts = list[str] | None
Files = list[Path] | None
File = Path | None

Real = Annotated[
    Texts, typer.Option("--real", metavar="[NAME=]DIR", rich_help_panel=DATA, help="REAL faces (repeatable).")
]
Fake = Annotated[
    Texts, typer.Option("--fake", metavar="[NAME=]DIR", rich_help_panel=DATA, help="Synthetic faces (repeatable).")
]
Labelled = Annotated[
    Texts,
    typer.Option(
        "--data",
        metavar="[NAME=]PATH",
        rich_help_panel=DATA,
        help="A labelled tree (real/fake, 0_real/1_fake, nature/ai) or a CSV: path,label,group[,source].",
    ),
]
# Literals, since the enum of the library would load torch for --help.
OverlapWord = Literal["refuse", "drop", "allow"]
Overlap = Annotated[
    OverlapWord,
    typer.Option(
        "--overlap",
        rich_help_panel=DATA,
        help="What to do with images that the detector was fitted or calibrated on.",
    ),
]
Limit = Annotated[
    int, typer.Option("--limit", min=0, rich_help_panel=DATA, help="Most images per group, drawn by seed; 0 = all.")
]
AsJson = Annotated[
    bool, typer.Option("--json", rich_help_panel=OUTPUTS, help="Print JSON on stdout instead of tables.")
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed for all random draws.")]


def bench_command(
    detector: Annotated[File, typer.Argument(metavar="[DETECTOR]", help="A detector bundle (.safetensors).")] = None,
    real: Real = None,
    fake: Fake = None,
    data: Labelled = None,
    families: Annotated[
        File,
        typer.Option("--families", metavar="FILE", hidden=True, help="Families of generators, as CSV."),
    ] = None,
    limit: Limit = 0,
    overlap: Overlap = "refuse",
    container: options.Container = None,
    scores_from: Annotated[
        File,
        typer.Option("--scores-from", metavar="FILE", rich_help_panel=DATA, help="Scores (CSV) instead of DETECTOR."),
    ] = None,
    compare: Annotated[
        Files,
        typer.Option(
            "--compare", metavar="FILE", rich_help_panel=DATA, help="Another detector's scores, as CSV (repeatable)."
        ),
    ] = None,
    perturb: Annotated[
        Texts,
        typer.Option("--perturb", metavar="SPEC", rich_help_panel=_ROBUSTNESS, help="Such as jpeg:q=75 (repeatable)."),
    ] = None,
    suite: Annotated[
        Texts,
        typer.Option(
            "--suite",
            metavar="NAME",
            rich_help_panel=_ROBUSTNESS,
            help="paper, ufd, sidbench or delivery (repeatable).",
        ),
    ] = None,
    on: Annotated[
        Texts,
        typer.Option("--on", metavar="SIDE", hidden=True, help="Perturb both, reals or fakes (repeatable)."),
    ] = None,
    protocol: Annotated[
        Texts,
        typer.Option(
            "--protocol",
            metavar="seen|pooled|unseen",
            rich_help_panel=_PROTOCOLS,
            help="Fit the settings of DETECTOR again, to reals that are not measured (repeatable).",
        ),
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option("--folds", min=2, max=1000, hidden=True, help="Folds of a source; 5 by default."),
    ] = None,
    fit_on: Annotated[
        Texts,
        typer.Option(
            "--fit-on",
            metavar="[NAME=]DIR",
            rich_help_panel=_PROTOCOLS,
            help="REAL faces to fit to that are not measured (repeatable).",
        ),
    ] = None,
    gate: Annotated[
        Texts,
        typer.Option("--gate", metavar="EXPR", rich_help_panel=_GATES, help="Such as macro_auc>=0.80 (repeatable)."),
    ] = None,
    baseline: Annotated[
        File,
        typer.Option("--baseline", metavar="FILE", rich_help_panel=_GATES, help="An earlier JSON report, same data."),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option("--max-drop", hidden=True, help="Largest drop below the baseline; 0.01 by default."),
    ] = None,
    output: Annotated[
        Files,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            rich_help_panel=OUTPUTS,
            help="Write FILE by its suffix: .json, .csv, .md, .xml (JUnit), .html or .scores.csv (repeatable).",
        ),
    ] = None,
    as_json: AsJson = False,
    force: Annotated[
        bool, typer.Option("--force", rich_help_panel=OUTPUTS, help="Replace existing output files.")
    ] = False,
    speed: Annotated[bool, typer.Option("--speed", help="Also measure speed, memory and size.")] = False,
    seed: Seed = 0,
    device: options.Device = "auto",
    # Options of `muflow scan` and for special needs: they work, and docs/bench.md lists them.
    resamples: Annotated[
        int, typer.Option("--resamples", min=1, help="Resamples of the bootstrap.", hidden=True)
    ] = 1000,
    precision: Annotated[
        Precision, typer.Option("--precision", help="As in muflow scan.", hidden=True)
    ] = Precision.AUTO,
    backend: options.BackendOption = Backend.TORCH,
    batch_size: Annotated[int, typer.Option("--batch-size", min=0, help="As in muflow scan.", hidden=True)] = 0,
    workers: Annotated[int, typer.Option("--workers", min=0, help="As in muflow scan.", hidden=True)] = 0,
    exclude: Annotated[Texts, typer.Option("--exclude", help="As in muflow scan (repeatable).", hidden=True)] = None,
    hidden: Annotated[bool, typer.Option("--hidden", help="As in muflow scan.", hidden=True)] = False,
    follow_links: Annotated[bool, typer.Option("--follow-links", help="As in muflow scan.", hidden=True)] = False,
    max_bytes: Annotated[
        int, typer.Option("--max-bytes", min=1, help="As in muflow scan.", hidden=True)
    ] = options.MAX_BYTES,
    max_pixels: Annotated[
        int, typer.Option("--max-pixels", min=1, help="As in muflow scan.", hidden=True)
    ] = options.MAX_PIXELS,
    damaged: Annotated[Damaged, typer.Option("--damaged", help="As in muflow scan.", hidden=True)] = Damaged.REFUSE,
    max_seconds: options.MaxSeconds = options.MAX_SECONDS,
    no_archives: options.NoArchives = False,
    face_model: options.FaceModel = None,
    _log_file: options.LogFile = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print nothing on stderr but errors.", hidden=True)
    ] = False,
    adaptive: Annotated[bool, typer.Option("--adaptive", help="Also measure adaptive p-values.", hidden=True)] = False,
    groups: Annotated[
        bool, typer.Option("--groups", help="Also measure what groups of images tell.", hidden=True)
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.", hidden=True)] = False,
    # Former spellings, for one release.
    allow_overlap: Annotated[bool, typer.Option("--allow-overlap", hidden=True)] = False,
    drop_overlap: Annotated[bool, typer.Option("--drop-overlap", hidden=True)] = False,
    ablation: Annotated[str | None, typer.Option("--ablation", hidden=True)] = None,
    throughput: Annotated[bool, typer.Option("--throughput", hidden=True)] = False,
    json_output: Annotated[File, typer.Option("--json-output", hidden=True)] = None,
    csv_output: Annotated[File, typer.Option("--csv-output", hidden=True)] = None,
    markdown_output: Annotated[File, typer.Option("--markdown-output", hidden=True)] = None,
    junit_output: Annotated[File, typer.Option("--junit-output", hidden=True)] = None,
    report: Annotated[File, typer.Option("--report", hidden=True)] = None,
    scores: Annotated[File, typer.Option("--scores", hidden=True)] = None,
) -> None:
    """Measure a detector on labelled images, each real source on its own; the headline is the worst of them.

    Images that the detector was fitted or calibrated on are refused. Every figure has its 95 % interval, and null
    baselines (metadata, sharpness) show what the data give away. The options of `muflow scan` that choose what is read
    and how it is computed work here too (--exclude, --hidden, --follow-links, --max-bytes, --max-pixels, --damaged,
    --precision, --backend, --batch-size, --workers, --quiet). What is scored is kept beside the first -o FILE until all
    outputs are written; after an interruption or a crash, the same command with --resume continues. --adaptive and
    --groups also measure what batches and groups of images tell; docs/bench.md explains their figures.
    --protocol measures the detector's settings in place of the detector: they are fitted again to other folds of a
    source (seen), to those of all sources (pooled) or to the other sources (unseen).

    **Exit status**: 0 done, all gates held; 1 a gate failed; 2 wrong usage, or a detector or data that cannot be used;
    130 interrupted, what was scored is kept.

    **Examples**

    ```sh
    # Two real sources, a folder of generators, a page to read
    muflow bench faces.safetensors --real celeba=~/celebahq --real ~/photos --fake ~/fakes -o bench.html
    # A check in continuous integration
    muflow bench faces.safetensors --data bench.csv --gate "macro_auc>=0.8" --gate "fpr<=0.07" -o gates.xml
    ```
    """
    if ablation is not None:
        raise MuflowError("ablations have a command of their own", "see `muflow ablate --help`")
    _check_needs(
        ("--on", bool(on), "--perturb or --suite", bool(perturb or suite), "it chooses which images are perturbed"),
        ("--max-drop", max_drop is not None, "--baseline", bool(baseline), "it limits the drop below that report"),
        ("--folds", folds is not None, "--protocol", bool(protocol), "nothing is fitted otherwise"),
        ("--fit-on", bool(fit_on), "--protocol", bool(protocol), "nothing is fitted otherwise"),
    )
    images = [*(real or []), *(fake or []), *(data or [])]
    if allow_overlap and drop_overlap:
        raise IncompatibleOptions("--allow-overlap", "--drop-overlap", "an image is either kept or left out")
    overlap = "allow" if allow_overlap else "drop" if drop_overlap else overlap
    _check_source(
        detector,
        scores_from,
        {
            "--real, --fake and --data": bool(images),
            "--perturb": bool(perturb),
            "--suite": bool(suite),
            "--limit": bool(limit),
            "--overlap": overlap != "refuse",
            "--container": container is not None,
            "--speed": speed or throughput,
            "--adaptive": adaptive,
            "--groups": groups,
            "--resume": resume,
        },
    )
    for path in (*(compare or ()), baseline, scores_from):
        if path is not None and not path.is_file():
            raise NothingToDo(f"{path} is not a file", "correct --compare, --baseline or --scores-from")
    files = chosen_files(
        output or (),
        {
            "json": json_output,
            "csv": csv_output,
            "markdown": markdown_output,
            "junit": junit_output,
            "html": report,
            "scores": scores,
        },
    )
    if protocol:
        _check_protocols(files, {"--overlap": overlap != "refuse", "--resume": resume})
    from muflow_cli.bench import BenchRequest
    from muflow_cli.bench.datasets import data_arguments
    from muflow_cli.bench.families import FAMILIES, read_families
    from muflow_cli.bench.folds import parse_protocols
    from muflow_cli.bench.gates import parse_gate
    from muflow_cli.bench.intervals import BootstrapSpec
    from muflow_cli.images.container import parse_container
    from muflow_cli.output.bench_writers import BENCH_WRITERS

    request = BenchRequest(
        detector=detector,
        data=data_arguments(real or (), fake or (), data or ()),
        scores_from=scores_from,
        compare=tuple(compare or ()),
        families=FAMILIES if families is None else read_families(str(families)),
        inputs=options.input_spec(
            exclude, hidden, follow_links, max_bytes, max_pixels, damaged, max_seconds, no_archives, face_model
        ),
        container=None if container is None else parse_container(container),
        runtime=options.runtime(device, precision, workers, batch_size, backend),
        overlap=overlap_policy(overlap),
        limit=limit,
        conditions=_conditions(perturb or [], suite or [], on or ["both"]),
        bootstrap=BootstrapSpec(resamples=resamples, seed=seed),
        gates=tuple(parse_gate(text) for text in gate or ()),
        baseline=baseline,
        max_drop=0.01 if max_drop is None else max_drop,
        speed=speed or throughput,
        adaptive=adaptive,
        groups=groups,
        protocols=parse_protocols(protocol or ()),
        folds=5 if folds is None else folds,
        fit_on=data_arguments(fit_on or (), (), ()),
        exhibits=_EXHIBITS if any(BENCH_WRITERS[kind].shows_images for _, kind in files) else 0,
        argv=tuple(sys.argv),
    )
    read = [path for path in (detector, scores_from, families, baseline, *(compare or ())) if path is not None]
    inputs = [*read, *(text.split("=", 1)[-1] for text in [*images, *(fit_on or [])])]
    outputs = BenchOutputs(files, as_json=as_json, force=force, quiet=quiet)
    failed_gates = measure(request, outputs, inputs, resume=resume)
    raise typer.Exit(1 if failed_gates else 0)


def _check_needs(*pairs: tuple[str, bool, str, bool, str]) -> None:
    """Refuse options that would do nothing: each is given or not, needs another that is given or not, and says why."""
    for option, given, needed, there, why in pairs:
        if given and not there:
            raise IncompatibleOptions(option, needed, why, needs=True)


def _check_source(detector: Path | None, scores_from: Path | None, of_images: Mapping[str, bool]) -> None:
    """Either a detector with images or a file of scores, which has no use for the options `of_images`."""
    if scores_from is None:
        if detector is None:
            raise NothingToDo("there is nothing to measure", "give a detector and images, or --scores-from")
        if not of_images["--real, --fake and --data"]:
            raise NothingToDo("there are no images to measure on", "give --real and --fake, or --data")
        return
    given = (["DETECTOR"] if detector is not None else []) + [name for name, value in of_images.items() if value]
    if given:
        raise IncompatibleOptions("--scores-from", given[0], "it replaces the detector and the images")


def _check_protocols(files: Sequence[tuple[Path, BenchFormat]], given: Mapping[str, bool]) -> None:
    """Refuse what has no meaning where the detector's settings are fitted again."""
    reasons = {
        "--overlap": "nothing that the detector was fitted or calibrated on is used",
        "--resume": "fits are not kept",
        "-o FILE.scores.csv": "an image has another score in every protocol",
    }
    of_scores = any(kind.value == "scores" for _, kind in files)
    for option, value in {**given, "-o FILE.scores.csv": of_scores}.items():
        if value:
            raise IncompatibleOptions(option, "--protocol", reasons[option])


def overlap_policy(text: OverlapWord) -> OverlapPolicy:
    """The policy that `--overlap` names."""
    from muflow_cli.bench.data import OverlapPolicy

    return OverlapPolicy(text)


def _conditions(texts: Sequence[str], suites: Sequence[str], sides: Sequence[str]) -> tuple[Condition, ...]:
    from muflow_cli.bench.robustness import Condition, On
    from muflow_cli.images.perturb import SUITES, parse

    for name in suites:
        if name not in SUITES:
            raise BadSpec("--suite", name, "one of " + ", ".join(SUITES))
    for side in sides:
        if side not in set(On):
            raise BadSpec("--on", side, "one of " + ", ".join(On))
    perturbations = [*map(parse, texts), *(perturbation for name in suites for perturbation in SUITES[name])]
    return tuple(dict.fromkeys(Condition(perturbation, On(side)) for perturbation in perturbations for side in sides))
