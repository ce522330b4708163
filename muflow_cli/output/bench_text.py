"""A bench report (schema "muflow.bench/2") as text: tables for people, JSON, CSV, Markdown.

Every writer draws from the report's JSON value, so that all of them agree.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from rich.console import Console

from muflow_cli.output import batch_text, chance, detects_text, protocol_text
from muflow_cli.output.aliases import ALIASES
from muflow_cli.output.figures import ends, figure_text, rate_text, source_figures
from muflow_cli.output.inert import cell, escape
from muflow_cli.output.sections import Section, markdown_sections, print_sections
from muflow_cli.run_records import SkippedFiles
from muflow_cli.skipped import skipped_text

Report = Mapping[str, Any]

# Columns of the tables: heading, metric, and whether its interval is shown (JSON and CSV hold them all).
_SHOWN: Final = (
    ("AUC", "auc", True),
    ("folded AUC", "folded_auc", True),
    ("rule AUC", "rule_auc", True),
    ("pAUC", "pauc", False),
    ("AP", "ap", False),
    ("TPR@5%", "tpr_at_fpr_0.05", False),
    ("TPR@1%", "tpr_at_fpr_0.01", False),
    ("acc.", "accuracy", False),
    ("bal.", "balanced_accuracy", False),
)
_KNOWN: Final = {
    "fitted": "fitted on",
    "calibrated": "calibrated on",
    "near_fitted": "fitted on near copies of",
    "near_calibrated": "calibrated on near copies of",
}
_CSV: Final = ("scorer", "perturbation", "on", "source", "level", "name", "family", "reals", "fakes", "metric", "value",
               "low", "high")  # fmt: skip  # one header line


def to_bytes(report: Report) -> bytes:
    """The report as indented ASCII JSON with a newline at its end."""
    return json.dumps(report, indent=1, ensure_ascii=True, allow_nan=False).encode("ascii") + b"\n"


def headline_text(report: Report) -> str:
    """The headline as one sentence."""
    if report["protocols"]:
        return next(protocol_text.claims(report))
    headline = report["headline"]
    text = f"macro AUC at the worst real source ({escape(headline['source'])}) is {figure_text(headline)}"
    text += chance.aside(headline)
    if headline["rule"]:
        rule = headline["rule"]
        text += f"; as the rule ranks it is {figure_text(rule)} ({escape(rule['source'])}){chance.aside(rule)}"
    return text


def data_text(report: Report) -> str:
    """What was scored and what was left out, as one sentence."""
    data = report["data"]
    where = "as found" if data["container"] is None else f"in one container ({data['container']})"
    parts = [f"{data['images']} images ({data['reals']} real, {data['fakes']} fake), {where}"]
    parts += [f"{data['duplicates']} duplicates left out"] if data["duplicates"] else []
    near = data["near_copies"]
    parts += [f"{near} near {'copy' if near == 1 else 'copies'} of other images left out"] if near else []
    parts += [f"limited to {data['limit']} per group, {data['beyond_limit']} left out"] if data["limit"] else []
    without_face = sum(item["code"] == "no_face" for item in data["unreadable"])
    broken = len(data["unreadable"]) - without_face
    parts += [f"{broken} unreadable"] if broken else []
    parts += [f"{without_face} without a face"] if without_face else []
    counted = [SkippedFiles(**row) for row in data.get("skipped", ())]
    parts += [f"skipped {skipped_text(counted)}"] if counted else []
    for group in data["groups"]:
        if group["declared"]:
            counts = ", ".join(f"{count} declared {origin}" for origin, count in group["declared"].items())
            parts.append(f"{escape(group['group'])} has {counts} of {group['images']}")
    overlap = data["overlap"]
    verb = "left out" if overlap["policy"] == "drop" else "kept"
    for group, counts in overlap["groups"].items():
        known = " and ".join(f"{_KNOWN[how]} {count}" for how, count in counts.items())
        parts.append(f"{escape(group)}: the detector was {known} of these images, which are {verb}")
    return "; ".join(parts)


def undeclared_rows(report: Report) -> Iterator[list[str]]:
    """The headline on all images, and without those that declare themselves synthetic."""
    data, left = report["data"], report["undeclared"]
    for name, part, counted in (("all images", report, data), ("without declared synthetic", left, left)):
        headline = part["headline"]
        figures = figure_text(headline), figure_text(headline["rule"])
        yield [name, str(counted["reals"]), str(counted["fakes"]), escape(headline["source"]), *figures]


def source_rows(report: Report) -> Iterator[list[str]]:
    """One row per real source with its name, number, false-positive rate and macro figures; the worst is marked."""
    results = report["results"]
    for name, against in [*results["sources"].items(), ("all reals", results["all_reals"])]:
        mark = " (worst)" if name == results["worst_source"] else ""
        yield [escape(name) + mark, str(against["reals"]), rate_text(against["flagged"]), *_shown(against["macro"])]


def generator_rows(report: Report) -> Iterator[list[str]]:
    """One row per generator and family against the worst real source."""
    results = report["results"]
    against = results["sources"][results["worst_source"]]
    for name, generator in against["generators"].items():
        head = [escape(name), generator["family"], str(generator["fakes"]), rate_text(generator["caught"])]
        yield [*head, *_shown(generator["figures"]), f"{generator['prevalence']:.3f}"]
    for name, figures in against["families"].items():
        yield [f"mean of {escape(name)}", "", "", "", *_shown(figures), ""]
    yield ["pooled", "", "", "", *_shown(against["pooled"]), ""]


def _shown(figures: Mapping[str, Mapping[str, float]]) -> list[str]:
    return [
        figure_text(figures.get(metric))
        if interval
        else ("-" if metric not in figures else f"{figures[metric]['value']:.3f}")
        for _, metric, interval in _SHOWN
    ]


def null_rows(report: Report) -> Iterator[list[str]]:
    """One row per real source with its macro AUC by each baseline, beside the detector's two."""
    for source in report["results"]["sources"]:
        macro = report["results"]["sources"][source]["macro"]
        nulls = [
            f"{sources[source]['macro']:.3f}" if source in sources else "-" for sources in report["nulls"].values()
        ]
        yield [escape(source), *nulls, figure_text(macro.get("auc")), figure_text(macro.get("rule_auc"))]


