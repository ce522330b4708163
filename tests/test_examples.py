"""The examples answer at once: no detector named, an empty home, nothing downloaded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Muflow

from muflow_cli.default_detector import LIMITS, embedded_detector

EXAMPLES = Path(__file__).parents[1] / "examples"
IMAGES = ("broken.jpg", "declared_synthetic.png", "eileen_collins.jpg", "three_faces.jpg")
# Any connection would go to a port where nobody listens, and fail.
OFFLINE = {"https_proxy": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}


def test_one_command_gives_verdicts_offline_and_says_who_judges(muflow: Muflow) -> None:
    done = muflow("scan", EXAMPLES, "--json", "--exit-zero", env=OFFLINE)
    assert done.returncode == 0, done.stderr.decode()
    report = json.loads(done.stdout)
    assert [Path(result["path"]).name for result in report["results"]] == list(IMAGES)
    assert report["detector"]["path"] == str(embedded_detector())
    [broken] = [result for result in report["results"] if "error" in result]
    assert Path(broken["path"]).name == "broken.jpg"
    assert broken["error"]["code"] == "truncated"
    declared = {Path(result["path"]).name: result["declared"]["origin"] for result in report["results"]}
    assert [name for name, origin in declared.items() if origin == "synthetic"] == ["declared_synthetic.png"]
    assert done.stderr.decode().count(LIMITS) == 1


def test_quiet_keeps_the_limits_to_itself(muflow: Muflow) -> None:
    done = muflow("scan", EXAMPLES / "three_faces.jpg", "--json", "--exit-zero", "--quiet")
    assert done.returncode == 0
    assert done.stderr == b""


def test_the_examples_are_small_and_each_has_its_origin_told() -> None:
    page = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    for name in IMAGES:
        assert f"`{name}`" in page
    assert sum((EXAMPLES / name).stat().st_size for name in IMAGES) < 2**20


def test_the_drawn_ones_come_out_of_their_script_again(tmp_path: Path) -> None:
    np = pytest.importorskip("numpy")
    from PIL import Image

    subprocess.run([sys.executable, EXAMPLES / "draw.py", tmp_path], check=True)
    for name in ("declared_synthetic.png", "three_faces.jpg"):
        with Image.open(tmp_path / name) as drawn, Image.open(EXAMPLES / name) as kept:
            # Another libjpeg or Pillow may round otherwise.
            assert np.abs(np.asarray(drawn, np.int16) - np.asarray(kept, np.int16)).max() <= 4
