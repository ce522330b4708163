"""Which detector a scan takes where none is given, and what the embedded one holds."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import Muflow, write_faces

from muflow_cli.bundle import load
from muflow_cli.default_detector import (
    LIMITS,
    BadConfig,
    config_file,
    configured_detector,
    embedded_detector,
    find_detector,
)
from muflow_cli.specs import Tail

ROOT = Path(__file__).parents[1]


@pytest.fixture
def configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the configuration of this test is, not written yet."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    path = config_file()
    path.parent.mkdir()
    return path


def test_the_option_wins_over_the_configuration_and_that_over_the_embedded(configuration: Path) -> None:
    said: list[str] = []
    assert find_detector(None, said.append) == embedded_detector()
    assert said == [LIMITS]
    configuration.write_text('detector = "/elsewhere/mine.safetensors"\n')
    assert find_detector(None, said.append) == Path("/elsewhere/mine.safetensors")
    assert find_detector(Path("given.safetensors"), said.append) == Path("given.safetensors")
    assert said == [LIMITS]


def test_a_relative_entry_counts_from_the_configuration_and_a_tilde_from_home(
    configuration: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/somebody")
    configuration.write_text('detector = "mine.safetensors"\n')
    assert configured_detector(configuration) == configuration.parent / "mine.safetensors"
    configuration.write_text('detector = "~/mine.safetensors"\n')
    assert configured_detector(configuration) == Path("/somebody/mine.safetensors")


@pytest.mark.parametrize("home", ["", "relative/folder"])
def test_without_an_absolute_xdg_home_the_configuration_is_below_home(
    home: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/somebody")
    monkeypatch.setenv("XDG_CONFIG_HOME", home)
    assert config_file() == Path("/somebody/.config/muflow/config.toml")


@pytest.mark.parametrize(
    ("written", "complaint"),
    [
        (b"detector = ", "is not TOML"),
        (b"\xff\xfe", "is not TOML"),
        (b"detector = 3", "has detector = 3, which is not a file name"),
        (b'detector = ""', "has detector = '', which is not a file name"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_one_sentence(
    configuration: Path, written: bytes, complaint: str
) -> None:
    configuration.write_bytes(written)
    with pytest.raises(BadConfig) as caught:
        find_detector(None)
    assert complaint in str(caught.value)
    assert str(configuration) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_configuration_without_an_entry_or_an_unreadable_one(configuration: Path) -> None:
    assert configured_detector(configuration) is None
    configuration.write_text("# nothing\n")
    assert configured_detector(configuration) is None
    configuration.unlink()
    configuration.mkdir()
    with pytest.raises(BadConfig, match="cannot be read"):
        configured_detector(configuration)


def test_the_environment_overrides_the_configuration(muflow: Muflow, tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "muflow").mkdir()
    (tmp_path / "muflow" / "config.toml").write_text('detector = "no.safetensors"\n')
    [image] = write_faces(tmp_path / "one", 1, seed=3)
    home = {"XDG_CONFIG_HOME": str(tmp_path)}
    refused = muflow("scan", image, "--json", env=home)
    assert refused.returncode == 2
    assert b"no.safetensors is not a file" in refused.stderr
    done = muflow("scan", image, "--json", "--exit-zero", env={**home, "MUFLOW_DETECTOR": str(tiny_bundle)})
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout)["detector"]["path"] == str(tiny_bundle)
    assert LIMITS.encode() not in done.stderr


def test_the_embedded_detector_is_small_calibrated_and_needs_no_weights() -> None:
    assert embedded_detector().stat().st_size <= 8 * 2**20
    detector = load(embedded_detector())
    (branch,) = detector.spec.branches
    assert branch.feature.encoder == "forensic"
    assert not list(detector.branches[branch.name].encoder.backbone.parameters())
    rule = detector.calibration.rule
    assert (rule.method, rule.tail, rule.alpha) == ("fisher", Tail.BOTH, 0.05)
    fitted = {bytes(row).hex() for row in detector.fitted_on}
    assert fitted.isdisjoint(facts.sha256 for facts in detector.calibration.facts)


def test_its_file_is_the_one_that_its_page_describes() -> None:
    page = (ROOT / "weights" / "README.md").read_text(encoding="utf-8")
    detector = load(embedded_detector())
    assert hashlib.sha256(embedded_detector().read_bytes()).hexdigest() in page
    assert detector.fingerprint in page


def test_a_wheel_holds_the_default_and_a_page_without_links_to_files(tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="needs hatchling, which builds the wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = archive.read("muflow_cli/weights/default.safetensors")
        [metadata] = [name for name in archive.namelist() if name.endswith("/METADATA")]
        page = archive.read(metadata).decode()
    assert "# muflow" in page
    assert re.findall(r"\]\((?!https?:)[^)]*\)", page) == []
    assert held == (ROOT / "weights" / "default.safetensors").read_bytes()
