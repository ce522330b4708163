"""The budgets and habits of the house, checked where no linter does."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "muflow_cli"
MODULES = sorted(PACKAGE.rglob("*.py"))
# Hand two dozen options on by name, a line each: splitting the list would hide which option goes where.
LISTS_OF_OPTIONS = {"bench_command", "fit_command", "scan_command"}


def tree(module: Path) -> ast.Module:
    return ast.parse(module.read_text(encoding="utf-8"))


def functions(module: Path) -> Iterator[ast.FunctionDef]:
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.FunctionDef):
            yield node


def body_lines(function: ast.FunctionDef) -> int:
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0  # type: ignore[operator] # parsed from text


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_and_functions_stay_small(module: Path) -> None:
    assert len(module.read_text(encoding="utf-8").splitlines()) <= 400
    found = {f.name: body_lines(f) for f in functions(module) if f.name not in LISTS_OF_OPTIONS}
    long = {name: lines for name, lines in found.items() if lines > 40}
    assert not long


def test_only_the_engine_knows_cuda() -> None:
    naming = {
        module.relative_to(PACKAGE).as_posix()
        for module in MODULES
        for node in ast.walk(tree(module))
        if isinstance(node, ast.Constant) and node.value == "cuda"
    }
    # devices.py decides; executor.py and memory.py do what only a GPU needs.
    assert naming <= {"engine/devices.py", "engine/executor.py"}


def test_nothing_is_pickled() -> None:
    for module in MODULES:
        text = module.read_text(encoding="utf-8")
        assert "pickle.load" not in text
        assert "torch.save" not in text
        assert "joblib" not in text


def imports(module: Path) -> Iterator[tuple[str, str]]:
    """(module, name) of every import anywhere in a file; the name is empty for a plain `import`."""
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)


def test_accelerate_is_the_only_name_that_leaves_engine_cpu_and_inference_alone_takes_it() -> None:
    cpu = PACKAGE / "engine" / "cpu"
    taken = {
        (module.relative_to(PACKAGE).as_posix(), source, name)
        for module in MODULES
        if cpu not in module.parents
        for source, name in imports(module)
        if f"{source}.{name}.".startswith("muflow_cli.engine.cpu.")
    }
    assert taken == {("engine/inference.py", "muflow_cli.engine.cpu", "accelerate")}


def layered() -> dict[str, list[str]]:
    """Container -> the modules that its layers name, each as often as it is named."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        contracts = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    named: dict[str, list[str]] = {}
    for contract in contracts:
        if contract["type"] == "layers":
            assert contract.get("exhaustive"), f"{contract['name']} may leave modules out"
            names = [name.strip(" ()") for layer in contract["layers"] for name in layer.replace(":", "|").split("|")]
            for container in contract["containers"]:
                named.setdefault(container, []).extend(names)
    return named


def test_every_module_is_in_one_layer_of_the_import_contract() -> None:
    named = layered()
    assert "muflow_cli" in named
    for container, names in named.items():
        folder = ROOT / container.replace(".", "/")
        modules = {path.stem for path in folder.glob("*.py")} | {
            path.parent.name for path in folder.glob("*/__init__.py")
        }
        assert sorted(names) == sorted(modules - {"__init__"}), container


def texts(node: ast.expr) -> str | None:
    """A string as it is written, with a letter for each inserted value; None for anything else."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "x" for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = texts(node.left), texts(node.right)
        return None if left is None and right is None else f"{left or 'x'}{right or 'x'}"
    if isinstance(node, ast.IfExp):
        return max(
            filter(None, (texts(node.body), texts(node.orelse))), key=lambda text: text.count(": "), default=None
        )
    return None


def error_names() -> set[str]:
    """Names of the errors that a user can put right, wherever they are defined."""
    bases = {
        node.name: [base.id for base in node.bases if isinstance(base, ast.Name)]
        for module in MODULES
        for node in ast.walk(tree(module))
        if isinstance(node, ast.ClassDef)
    }
    names = {"MuflowError"}
    while more := {name for name, own in bases.items() if names & set(own)} - names:
        names |= more
    return names


def strings_of_errors() -> Iterator[tuple[str, str]]:
    """Where an error is made, and each string that it is given."""
    names = error_names()
    for module in MODULES:
        for node in ast.walk(tree(module)):
            if not isinstance(node, ast.Call):
                continue
            called = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            if called in names:
                for argument in (*node.args, *(keyword.value for keyword in node.keywords)):
                    text = texts(argument)
                    if text is not None:
                        yield f"{module.relative_to(PACKAGE)}:{node.lineno}", text


def test_an_error_s_problem_and_remedy_hold_no_colon_so_that_its_sentence_has_one() -> None:
    given = list(strings_of_errors())
    assert len(given) > 100
    assert not [(where, text) for where, text in given if ": " in text]


def test_no_help_text_begins_with_of() -> None:
    helps = [
        (f"{module.relative_to(PACKAGE)}:{node.lineno}", text)
        for module in MODULES
        for node in ast.walk(tree(module))
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "help" and (text := texts(keyword.value)) is not None
    ]
    assert len(helps) > 20
    assert not [(where, text) for where, text in helps if text.startswith("Of ")]
