"""A bench report (schema "muflow.bench/1") as text: a table for people, JSON, CSV, Markdown, JUnit XML.

Every writer draws from the report's JSON value, so that none can say what the others do not.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final
from xml.etree import ElementTree

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from muflow_cli.output.inert import cell, escape

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
_CSV: Final = ("scorer", "perturbation", "on", "source", "level", "name", "family", "reals", "fakes", "metric", "value",
               "low", "high")  # fmt: skip  # one header line


def to_bytes(report: Report) -> bytes:
    """The report as indented ASCII JSON with a newline at its end."""
    return json.dumps(report, indent=1, ensure_ascii=True, allow_nan=False).encode("ascii") + b"\n"


def figure_text(figure: Mapping[str, float] | None) -> str:
    """`0.812 [0.79, 0.83]`, or a dash for a figure that these scores do not have."""
    return "-" if figure is None else f"{figure['value']:.3f} [{figure['low']:.2f}, {figure['high']:.2f}]"


def rate_text(share: Mapping[str, float] | None) -> str:
    """`7.1 % [4.0, 11.5]`, or a dash."""
    if share is None:
        return "-"
    return f"{100 * share['value']:.1f} % [{100 * share['low']:.1f}, {100 * share['high']:.1f}]"


def headline_text(report: Report) -> str:
    """The headline as one sentence."""
    headline = report["headline"]
    text = f"macro AUC at the worst real source ({escape(headline['source'])}): {figure_text(headline)}"
    if headline["rule"]:
        text += (
            f"; ranked by the rule's p-value ({escape(headline['rule']['source'])}): {figure_text(headline['rule'])}"
        )
    return text


def data_text(report: Report) -> str:
    """What was scored and what was left out, as one sentence."""
    data = report["data"]
    parts = [f"{data['pictures']} pictures ({data['reals']} real, {data['fakes']} fake)"]
    parts += [f"{data['duplicates']} duplicates left out"] if data["duplicates"] else []
    parts += [f"at most {data['limit']} per group, {data['beyond_limit']} beyond it"] if data["limit"] else []
    parts += [f"{len(data['unreadable'])} unreadable"] if data["unreadable"] else []
    overlap = data["overlap"]
    verb = "left out" if overlap["policy"] == "drop" else "kept"
    for group, counts in overlap["groups"].items():
        known = ", ".join(f"{count} {how}" for how, count in counts.items())
        parts.append(f"{escape(group)}: known to the detector and {verb}: {known}")
    return "; ".join(parts)


def source_rows(report: Report) -> Iterator[list[str]]:
    """One row a real source: its name, number, false-positive rate and the macro figures; the worst is marked."""
    results = report["results"]
    for name, against in [*results["sources"].items(), ("all reals", results["all_reals"])]:
        mark = " (worst)" if name == results["worst_source"] else ""
        yield [escape(name) + mark, str(against["reals"]), rate_text(against["flagged"]), *_shown(against["macro"])]


def generator_rows(report: Report) -> Iterator[list[str]]:
    """One row a generator and family against the worst real source."""
    results = report["results"]
    against = results["sources"][results["worst_source"]]
    for name, one in against["generators"].items():
        caught = rate_text(one["caught"])
        chance = f"{one['prevalence']:.3f}"
        yield [escape(name), one["family"], str(one["fakes"]), caught, *_shown(one["figures"]), chance]
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
    """One row a real source: its macro AUC by each baseline, beside the detector's two."""
    for source in report["results"]["sources"]:
        macro = report["results"]["sources"][source]["macro"]
        nulls = [
            f"{sources[source]['macro']:.3f}" if source in sources else "-" for sources in report["nulls"].values()
        ]
        yield [escape(source), *nulls, figure_text(macro.get("auc")), figure_text(macro.get("rule_auc"))]


def condition_rows(report: Report) -> Iterator[list[str]]:
    """One row a perturbation, the clean pictures first."""
    clean = {"perturbation": "clean", "on": "", **{key: report[key] for key in ("headline", "results")}}
    for condition in [clean, *report["robustness"]["conditions"]]:
        headline, sources = condition["headline"], condition["results"]["sources"]
        rates = [against["flagged"]["value"] for against in sources.values() if against["flagged"]]
        highest = f"{100 * max(rates):.1f} %" if rates else "-"
        row = [condition["perturbation"], condition["on"], figure_text(headline), figure_text(headline["rule"])]
        yield [*row, highest]


