"""`muflow schema` prints what is shipped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

import muflow_cli.output
from muflow_cli.cli.app import app

FOLDER = Path(muflow_cli.output.__file__).parent / "schemas"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))


@pytest.mark.parametrize("name", NAMES)
def test_a_schema_is_printed_byte_for_byte(name: str) -> None:
    done = CliRunner().invoke(app, ["schema", name])
    assert done.stdout.encode() == (FOLDER / f"{name}.json").read_bytes()
    Draft202012Validator.check_schema(json.loads(done.stdout))


def test_the_names_are_listed_and_a_wrong_one_is_refused_with_the_nearest() -> None:
    assert CliRunner().invoke(app, ["schema"]).stdout.split() == NAMES
    failed = CliRunner().invoke(app, ["schema", "scan2"])
    assert str(failed.exception) == "there is no schema 'scan2': use scan-2"
