"""Laws of errors: each names what is wrong and what can be done now."""

import io
import json
import math
import socket
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.main import get_command

from muflow_cli.bench.datasets import data_arguments, read_datasets
from muflow_cli.bench.gates import read_baseline
from muflow_cli.calibration.rules import RULES, rule_class
from muflow_cli.cli.app import app
from muflow_cli.cli.config import with_config
from muflow_cli.cli.fit_command import _outputs
from muflow_cli.cli.scan_outputs import choose_outputs
from muflow_cli.cluster import ClusterSpec, open_cluster
from muflow_cli.default_detector import BadConfig
from muflow_cli.errors import BadData, BadSpec, ClusterFailed, NoSuchInput, NothingToDo, TooFewImages, TooFewScores
from muflow_cli.fit.split import images_needed, require_images
from muflow_cli.fit.workflow import FitRequest, fit
from muflow_cli.images.lists import read_list
from muflow_cli.output.encode import FIELDS, fields_of
from muflow_cli.output.tabular import csv_columns
from muflow_cli.output.writers import OutputFormat
from muflow_cli.presets import LIGHT
from muflow_cli.run_specs import InputSpec
from muflow_cli.specs import RuleSpec, Tail


@given(method=st.sampled_from(sorted(RULES)), tail=st.sampled_from(Tail), n=st.integers(1, 3000))
def test_the_least_alpha_that_is_named_is_enough_and_no_smaller_one_is(method, tail, n):
    spec = RuleSpec(method=method, tail=tail, alpha=0.001)
    rule = rule_class(method)
    alpha = rule.least_alpha(spec, n)
    if alpha is None:
        assert rule.minimum_images(RuleSpec(method=method, tail=tail, alpha=0.99)) > n
        return
    assert rule.minimum_images(RuleSpec(method=method, tail=tail, alpha=alpha)) <= n
    step = 10 ** math.floor(math.log10(alpha)) / 10
    if alpha > spec.alpha:
        assert rule.minimum_images(RuleSpec(method=method, tail=tail, alpha=alpha - step)) > n


def test_too_few_scores_name_the_least_alpha():
    with pytest.raises(TooFewScores) as caught:
        rule_class("conformal").require_images(RuleSpec(method="conformal", alpha=0.01, tail=Tail.BOTH), 50)
    assert caught.value.remedy == "add images, or use --alpha 0.04, the least that 50 allow"


def test_too_few_images_to_fit_to_may_be_enough_to_calibrate():
    needed, _ = images_needed(LIGHT)
    require_images(LIGHT, needed)
    with pytest.raises(TooFewImages) as caught:
        require_images(LIGHT, 50)
    assert caught.value.problem.startswith(f"fit needs at least {needed} real images (")
    assert caught.value.problem.endswith("found 50")
    assert "calibrate an existing detector with these 50 (muflow calibrate DETECTOR REAL... -o NEW)" in str(
        caught.value
    )
    with pytest.raises(TooFewImages, match=r"REAL\.\.\. --alpha 0\.\d+ -o NEW"):
        require_images(LIGHT, 12)


def test_a_fit_looks_at_its_folders_before_it_looks_for_weights(tmp_path: Path, monkeypatch):
    def refused(*_: object) -> None:
        raise AssertionError("weights were looked for")

    monkeypatch.setattr(sys.modules[fit.__module__], "find_weights", refused)
    output = tmp_path / "out.safetensors"
    with pytest.raises(NoSuchInput, match="'nothere' does not exist"):
        fit(FitRequest(reals=("nothere",), output=output))
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(NothingToDo, match="no image in"):
        fit(FitRequest(reals=(str(empty),), output=output))
    (empty / "a.jpg").write_bytes(b"x")
    with pytest.raises(TooFewImages, match="found 1"):
        fit(FitRequest(reals=(str(empty),), output=output))
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


@pytest.mark.parametrize("name", ["out.xml", "d.PDF", "model.onnx"])
def test_a_name_of_another_kind_of_file_is_no_detector(name):
    with pytest.raises(BadSpec, match=r"a name that ends in \.safetensors or \.csv or \.html"):
        _outputs([Path(name)])
    assert _outputs([Path("faces.v2"), Path("a.csv")]) == (Path("faces.v2"), (Path("a.csv"),))


def test_a_page_is_not_called_a_pdf():
    aliases = dict.fromkeys(OutputFormat) | {OutputFormat.HTML: Path("x.pdf")}
    with pytest.raises(BadSpec, match=r"--report is x\.pdf: use a name that ends in \.html or \.htm"):
        choose_outputs(None, aliases, None, as_json=False)


def test_an_unknown_setting_is_refused_by_name_with_the_nearest_known_one(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text('Detecter = "a"\n')
    with pytest.raises(BadConfig, match="has 'Detecter', which is unknown: did you mean detector"):
        with_config(["scan"], get_command(app).commands, path)
    path.write_text('detector = "a"\n[zzz]\n')
    with pytest.raises(BadConfig, match="has 'zzz', which is unknown:"):
        with_config(["scan"], get_command(app).commands, path)


@given(names=st.lists(st.text("abc/.", min_size=1), max_size=30), pad=st.integers(0, 70_000))
def test_lines_that_end_with_returns_alone_are_lines(names, pad):
    data = "\r".join(["x" * min(pad, 60_000), *names]).encode()
    assert [*read_list(io.BytesIO(data), null=False)] == [
        *read_list(io.BytesIO(data.replace(b"\r", b"\n")), null=False)
    ]


def test_a_return_inside_a_name_stays_where_lines_end_with_line_feeds():
    assert [*read_list(io.BytesIO(b"a\rb.jpg\nc.jpg\r\n"), null=False)] == ["a\rb.jpg", "c.jpg"]


def test_fields_may_be_chosen_by_the_columns_of_a_csv():
    assert fields_of("path,declared_origin,declared_marks,error_code") == ("path", "declared", "error")
    assert fields_of(",".join(csv_columns(None, ["main/layer1", "main/layer2"]))) == FIELDS
    with pytest.raises(BadSpec, match="each field once"):
        fields_of("path,path")


def test_a_baseline_by_protocol_is_called_so(tmp_path):
    path = tmp_path / "b.json"
    path.write_text(json.dumps({"schema": "muflow.bench/2", "results": None, "protocols": {"folds": 2}}))
    with pytest.raises(BadData, match=r"is a report by protocol \(bench --protocol\)"):
        read_baseline(path, "")


def test_the_source_of_an_image_does_not_depend_on_the_order_of_folders(tmp_path):
    for name in ("x.jpg", "inner/a.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    folders = [str(tmp_path / "inner"), f"outer={tmp_path}"]
    sources = [
        {sample.path: sample.source for sample in read_datasets(data_arguments(order, (), ()), InputSpec()).samples}
        for order in (folders, folders[::-1])
    ]
    assert sources[0] == sources[1] == {str(tmp_path / "x.jpg"): "outer", str(tmp_path / "inner/a.jpg"): "inner"}


def test_an_address_without_a_cluster_is_one_sentence_at_once() -> None:
    pytest.importorskip("ray")
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    found = pytest.raises(ClusterFailed, match=f"no Ray cluster answers at {address} ")
    with found, open_cluster(ClusterSpec(address=address)):
        pass