def comparison_rows(report: Report) -> Iterator[list[str]]:
    """One row a scorer: this one first, then the others."""
    own = {"name": "this one", "scored": report["data"]["pictures"], "missing": 0, **report}
    for other in [own, *report["comparisons"]]:
        headline = other["headline"]
        counts = [str(other["scored"]), str(other["missing"])]
        yield [escape(other["name"]), *counts, figure_text(headline), figure_text(headline["rule"])]


def gate_rows(report: Report) -> Iterator[list[str]]:
    """One row a gate, those that failed first."""
    for gate in sorted(report["gates"], key=lambda gate: gate["held"]):
        held = "held" if gate["held"] else "FAILED"
        yield [held, escape(gate["gate"]), escape(gate["where"]), f"{gate['value']:.4f}", gate["needed"]]


def _plain(value: object) -> str:
    return f"{value:,}" if isinstance(value, int | float) else str(value)


def ablation_rows(report: Report) -> Iterator[list[str]]:
    """One row a scorer and classifier, at the worst real source of that row."""
    for row in report["ablation"]["table"]:
        head = [row["target"], row["flow"], row["classifier"], f"{row['alpha']:g}"]
        if row["figures"] is None:
            yield [*head, "-", "-", "-", "-", escape(row["note"])]
            continue
        figures = row["figures"][row["worst_source"]]
        highest = max(source["fpr"]["value"] for source in row["figures"].values())
        accuracy = f"{figures['accuracy']['value']:.3f}"
        values = [figure_text(figures["auc"]), f"{figures['ap']['value']:.3f}", accuracy, f"{100 * highest:.1f} %"]
        yield [*head, *values, escape(row["worst_source"])]


def silhouette_rows(report: Report) -> Iterator[list[str]]:
    """One row an N."""
    for point in report["ablation"]["silhouette"]:
        numbers = (point["by_group"], point["real_against_fake"], point["overlap"])
        yield [str(point["mean_size"]), *(f"{number:.3f}" for number in numbers)]


Section = tuple[str, Sequence[str], list[list[str]]]


def sections(report: Report) -> Iterator[Section]:
    """Title, headings and rows of every table that the report has."""
    metrics = [heading for heading, _, _ in _SHOWN]
    yield "Macro over generators, per real source", ["reals", "n", "FPR", *metrics], list(source_rows(report))
    worst = escape(report["results"]["worst_source"])
    generators = ["generator", "family", "n", "flagged", *metrics, "AP of chance"]
    yield f"Generators against {worst}", generators, list(generator_rows(report))
    if report["nulls"]:
        headings = ["reals", *report["nulls"], "detector, AUC", "detector, rule AUC"]
        yield "What the data gives away: macro AUC of null baselines", headings, list(null_rows(report))
    if report["robustness"]["conditions"]:
        headings = ["perturbation", "on", "worst macro AUC", "worst macro rule AUC", "highest FPR"]
        yield "Robustness", headings, list(condition_rows(report))
    if report["comparisons"]:
        headings = ["scores", "n", "missing", "worst macro AUC", "worst macro rule AUC"]
        yield "Side by side", headings, list(comparison_rows(report))
    if report["ablation"]:
        headings = ["target", "score", "classifier", "alpha", "macro AUC", "AP", "acc.", "highest FPR", "worst source"]
        yield "Ablation", headings, list(ablation_rows(report))
    if report["ablation"] and report["ablation"]["silhouette"]:
        headings = ["N", "by group", "real against fake", "shared pictures"]
        yield "Silhouette of average features", headings, list(silhouette_rows(report))
    if report["run"].get("throughput"):
        rows = [[name.replace("_", " "), _plain(value)] for name, value in report["run"]["throughput"].items()]
        yield "Throughput", ["what", "value"], rows
    if report["gates"]:
        yield "Gates", ["", "gate", "where", "value", "needed"], list(gate_rows(report))


_GAP: Final = 3  # between two columns
_LEAST_NAME: Final = 16


