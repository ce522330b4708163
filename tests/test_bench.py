"""`bench`: figures are scikit-learn's, the worst source is the headline, gates and files keep their promises."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import numpy as np
import pytest
from bench_samples import GROUPS, SPEC, make_report, make_rows
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from sklearn import metrics as sk

from muflow_cli.bench.data import Known, OverlapPolicy, SelectSpec, select
from muflow_cli.bench.datasets import Dataset, Sample
from muflow_cli.bench.differences import paired_differences
from muflow_cli.bench.document import headline
from muflow_cli.bench.evaluate import METRICS, evaluate
from muflow_cli.bench.gates import check_drop, check_gates, check_names, parse_gate, read_baseline
from muflow_cli.bench.manifest import Label
from muflow_cli.bench.robustness import On, mixed
from muflow_cli.bench.roc import GRID, roc_points
from muflow_cli.bench.scores import Row, compare_scores, data_digest, read_scores, scores_csv
from muflow_cli.errors import BadData, BadExpression, BadScores, BadTable
from muflow_cli.images.inputs import Input
from muflow_cli.output import bench_text
from muflow_cli.output.junit import junit

SCHEMA = json.loads((Path(bench_text.__file__).parent / "schemas" / "bench-2.json").read_text())


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return make_rows()


@pytest.fixture(scope="module")
def report() -> dict[str, object]:
    return make_report()


def of(rows: list[Row], *groups: str) -> tuple[list[Row], list[bool]]:
    chosen = [row for row in rows if row.group in groups]
    return chosen, [row.fake for row in chosen]


# ---- figures


def test_every_ranking_is_scikit_learns(rows: list[Row]) -> None:
    found = evaluate(rows, SPEC).sources["celebahq"].generators["sdxl_tiles"].figures
    pair, labels = of(rows, "celebahq", "sdxl_tiles")
    for prefix, values in {
        "": [row.score for row in pair],
        "folded_": [abs(row.score) for row in pair],
        "rule_": [row.suspicion for row in pair],
    }.items():
        assert found[f"{prefix}auc"].value == pytest.approx(sk.roc_auc_score(labels, values), abs=1e-12)
        assert found[f"{prefix}pauc"].value == pytest.approx(sk.roc_auc_score(labels, values, max_fpr=0.05), abs=1e-12)
        assert found[f"{prefix}ap"].value == pytest.approx(sk.average_precision_score(labels, values), abs=1e-12)
    flags = [bool(row.flagged) for row in pair]
    assert found["accuracy"].value == pytest.approx(sk.accuracy_score(labels, flags))
    assert found["balanced_accuracy"].value == pytest.approx(sk.balanced_accuracy_score(labels, flags))
    assert set(found) == set(METRICS)


def test_a_benchmark_computed_by_hand() -> None:
    def row(group: str, score: float, label: Label) -> Row:
        return Row(path=f"{group}{score}", label=label, group=group, source=group, score=score, flagged=score > 2)

    rows = [row("a", s, Label.REAL) for s in (1, 3)] + [row("b", s, Label.REAL) for s in (0, 1)]
    rows += [row("g", s, Label.FAKE) for s in (2, 4)] + [row("h", 3, Label.FAKE)]
    found = evaluate(rows, replace(SPEC, centre=None))
    assert found.sources["a"].generators["g"].figures["auc"].value == 3 / 4
    assert found.sources["a"].generators["h"].figures["auc"].value == (1 + 0.5) / 2
    assert found.sources["a"].macro["auc"].value == (3 / 4 + 3 / 4) / 2
    assert found.sources["a"].pooled["auc"].value == (1 + 2 + 1.5) / 6
    assert found.sources["b"].macro["auc"].value == 1
    assert found.worst_source == "a"
    assert headline(found).value == 3 / 4
    assert (found.sources["a"].flagged.flagged, found.sources["a"].flagged.images) == (1, 2)
    assert found.sources["a"].generators["g"].prevalence == 1 / 2
    assert found.sources["a"].generators["g"].figures["accuracy"].value == 2 / 4
    assert "folded_auc" not in found.sources["a"].macro
    assert "rule_auc" not in found.sources["a"].macro


def test_a_large_generator_counts_no_more_in_macro_but_does_in_pooled(rows: list[Row]) -> None:
    copies = [replace(row, path=f"{n}{row.path}") for row in rows if row.group == "sdxl_tiles" for n in range(9)]
    before, after = evaluate(rows, SPEC), evaluate([*rows, *copies], SPEC)
    assert headline(after).value == pytest.approx(headline(before).value)
    assert after.all_reals.pooled["auc"].value > before.all_reals.pooled["auc"].value + 0.1


def test_a_generator_may_be_called_pooled(rows: list[Row]) -> None:
    renamed = [replace(row, group="pooled") if row.group == "sdxl_tiles" else row for row in rows]
    before, after = evaluate(rows, SPEC).sources["celebahq"], evaluate(renamed, SPEC).sources["celebahq"]
    assert after.generators["pooled"].figures["auc"].value == before.generators["sdxl_tiles"].figures["auc"].value
    assert after.pooled["auc"].value == before.pooled["auc"].value


def test_intervals_hold_their_value_and_narrow_with_more_images(rows: list[Row]) -> None:
    figures = evaluate(rows, SPEC).sources["celebahq"].generators["stylegan2"].figures["auc"]
    assert figures.low < figures.value < figures.high
    many = evaluate([replace(row, path=f"{n}{row.path}") for n in range(9) for row in rows], SPEC)
    narrow = many.sources["celebahq"].generators["stylegan2"].figures["auc"]
    assert narrow.high - narrow.low < 0.6 * (figures.high - figures.low)


def test_reals_alone_are_refused(rows: list[Row]) -> None:
    with pytest.raises(BadScores, match="70 real and 0 fake"):
        evaluate([row for row in rows if not row.fake], SPEC)


def test_a_perturbed_side_replaces_that_side_only() -> None:
    clean, perturbed = make_rows(), make_rows(shift=9)
    for side, reals, fakes in ((On.BOTH, True, True), (On.REALS, True, False), (On.FAKES, False, True)):
        found = {row.path: row for row in mixed(clean, perturbed, side)}
        assert len(found) == len(clean)
        for old, new in zip(clean, perturbed, strict=True):
            assert found[old.path] == (new if (fakes if old.fake else reals) else old)


# ---- which images


def sample(folder: Path, name: str, data: bytes, label: Label, group: str = "g") -> Sample:
    path = folder / name
    path.write_bytes(data)
    return Sample(input=Input(str(path)), label=label, group=group, source=group)


def test_each_content_counts_once_and_what_cannot_be_read_is_recorded(tmp_path: Path) -> None:
    samples = [
        sample(tmp_path, "a", b"1", Label.REAL),
        sample(tmp_path, "b", b"1", Label.REAL),
        sample(tmp_path, "c", b"2", Label.FAKE),
        Sample(input=Input(str(tmp_path / "gone")), label=Label.REAL, group="g", source="g"),
    ]
    found = select(Dataset(tuple(samples)), Known(), SelectSpec())
    assert [Path(p.sample.path).name for p in found.images] == ["a", "c"]
    assert found.duplicates == 1
    assert [one.code for one in found.unreadable] == ["not_found"]


def test_one_content_with_two_labels_is_refused(tmp_path: Path) -> None:
    samples = (sample(tmp_path, "a", b"1", Label.REAL), sample(tmp_path, "b", b"1", Label.FAKE))
    with pytest.raises(BadData, match="same bytes"):
        select(Dataset(samples), Known(), SelectSpec())


def test_images_that_the_detector_knows_are_refused_dropped_or_kept_and_counted(tmp_path: Path) -> None:
    samples = [sample(tmp_path, f"r{n}", b"r%d" % n, Label.REAL, "ffhq") for n in range(4)]
    samples.append(sample(tmp_path, "f", b"f", Label.FAKE))
    every = select(Dataset(tuple(samples)), Known(), SelectSpec()).images
    known = Known(frozenset({every[0].sha256, every[1].sha256}), frozenset({every[2].sha256}))
    with pytest.raises(BadData, match=r"1 of ffhq that it was calibrated on, 2 of ffhq that it was fitted on"):
        select(Dataset(tuple(samples)), known, SelectSpec())
    for policy, left in ((OverlapPolicy.DROP, 2), (OverlapPolicy.ALLOW, 5)):
        found = select(Dataset(tuple(samples)), known, SelectSpec(overlap=policy))
        assert len(found.images) == left
        assert found.overlap == {"ffhq": {"calibrated": 1, "fitted": 2}}
    found = select(Dataset(tuple(samples)), known, SelectSpec(overlap=OverlapPolicy.ALLOW, limit=1))
    assert sum(sum(counts.values()) for counts in found.overlap.values()) <= 1


def test_a_limit_draws_by_content_not_by_name_and_grows(tmp_path: Path) -> None:
    def drawn(limit: int, prefix: str) -> set[str]:
        samples = [sample(tmp_path, f"{prefix}{n}", b"%d" % n, Label.REAL) for n in range(30)]
        samples.append(sample(tmp_path, "f", b"f", Label.FAKE))
        found = select(Dataset(tuple(reversed(samples))), Known(), SelectSpec(limit=limit))
        assert found.limited == 30 - limit
        return {p.sha256 for p in found.images}

    assert drawn(5, "x") == drawn(5, "y")
    assert len(drawn(5, "x")) == 6
    assert drawn(5, "x") < drawn(9, "x")


# ---- scores in and out


def test_scores_survive_a_file(tmp_path: Path, rows: list[Row]) -> None:
    path = tmp_path / "scores.csv"
    path.write_bytes(scores_csv(rows))
    assert read_scores(str(path)) == [replace(row, facts=None) for row in rows]
    assert data_digest(read_scores(str(path))) == data_digest(rows)


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(lambda s: s.strip() == s)


@given(names, names, st.floats(allow_nan=False, allow_infinity=False))
def test_any_name_and_score_survive_a_file(tmp_path_factory: pytest.TempPathFactory, p: str, g: str, s: float) -> None:
    path = tmp_path_factory.mktemp("scores") / "scores.csv"
    written = Row(path=p, label=Label.FAKE, group=g, source="s", score=s)
    path.write_bytes(scores_csv([written]))
    assert read_scores(str(path)) == [written]


def test_another_detectors_scores_are_matched_by_path(tmp_path: Path, rows: list[Row]) -> None:
    path = tmp_path / "other.csv"
    path.write_text("score,path\n" + "".join(f"{n},{row.path}\n" for n, row in enumerate(rows[:-3])))
    found = compare_scores(str(path), rows)
    assert [row.score for row in found] == list(range(len(rows) - 3))
    assert [row.group for row in found] == [row.group for row in rows[:-3]]
    assert {row.p_value for row in found} == {row.flagged for row in found} == {None}


def test_another_detectors_scores_are_matched_by_content_or_file_name_too(tmp_path: Path, rows: list[Row]) -> None:
    known = [replace(row, path=f"images/{n}.jpg", sha256=f"{n:064}") for n, row in enumerate(rows)]
    twins = [replace(row, path="other/0.jpg") for row in known[:1]]
    path = tmp_path / "other.csv"
    by_content = f"elsewhere.jpg,1,{known[5].sha256}"
    path.write_text(f"path,score,sha256\n{by_content}\nC:\\case\\7.jpg,2,\nmy/0.jpg,3,\nmy/9.jpg,4,\n")
    found = {row.path: row.score for row in compare_scores(str(path), known + twins)}
    # Two images have the file name of the third line, so that it is neither's.
    assert found == {"images/5.jpg": 1, "images/7.jpg": 2, "images/9.jpg": 4}


def test_a_paired_difference_is_that_of_the_two_aucs_and_narrower_than_either(rows: list[Row]) -> None:
    theirs = [replace(row, score=row.score + 0.01 * (len(row.path) % 3)) for row in rows]
    found = paired_differences(rows, theirs, SPEC.bootstrap)
    ours, others = evaluate(rows, SPEC), evaluate(theirs, SPEC)
    for source, rankings in found.items():
        gap, (a, b) = rankings["score"], (e.sources[source].macro["auc"] for e in (ours, others))
        assert gap.macro.value == pytest.approx(a.value - b.value, abs=1e-12)
        assert gap.macro.low <= gap.macro.value <= gap.macro.high
        assert gap.macro.high - gap.macro.low < (a.high - a.low) / 2
    same = paired_differences(rows, rows, SPEC.bootstrap)
    assert {(f.value, f.low, f.high) for s in same.values() for d in s.values() for f in d.generators.values()} == {
        (0.0, 0.0, 0.0)
    }
    assert paired_differences(rows, [row for row in rows if not row.fake], SPEC.bootstrap) == {}


def test_roc_points_are_those_of_scikit_learn(rows: list[Row]) -> None:
    points = roc_points(rows)
    for source, generators in points.items():
        for name, rankings in generators.items():
            pair = [row for row in rows if (row.group == name if row.fake else row.source == source)]
            fpr, tpr, _ = sk.roc_curve([row.fake for row in pair], [row.score for row in pair], drop_intermediate=False)
            assert rankings["score"] == pytest.approx([tpr[fpr <= rate + 1e-12].max() for rate in GRID])


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("path,label,group,score\na,real,g,nan\n", "line 2, column 'score'"),
        ("path,label,group,score\na,reel,g,1\n", "line 2, column 'label'"),
        ("path,label,group,score,p_value\na,real,g,1,2\n", "line 2, column 'p_value'"),
        ("path,label,group,score,flagged\na,real,g,1,maybe\n", "line 2, column 'flagged'"),
        ("path,label,group\na,real,g\n", "column 'score'"),
        ("path,label,group,score,p-value\na,real,g,1,1\n", "column 'p-value'"),
    ],
)
def test_a_wrong_scores_file_is_named_by_line_and_column(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "scores.csv"
    path.write_text(text)
    with pytest.raises(BadTable, match=complaint):
        read_scores(str(path))


def test_scores_of_other_images_are_refused(tmp_path: Path, rows: list[Row]) -> None:
    path = tmp_path / "other.csv"
    path.write_text("path,score\nnobody.jpg,1\n")
    with pytest.raises(BadTable, match="no line is that of a scored image"):
        compare_scores(str(path), rows)


# ---- gates


def test_gates_read_the_named_place_and_else_the_worst(report: dict[str, object]) -> None:
    sources = report["results"]["sources"]  # type: ignore[index] # a JSON value
    wanted = {
        "macro_auc>=0": min(a["macro"]["auc"]["value"] for a in sources.values()),
        "macro_auc[celebahq]>=0": sources["celebahq"]["macro"]["auc"]["value"],
        "pooled_ap[celebahq] >= 0": sources["celebahq"]["pooled"]["ap"]["value"],
        "fpr<=1": max(a["flagged"]["value"] for a in sources.values()),
        "fpr[celebahq]<=1": sources["celebahq"]["flagged"]["value"],
        "rule_auc[sdxl_tiles]>=0": min(
            a["generators"]["sdxl_tiles"]["figures"]["rule_auc"]["value"] for a in sources.values()
        ),
        "auc[GANs]>=0": min(a["families"]["GANs"]["auc"]["value"] for a in sources.values()),
        "auc>=0": min(g["figures"]["auc"]["value"] for a in sources.values() for g in a["generators"].values()),
    }
    checked = check_gates([parse_gate(text) for text in wanted], report)
    assert [one.value for one in checked] == list(wanted.values())
    assert all(one.held for one in checked)


@pytest.mark.parametrize(
    ("comparison", "held"), [(">=0.5", True), ("<=0.5", True), (">0.5", False), ("<0.5", False), (">=0.51", False)]
)
def test_a_gate_on_its_limit(comparison: str, held: bool) -> None:
    sources = {"a": {"macro": {"auc": {"value": 0.5}}, "flagged": None}}
    assert check_gates([parse_gate(f"macro_auc{comparison}")], {"results": {"sources": sources}})[0].held is held


def test_the_worst_false_positive_rate_is_the_highest() -> None:
    sources = {name: {"flagged": {"value": rate}} for name, rate in (("a", 0.1), ("b", 0.3), ("c", 0.2))}
    checked = check_gates([parse_gate("fpr<=0.25")], {"results": {"sources": sources}})[0]
    assert (checked.where, checked.value, checked.held) == ("b", 0.3, False)


@pytest.mark.parametrize(
    ("text", "column"),
    [
        ("macro_acu>=0.8", 1),
        ("  nonsense>=0.8", 3),
        ("macro_auc[celeba>=0.8", 10),
        ("macro_auc=0.8", 10),
        ("macro_auc[x] 0.8", 14),
        ("macro_auc>=0,8", 12),
        ("fpr<=7", 6),
        ("", 1),
    ],
)
def test_a_wrong_gate_names_its_column(text: str, column: int) -> None:
    with pytest.raises(BadExpression, match=f"column {column},"):
        parse_gate(text)


def test_a_gate_about_nobody_names_the_column_of_the_name() -> None:
    with pytest.raises(BadExpression, match="column 5, 'celeba' is not in the data: use one of celebahq, ffhq"):
        check_names([parse_gate("fpr[celeba]<=0.07")], ["ffhq", "celebahq"], ["celeba"])


def test_a_drop_against_the_baseline_fails_and_other_data_are_refused(tmp_path: Path, rows: list[Row]) -> None:
    path = tmp_path / "before.json"
    path.write_bytes(bench_text.to_bytes(make_report()))
    weaker = make_report([replace(row, score=row.score - 0.3 * row.fake) for row in rows])
    before = read_baseline(path, weaker["data"]["digest"])
    assert all(one.held for one in check_drop(before, before, 0.0))
    failed = {one.gate.split("[")[0] for one in check_drop(before, weaker, 0.01) if not one.held}
    assert failed == {"macro_auc"}
    assert all(one.held for one in check_drop(before, weaker, 0.5))
    with pytest.raises(BadData, match="other images"):
        read_baseline(path, data_digest(rows[1:]))
    path.write_text("{}")
    with pytest.raises(BadData, match="not a JSON report"):
        read_baseline(path, "")


def test_a_report_of_the_former_schema_is_a_baseline_and_the_digest_of_data_never_changes(tmp_path: Path) -> None:
    rows = [
        Row(path="a", label=Label.REAL, group="g", source="s", score=1.0, sha256="0" * 64),
        Row(path="b", label=Label.FAKE, group="h", source="h", score=2.0),
    ]
    digest = "6a223262dd5e85875ec615dacaa94394e29b6adc717e386aac4205db2977b3b8"
    assert data_digest(rows) == data_digest(rows[::-1]) == digest
    path = tmp_path / "before.json"
    former = make_report() | {"schema": "muflow.bench/1"}
    path.write_bytes(bench_text.to_bytes(former))
    assert read_baseline(path, former["data"]["digest"]) == former
    path.write_bytes(bench_text.to_bytes(former | {"results": None}))
    with pytest.raises(BadData, match="not a JSON report"):
        read_baseline(path, former["data"]["digest"])


def test_a_scores_file_of_the_former_version_is_read(tmp_path: Path) -> None:
    path = tmp_path / "former.csv"
    path.write_text('path,label,group,score,scale_scores,p_value\na,real,g,1.5,"[1.0, 2.0]",0.25\n')
    (row,) = read_scores(str(path))
    assert (row.column_scores, row.p_value, row.suspicion) == ((1.0, 2.0), 0.25, -0.25)


# ---- outputs


def test_the_report_fits_its_schema(report: dict[str, object]) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(json.loads(bench_text.to_bytes(report)), SCHEMA)
    assert set(SCHEMA["properties"]) == set(report)
    assert set(SCHEMA["$defs"]["Figures"]["properties"]) == set(METRICS)


def test_curves_ascend_and_keep_their_side(report: dict[str, object]) -> None:
    curves = report["robustness"]["curves"]  # type: ignore[index] # a JSON value
    assert [(c["operation"], c["parameter"], c["on"]) for c in curves] == [
        ("jpeg", "q", "both"),
        ("jpeg", "q", "reals"),
    ]
    assert [point["intensity"] for point in curves[0]["points"]] == [30, 60, 90]


def test_the_csv_holds_every_figure(report: dict[str, object]) -> None:
    lines = list(csv.DictReader(io.StringIO(bench_text.csv_bytes(report).decode())))
    clean = [row for row in lines if row["scorer"] == "detector" and not row["on"]]
    found = {(row["source"], row["level"], row["name"], row["metric"]): row for row in clean}
    against = report["results"]["sources"]["celebahq"]  # type: ignore[index] # a JSON value
    for metric, figure in against["generators"]["sdxl_tiles"]["figures"].items():
        row = found["celebahq", "generator", "sdxl_tiles", metric]
        assert [float(row[end]) for end in ("value", "low", "high")] == list(figure.values())
    assert float(found["celebahq", "reals", "", "fpr"]["high"]) == against["flagged"]["high"]
    assert {row["scorer"] for row in lines} == {"detector", "metadata only", "sharpness only", "mark only"}


def test_markdown_keeps_its_tables_whatever_the_names(report: dict[str, object]) -> None:
    text = bench_text.markdown(report)
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) == 4
    for table in tables:
        assert len({line.replace("\\|", "").count("|") for line in table}) == 1
    assert "<b>" not in text


@pytest.mark.parametrize("width", [60, 80, 132, 400])
def test_tables_lose_nothing_at_any_width(report: dict[str, object], width: int) -> None:
    console = Console(file=io.StringIO(), width=width)
    bench_text.print_tables(report, console)
    printed = console.file.getvalue()
    assert max(map(cell_len, printed.splitlines())) <= width
    for title, headings, rows in bench_text.sections(report):
        assert title in printed
        for texts in (headings, *rows):
            assert all(text in printed for text in texts[1:])


def test_junit_counts_failures(report: dict[str, object]) -> None:
    gates = [parse_gate("macro_auc>=0.999"), parse_gate("fpr<=1")]
    checked = [
        {"gate": c.gate, "where": c.where, "value": c.value, "needed": c.needed, "held": c.held}
        for c in check_gates(gates, report)
    ]
    suite = ElementTree.fromstring(junit({**report, "gates": checked}))[0]  # noqa: S314 - made here
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    assert [len(case.findall("failure")) for case in suite] == [1, 0]


def test_null_baselines_stand_beside_every_real_source(report: dict[str, object]) -> None:
    nulls = report["nulls"]
    reals = {source for label, source, *_ in GROUPS.values() if label is Label.REAL}
    assert set(nulls) == {"metadata only", "sharpness only", "mark only"}  # type: ignore[call-overload] # a JSON value
    assert all(set(sources) == reals for sources in nulls.values())  # type: ignore[attr-defined] # a JSON value
    assert np.isfinite([a["macro"] for s in nulls.values() for a in s.values()]).all()  # type: ignore[attr-defined] # a JSON value