def condition_rows(report: Report) -> Iterator[list[str]]:
    """One row per perturbation, the clean images first."""
    clean = {"perturbation": "clean", "on": "", **{key: report[key] for key in ("headline", "results")}}
    for condition in [clean, *report["robustness"]["conditions"]]:
        headline, sources = condition["headline"], condition["results"]["sources"]
        rates = [against["flagged"]["value"] for against in sources.values() if against["flagged"]]
        highest = f"{100 * max(rates):.1f} %" if rates else "-"
        row = [condition["perturbation"], condition["on"], figure_text(headline), figure_text(headline["rule"])]
        yield [*row, highest]


def comparison_rows(report: Report) -> Iterator[list[str]]:
    """One row per scorer, this detector first."""
    own = {"name": "this detector", "scored": report["data"]["images"], "missing": 0, **report}
    for other in [own, *report["comparisons"]]:
        headline = other["headline"]
        counts = [str(other["scored"]), str(other["missing"])]
        yield [escape(other["name"]), *counts, figure_text(headline), figure_text(headline["rule"])]


def scorer_sections(report: Report) -> Iterator[Section]:
    """AUC of every generator against the worst real source, a row for each scorer and ranking."""
    worst = report["results"]["worst_source"]
    names = report["results"]["sources"][worst]["generators"]
    rows = []
    for other in [{"name": "this detector", **report}, *report["comparisons"]]:
        against = other["results"]["sources"].get(worst)
        for metric, ranking in (("auc", "score"), ("rule_auc", "rule")):
            if against is None or metric not in against["macro"]:
                continue
            figures = [against["generators"].get(name, {"figures": {}})["figures"].get(metric) for name in names]
            rows.append([escape(other["name"]), ranking, *map(figure_text, figures)])
    yield f"AUC against {escape(worst)}, side by side", ["scores", "ranked by", *map(escape, names)], rows


def difference_sections(report: Report) -> Iterator[Section]:
    """For each other detector a table of paired differences: a row per generator, a column per real source."""
    for other in report["comparisons"]:
        for ranking in ("score", "rule"):
            sources = {name: by[ranking] for name, by in other["differences"].items() if ranking in by}
            if not sources:
                continue
            names = next(iter(sources.values()))["generators"]
            rows = [[escape(name), *(_gap(by["generators"][name]) for by in sources.values())] for name in names]
            rows.append(["macro", *(_gap(by["macro"]) for by in sources.values())])
            by = "the score" if ranking == "score" else "the rule"
            title = f"AUC by {by}, this detector minus {escape(other['name'])} on the same images"
            yield title, ["generator", *map(escape, sources)], rows


def _gap(figure: Mapping[str, float]) -> str:
    return f"{figure['value']:+.3f} [{figure['low']:+.3f}, {figure['high']:+.3f}]"


def gate_rows(report: Report) -> Iterator[list[str]]:
    """One row per gate, those that failed first."""
    for gate in sorted(report["gates"], key=lambda gate: gate["held"]):
        held = "held" if gate["held"] else "FAILED"
        yield [held, escape(gate["gate"]), escape(gate["where"]), f"{gate['value']:.4f}", gate["needed"]]


