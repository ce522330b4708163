"""Every example of docs/api.md runs, a fit with fewer averages, in the folder that the page describes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import write_faces

PAGE = (Path(__file__).parents[1] / "docs" / "api.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)

# What the fit writes and prints does not depend on how many averages it has drawn.
FEWER = ('"target.images_per_average=16",', '"target.images_per_average=16", "target.n_averages=40",')


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path) -> Path:
    """`faces.safetensors`, `reals/` that it was not fitted on, and `photos/`."""
    folder = tmp_path_factory.mktemp("api")
    (folder / "faces.safetensors").write_bytes(tiny_bundle.read_bytes())
    write_faces(folder / "reals", 70, seed=21)
    write_faces(folder / "photos", 6, seed=22)
    (folder / "photos" / "broken.jpg").write_bytes((folder / "photos" / "0000.jpg").read_bytes()[:500])
    return folder


def test_every_example_of_the_api_page_runs(
    desk: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert len(EXAMPLES) >= 10
    assert sum(FEWER[0] in example for example in EXAMPLES) == 1
    monkeypatch.chdir(desk)
    for number, example in enumerate(EXAMPLES, start=1):  # each has names of its own
        exec(compile(example.replace(*FEWER), f"example {number}", "exec"), {"__name__": "example"})  # noqa: S102 - our own page
    printed, said = capfd.readouterr()
    assert said == ""
    assert "[1] " in printed  # an image in memory is named by its position
    assert "missing.safetensors is not a file -> check the name of the detector" in printed
    assert (desk / "small.safetensors").is_file()
    assert (desk / "mine.safetensors").is_file()


def test_the_page_names_every_public_function_and_no_other() -> None:
    import muflow_cli as muflow

    named = set(re.findall(r"muflow\.([A-Za-z]\w*)", PAGE)) - {"bench"}  # "muflow.bench/2" is a schema as well
    assert named - {"scan"} <= set(muflow.__all__)
    assert {"load", "fit", "calibrate", "scan"} <= named
