"""The budgets and habits of the house, checked where no linter does."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "muflow_cli"
MODULES = sorted(PACKAGE.rglob("*.py"))
# Hands two dozen options on by name, a line each: splitting the list would hide which option goes where.
LISTS_OF_OPTIONS = {"bench_command"}


def functions(module: Path) -> Iterator[ast.FunctionDef]:
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            yield node


def body_lines(function: ast.FunctionDef) -> int:
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0  # type: ignore[operator] # parsed from text


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_and_functions_stay_small(module: Path) -> None:
    assert len(module.read_text(encoding="utf-8").splitlines()) <= 350
    found = {f.name: body_lines(f) for f in functions(module) if f.name not in LISTS_OF_OPTIONS}
    long = {name: lines for name, lines in found.items() if lines > 30}
    assert not long


def test_only_scoring_knows_cuda() -> None:
    named = [
        module.name
        for module in MODULES
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value == "cuda"
    ]
    assert set(named) <= {"scoring.py"}


def test_nothing_is_pickled() -> None:
    for module in MODULES:
        text = module.read_text(encoding="utf-8")
        assert "pickle.load" not in text
        assert "torch.save" not in text
        assert "joblib" not in text
