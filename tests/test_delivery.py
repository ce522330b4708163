"""What carries muflow to other places keeps its promises: the hook, the action and the container image."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import typer.main
import yaml
from fork_server import executable
from scan_runs import environment

from muflow_cli.cli.app import app

ROOT = Path(__file__).parents[1]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text("utf-8"))
(HOOK,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text("utf-8"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def instructions(text: str) -> list[tuple[str, str]]:
    """Name and arguments of every instruction of a Dockerfile."""
    joined = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE))
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


DOCKER = instructions((ROOT / "Dockerfile").read_text("utf-8"))
# The image that is kept: everything from the last FROM on.
KEPT = DOCKER[max(index for index, (name, _) in enumerate(DOCKER) if name == "FROM") :]


def test_the_container_runs_muflow_as_a_user_without_rights() -> None:
    (user,) = [rest for name, rest in KEPT if name == "USER"]
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", user)
    later = KEPT[KEPT.index(("USER", user)) :]
    assert not [name for name, _ in later if name in ("RUN", "COPY", "ADD")]
    assert dict(KEPT)["ENTRYPOINT"] == '["muflow"]'


def test_the_container_fetches_nothing_but_packages_while_it_is_built() -> None:
    for name, rest in DOCKER:
        assert name in {"FROM", "RUN", "COPY", "WORKDIR", "ENV", "USER", "ENTRYPOINT", "CMD"}
        assert not re.search(r"curl|wget|https?:|git clone|apt-get", rest)
    # No library for GPUs, and nothing is installed in the image that is kept.
    (install,) = [rest for _, rest in DOCKER if "uv pip install" in rest]
    assert "--torch-backend cpu" in install
    (extras,) = re.findall(r"\.\[([a-z0-9,]+)\]", install)
    assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])
    assert not [rest for name, rest in KEPT if name == "RUN" and "pip" in rest]
    (image,) = {rest.split()[0] for name, rest in DOCKER if name == "FROM"}
    assert re.fullmatch(r"python:3\.\d+-slim-\w+", image)
    assert float(image.split(":3.")[1].split("-")[0]) >= 11


def test_what_the_container_copies_is_enough_for_a_wheel_with_the_built_in_detector(tmp_path: Path) -> None:
    sources = [word for name, rest in DOCKER if name == "COPY" and "--from" not in rest for word in rest.split()[:-1]]
    allowed = {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines()}
    assert set(sources) <= allowed
    for source in sources:
        path = ROOT / source
        if path.is_dir():
            shutil.copytree(path, tmp_path / source, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, tmp_path / source)
    words = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", "out"]
    subprocess.run(words, cwd=tmp_path, check=True, capture_output=True)
    (wheel,) = (tmp_path / "out").iterdir()
    listed = subprocess.run([sys.executable, "-m", "zipfile", "-l", wheel], capture_output=True, text=True, check=True)
    assert "muflow_cli/weights/default.safetensors" in listed.stdout


def test_the_hook_calls_a_command_and_options_that_exist() -> None:
    program, command, *words = shlex.split(HOOK["entry"])
    assert program in PROJECT["scripts"]
    params: Any = typer.main.get_command(app).commands[command].params  # type: ignore[attr-defined] # a group
    known = {option for param in params for option in param.opts}
    assert {word for word in words if word.startswith("--")} <= known
    assert (HOOK["language"], HOOK["types"], HOOK["require_serial"]) == ("python", ["image"], True)


def test_the_action_takes_no_input_for_a_part_of_its_script() -> None:
    for step in ACTION["runs"]["steps"]:
        assert "${{" not in step["run"]
        assert step["shell"] == "bash"
    assert ACTION["runs"]["using"] == "composite"
    hosts = re.findall(r"https?://[^\s\"]+", (ROOT / "action.yml").read_text("utf-8"))
    assert hosts == []
    named = set(re.findall(r"inputs\.([a-z]+)", (ROOT / "action.yml").read_text("utf-8")))
    assert named == set(ACTION["inputs"])


@pytest.fixture
def checkout(tmp_path: Path, reals: Path, tiny_bundle: Path) -> Path:
    """A repository with an image whose name is a trap for scripts, and a broken one."""
    (tmp_path / "photos").mkdir()
    shutil.copy(reals / "0000.jpg", tmp_path / "photos" / "$(touch owned) a.jpg")
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"no image")
    shutil.copy(tiny_bundle, tmp_path / "mine.safetensors")
    return tmp_path


def test_the_action_s_script_scans_and_leaves_both_reports(checkout: Path) -> None:
    (script,) = [step["run"] for step in ACTION["runs"]["steps"] if step.get("id") == "scan"]
    variables = environment(
        PATH=os.pathsep.join((str(executable().parent), os.environ["PATH"])),
        SCAN_PATHS="photos/$(touch owned) a.jpg\nphotos/broken.jpg\n",
        SCAN_OPTIONS="--fail-on\nerror\n--quiet\n",
        SCAN_DETECTOR="mine.safetensors",
        RUNNER_TEMP=str(checkout),
        GITHUB_OUTPUT=str(checkout / "outputs"),
    )
    words = ["bash", "-c", script]
    done = subprocess.run(words, cwd=checkout, env=variables, capture_output=True, timeout=240, check=False)
    assert (done.returncode, done.stderr) == (1, b"")
    outputs = dict(line.split("=", 1) for line in (checkout / "outputs").read_text().splitlines())
    assert set(outputs) == set(ACTION["outputs"])
    assert Path(outputs["sarif"]).stat().st_size > 0
    suite = ElementTree.parse(outputs["junit"]).getroot()[0]  # noqa: S314 - written here
    assert (suite.get("tests"), suite.get("errors")) == ("2", "1")
    assert not (checkout / "owned").exists()