def print_tables(report: Report, console: Console) -> None:
    """The report for people; a table too wide for the console goes on below itself."""
    console.print(headline_text(report), style="bold")
    console.print(data_text(report))
    for title, headings, rows in sections(report):
        for number, columns in enumerate(_side_by_side(headings, rows, console.width)):
            whole = title if number == 0 else f"{title}, continued"
            table = Table(title=whole, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
            for column in columns:
                table.add_column(headings[column], overflow="fold")
            for row in rows:
                table.add_row(*(row[column] for column in columns), style="bold red" if row[0] == "FAILED" else "")
            console.print(table)


def _side_by_side(headings: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> Iterator[list[int]]:
    """Columns of tables that are no wider than `width` and say all of it in turn, each under the first column."""
    widths = [max(cell_len(row[column]) for row in (headings, *rows)) + _GAP for column in range(len(headings))]
    widths[0] = min(widths[0], max(_LEAST_NAME, width // 3))  # long names are folded
    columns, taken = [0], widths[0]
    for column in range(1, len(headings)):
        if taken + widths[column] > width and len(columns) > 1:
            yield columns
            columns, taken = [0], widths[0]
        columns.append(column)
        taken += widths[column]
    yield columns


def markdown(report: Report) -> str:
    """The tables in Markdown, for a README."""
    lines = [f"**{_inline(headline_text(report))}**", "", _inline(data_text(report)), ""]
    for title, headings, rows in sections(report):
        lines += [f"### {_inline(title)}", "", _line(headings), _line(["---"] * len(headings))]
        lines += [*map(_line, rows), ""]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_inline(text) for text in cells) + " |"


def _inline(text: str) -> str:
    for mark in "\\`*_|<>":
        text = text.replace(mark, f"\\{mark}" if mark not in "<>" else {"<": "&lt;", ">": "&gt;"}[mark])
    return text


def csv_bytes(report: Report) -> bytes:
    """Every figure on a line of its own, full precision, CR LF."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(_CSV)
    writer.writerows([cell(one) if isinstance(one, str) else one for one in row] for row in _figures(report))
    return text.getvalue().encode()


def _figures(report: Report) -> Iterator[list[Any]]:
    yield from _of_results(["detector", "", ""], report["results"])
    for condition in report["robustness"]["conditions"]:
        yield from _of_results(["detector", condition["perturbation"], condition["on"]], condition["results"])
    for other in report["comparisons"]:
        yield from _of_results([other["name"], "", ""], other["results"])
    for baseline, sources in report["nulls"].items():
        for source, against in sources.items():
            for name, value in against["generators"].items():
                yield [baseline, "", "", source, "generator", name, "", "", "", "auc", value, "", ""]
            yield [baseline, "", "", source, "macro", "", "", "", "", "auc", against["macro"], "", ""]


def _of_results(head: list[Any], results: Report) -> Iterator[list[Any]]:
    for source, against in [*results["sources"].items(), ("all reals", results["all_reals"])]:
        reals = against["reals"]
        if against["flagged"]:
            yield [*head, source, "reals", "", "", reals, "", "fpr", *_ends(against["flagged"])]
        for name, one in against["generators"].items():
            place = [*head, source, "generator", name, one["family"], reals, one["fakes"]]
            yield [*place, "prevalence", one["prevalence"], "", ""]
            if one["caught"]:
                yield [*place, "tpr", *_ends(one["caught"])]
            yield from ([*place, metric, *_ends(figure)] for metric, figure in one["figures"].items())
        means = [*(("family", name, figures) for name, figures in against["families"].items())]
        means += [("macro", "", against["macro"]), ("pooled", "", against["pooled"])]
        for level, name, figures in means:
            place = [*head, source, level, name, name if level == "family" else "", reals, ""]
            yield from ([*place, metric, *_ends(figure)] for metric, figure in figures.items())


def _ends(figure: Mapping[str, float]) -> list[float]:
    return [figure["value"], figure["low"], figure["high"]]


def junit(report: Report) -> bytes:
    """JUnit XML: one test case per gate; without gates, one that holds and states the headline."""
    gates = report["gates"]
    failures = sum(not gate["held"] for gate in gates)
    count = {"tests": str(max(1, len(gates))), "failures": str(failures)}
    suites = ElementTree.Element("testsuites", count)
    suite = ElementTree.SubElement(suites, "testsuite", {"name": "muflow bench", **count})
    for gate in gates:
        case = ElementTree.SubElement(suite, "testcase", {"classname": "muflow.bench", "name": escape(gate["gate"])})
        said = f"{escape(gate['where'])}: {gate['value']:.4f}, needed {gate['needed']}"
        ElementTree.SubElement(case, "system-out" if gate["held"] else "failure", {} if gate["held"] else {
            "message": said}).text = said  # fmt: skip  # one call
    if not gates:
        case = ElementTree.SubElement(suite, "testcase", {"classname": "muflow.bench", "name": "measured"})
        ElementTree.SubElement(case, "system-out").text = headline_text(report)
    document: bytes = ElementTree.tostring(suites, encoding="utf-8", xml_declaration=True)
    return document
