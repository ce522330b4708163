"""`muflow calibrate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from muflow_cli.cli import options
from muflow_cli.cli.progress import StageProgress, stderr_console
from muflow_cli.errors import BadSpec
from muflow_cli.specs import Method, Precision, Tail

if TYPE_CHECKING:
    from collections.abc import Iterator

    from muflow_cli.calibrate import CalibrateSummary
    from muflow_cli.rates import Description, Normality, RateBounds


def calibrate_command(
    detector: options.DetectorArgument,
    reals: Annotated[
        list[str] | None,
        typer.Argument(metavar="REAL...", help="Folders, files or archives of REAL faces; none = the stored scores."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Instead of the detector's own file.")
    ] = None,
    method: Annotated[Method | None, typer.Option("--method", help="How scores become a verdict.")] = None,
    alpha: Annotated[float | None, typer.Option("--alpha", help="Nominal false-positive rate, 0 to 1.")] = None,
    tail: Annotated[Tail | None, typer.Option("--tail", help="Which side of the reals is suspicious.")] = None,
    band: Annotated[
        str | None, typer.Option("--band", metavar="LO,HI", help="These p-values are inconclusive; none = no band.")
    ] = None,
    by: Annotated[
        str | None,
        typer.Option("--by", metavar="FACT,...", help="Calibrate apart by format, quality, size; none = all together."),
    ] = None,
    append: Annotated[bool, typer.Option("--append", help="Add to the stored scores.")] = False,
    device: options.Device = "auto",
    precision: options.PrecisionOption = Precision.AUTO,
    workers: options.Workers = 0,
    exclude: options.Exclude = None,
    hidden: options.Hidden = False,
    follow_links: options.FollowLinks = False,
    max_bytes: options.MaxBytes = options.MAX_BYTES,
    max_pixels: options.MaxPixels = options.MAX_PIXELS,
    force: options.Force = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON on stdout.")] = False,
    quiet: options.Quiet = False,
) -> None:
    """Compare with your own REAL face pictures: they set the threshold and the p-values; the flow stays as it is.

    Pictures that the detector was fitted on are left out. What is not asked for stays as the detector has it; without
    REAL, the rule is changed and the stored scores are used. Without -o the detector's own file is replaced, which
    needs --force.

    Examples: `muflow calibrate faces.safetensors ~/reals -o mine.safetensors --alpha 0.01`,
    `muflow calibrate mine.safetensors --method fisher --alpha 0.05 --force`
    """
    rule = {"method": method, "alpha": alpha, "tail": tail}
    given: dict[str, Any] = {name: value for name, value in rule.items() if value is not None}
    if band is not None:
        given["band"] = _band(band)
    if by is not None:
        given["by"] = () if by == "none" else tuple(dict.fromkeys(by.split(",")))
    inputs = options.input_spec(exclude, hidden, follow_links, max_bytes, max_pixels)
    console = stderr_console(quiet)
    from muflow_cli.calibrate import CalibrateRequest, calibrate
    from muflow_cli.canonical import to_json

    request = CalibrateRequest(
        detector=detector,
        reals=tuple(reals or ()),
        output=output,
        rule=given,
        append=append,
        inputs=inputs,
        device=device,
        precision=precision,
        workers=options.worker_count(workers),
        force=force,
    )
    with StageProgress(console) as progress:
        summary = calibrate(request, progress)
    if as_json:
        typer.echo(json.dumps(to_json(summary)))
    _tell(console, summary)


def _band(text: str) -> tuple[float, float] | None:
    if text == "none":
        return None
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise BadSpec("--band", text, "two p-values LO,HI, or none") from None
    return low, high


def _tell(console: Console, summary: CalibrateSummary) -> None:
    """The summary, for people."""
    said = summary.description
    rows = [
        ("pictures", _pictures(summary)),
        ("rule", _rule(said)),
        ("p-values", f"the smallest that {said.pictures} reals can give is {said.smallest_p_value:.3g}"),
        *_promises(said),
        *_strata(said),
        ("typical", _typical(said)),
        ("fingerprint", f"{summary.fingerprint} (as before)"),
        ("calibration", summary.calibration_fingerprint),
        ("wrote", summary.output),
    ]
    for name, text in rows:
        console.print(f"{name:14} {text}")


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items()) or "none"


def _pictures(summary: CalibrateSummary) -> str:
    stored = f" and {summary.kept} stored" if summary.kept else ""
    return (
        f"{summary.scored} scored{stored}, n = {summary.description.pictures}; "
        f"left out: {_counts(summary.left_out)}; unreadable: {_counts(summary.unreadable)}"
    )


def _rule(said: Description) -> str:
    rule = said.rule
    band = f"p from {rule.band[0]:g} to {rule.band[1]:g} inconclusive" if rule.band else "no band"
    by = f"by {', '.join(rule.by)}" if rule.by else "one stratum"
    return f"{rule.method}, alpha {rule.alpha:g}, tail {rule.tail}; {band}; {by}"


def _promises(said: Description) -> Iterator[tuple[str, str]]:
    """What is known of the false-positive rate under this rule."""
    if said.true_rate is not None:
        start = f"alpha {said.rule.alpha:g} from {said.pictures} reals: "
        yield "true rate", f"{start}{_bounds(said.true_rate)}, on pictures of the same kind as these"
    else:
        yield "true rate", f"method {said.rule.method} promises none"
    if said.normality is not None:
        yield "normality", _normality(said.normality, said.rule.alpha)
    if said.fitted_on is not None:
        subsample = " (a seeded subsample)" if said.fitted_on < said.pictures else ""
        yield "fitted on", f"{said.fitted_on} of {said.pictures} reals{subsample}"


def _bounds(rate: RateBounds) -> str:
    return (
        f"true rate at most {rate.at_most:.3g} with 95 % confidence (95 % interval {rate.low:.3g} to {rate.high:.3g})"
    )


def _normality(fit: Normality, alpha: float) -> str:
    p_value = "at most 0.01" if fit.poor_fit else "at least 0.15" if fit.p_value >= 0.15 else f"{fit.p_value:.2f}"
    verdict = "warning: the Gaussian fits badly, trust the share" if fit.poor_fit else "nothing against a Gaussian"
    return (
        f"skew {fit.skew:.2f}, Anderson-Darling {fit.anderson_darling:.2f} (p {p_value}): {verdict}; "
        f"share of these reals beyond the threshold {fit.flagged_share:.3g} for alpha {alpha:g} "
        f"(95 % interval {fit.low:.3g} to {fit.high:.3g})"
    )


def _strata(said: Description) -> Iterator[tuple[str, str]]:
    for stratum in said.strata:
        text = f"{stratum.name}: {stratum.pictures} reals"
        if not stratum.calibrated:
            text += f", fewer than {said.stratum_minimum}: judged by all {said.pictures}"
        elif stratum.true_rate is not None:
            text += f", {_bounds(stratum.true_rate)}"
        yield "stratum", text


def _typical(said: Description) -> str:
    known = said.ranges.limits.items()
    spans = (f"{name.replace('_', ' ')} {limits[0]:.4g} to {limits[1]:.4g}" for name, limits in known if limits)
    return f"{', '.join(said.ranges.formats)}; {'; '.join(spans)}; a scan marks pictures outside as atypical"
