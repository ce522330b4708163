"""JUnit XML of a benchmark, for continuous integration."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from muflow_cli.output.bench_text import headline_text
from muflow_cli.output.inert import escape


def junit(report: Mapping[str, Any]) -> bytes:
    """One test case per gate; without gates, one case that passes and states the headline."""
    from junitparser import JUnitXml, TestSuite  # loaded only where JUnit is written

    suite = TestSuite("muflow bench")
    for gate in report["gates"]:
        result = f"{escape(gate['where'])}: {gate['value']:.4f}, needed {gate['needed']}"
        suite.add_testcase(_case(escape(gate["gate"]), result, held=gate["held"]))
    if not report["gates"]:
        suite.add_testcase(_case("measured", headline_text(report), held=True))
    document = JUnitXml()
    document.add_testsuite(suite)
    written = io.BytesIO()
    document.write(written)
    return written.getvalue()


def _case(name: str, text: str, *, held: bool) -> Any:
    from junitparser import Failure, TestCase

    case = TestCase(name, classname="muflow.bench")
    if held:
        case.system_out = text
    else:
        failure = Failure(message=text)
        failure.text = text
        case.result = [failure]
    return case