def sections(report: Report) -> Iterator[Section]:
    """Title, headings and rows of every table that the report has."""
    if report["protocols"]:
        yield from protocol_text.sections(report)
        return
    metrics = [heading for heading, _, _ in _SHOWN]
    yield "Mean over generators for each real source", ["reals", "n", "FPR", *metrics], list(source_rows(report))
    worst = escape(report["results"]["worst_source"])
    generators = ["generator", "family", "n", "flagged", *metrics, "AP of chance"]
    yield f"Generators against {worst}", generators, list(generator_rows(report))
    if report["undeclared"]:
        headings = ["images", "reals", "fakes", "worst reals", "macro AUC", "macro rule AUC"]
        yield "Without the images that declare themselves synthetic", headings, list(undeclared_rows(report))
    if report["nulls"]:
        headings = ["reals", *report["nulls"], "detector, AUC", "detector, rule AUC"]
        yield "Macro AUC of facts, sharpness and marks alone", headings, list(null_rows(report))
    if report["robustness"]["conditions"]:
        headings = ["perturbation", "on", "worst macro AUC", "worst macro rule AUC", "highest FPR"]
        yield "Robustness", headings, list(condition_rows(report))
    if report["comparisons"]:
        headings = ["scores", "n", "missing", "worst macro AUC", "worst macro rule AUC"]
        yield "Side by side", headings, list(comparison_rows(report))
        yield from scorer_sections(report)
        yield from difference_sections(report)
    yield from batch_text.sections(report)
    speed = report["run"].get("throughput")
    if speed:
        rows = [
            [name.replace("_", " "), f"{value:,}" if isinstance(value, int | float) else str(value)]
            for name, value in speed.items()
            if name not in ALIASES["Throughput"]
        ]
        yield "Speed", ["quantity", "value"], rows
    if report["gates"]:
        yield "Gates", ["", "gate", "where", "value", "needed"], list(gate_rows(report))


def sentences(report: Report) -> list[str]:
    """What stands above the tables, without full stops."""
    if report["protocols"]:
        first, *others = protocol_text.claims(report)
        return [first, data_text(report), *others]
    claims = [*detects_text.claims(report["claims"], "It"), *batch_text.claims(report)]
    return [headline_text(report), *chance.sentences(report["results"]), data_text(report), *claims]


def print_tables(report: Report, console: Console) -> None:
    """The report for people, see `sections.print_sections`."""
    print_sections(sentences(report), sections(report), console)


def markdown(report: Report) -> str:
    """The tables in Markdown, for a README."""
    return markdown_sections(sentences(report), sections(report))


def csv_bytes(report: Report) -> bytes:
    """Every figure on a line of its own, full precision, CR LF."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(_CSV)
    writer.writerows([cell(value) if isinstance(value, str) else value for value in row] for row in _figures(report))
    return text.getvalue().encode()


def _figures(report: Report) -> Iterator[list[Any]]:
    yield from protocol_text.figures(report)
    if report["results"]:
        yield from _result_figures(["detector", "", ""], report["results"])
    if report["undeclared"]:
        yield from _result_figures(["detector, undeclared images", "", ""], report["undeclared"]["results"])
    for condition in report["robustness"]["conditions"]:
        yield from _result_figures(["detector", condition["perturbation"], condition["on"]], condition["results"])
    for other in report["comparisons"]:
        yield from _result_figures([other["name"], "", ""], other["results"])
        yield from _difference_figures(other)
    yield from _roc_figures(report["roc"])
    yield from batch_text.figures(report)
    for baseline, sources in report["nulls"].items():
        for source, against in sources.items():
            for name, value in against["generators"].items():
                yield [baseline, "", "", source, "generator", name, "", "", "", "auc", value, "", ""]
            yield [baseline, "", "", source, "macro", "", "", "", "", "auc", against["macro"], "", ""]


def _difference_figures(other: Report) -> Iterator[list[Any]]:
    """This detector's AUC minus that of another."""
    for source, rankings in other["differences"].items():
        for ranking, difference in rankings.items():
            head = [f"detector - {other['name']}", "", "", source]
            metric = "auc difference" if ranking == "score" else f"{ranking}_auc difference"
            for name, figure in difference["generators"].items():
                yield [*head, "generator", name, "", "", "", metric, *ends(figure)]
            yield [*head, "macro", "", "", "", "", metric, *ends(difference["macro"])]


def _roc_figures(roc: Report | None) -> Iterator[list[Any]]:
    """The points of every curve: the metric names the ranking and the false-positive rate."""
    for source, generators in (roc["tpr"] if roc else {}).items():
        for name, rankings in generators.items():
            for ranking, shares in rankings.items():
                for rate, share in zip(roc["fpr"] if roc else (), shares, strict=True):
                    metric = f"{'' if ranking == 'score' else 'rule_'}tpr_at_fpr_{rate:g}"
                    yield ["detector", "", "", source, "roc", name, "", "", "", metric, share, "", ""]


def _result_figures(head: list[Any], results: Report) -> Iterator[list[Any]]:
    for source, against in [*results["sources"].items(), ("all reals", results["all_reals"])]:
        yield from source_figures(head, source, against)
