"""JUnit of a scan: what fails there is what a scan reports."""

from __future__ import annotations

from dataclasses import replace

import pytest
from junitparser import JUnitXml
from output_samples import HOSTILE_NAMES, RESULTS, SYNTHETIC, scored, unreadable, write_all

from muflow_cli.errors import IncompatibleOptions
from muflow_cli.output.inert import unescape
from muflow_cli.output.writers import OutputFormat
from muflow_cli.records import NoFace, Result, Scored, Unreadable, Verdict


def suite(results: list[Result]) -> JUnitXml:
    (found,) = JUnitXml.fromstring(write_all(OutputFormat.JUNIT, results))
    return found


def outcomes(results: list[Result]) -> list[tuple[str, str]]:
    """Kind and type of each case's outcome; both empty where it passes."""
    found = ((case.result or [None])[0] for case in suite(results))
    return [("", "") if outcome is None else (type(outcome).__name__, outcome.type) for outcome in found]


def test_flagged_and_declared_images_fail_and_unreadable_inputs_are_errors() -> None:
    declared = scored("d.jpg", declared=SYNTHETIC)
    undecided = scored("i.jpg", verdict=Verdict.INCONCLUSIVE)
    unread = replace(unreadable(), declared=SYNTHETIC)
    (face,) = [result for result in RESULTS if isinstance(result, NoFace)]
    flagged = scored("f.jpg", verdict=Verdict.FLAGGED)
    assert outcomes([scored(), flagged, declared, unreadable(), unread, undecided, face]) == [
        ("", ""),
        ("Failure", "flagged"),
        ("Failure", "declared"),
        ("Error", "truncated"),
        ("Failure", "declared"),
        ("Skipped", "inconclusive"),
        ("Skipped", "no_face"),
    ]


def test_the_numbers_of_a_suite_are_those_of_its_cases() -> None:
    found, kinds = suite(RESULTS), [kind for kind, _ in outcomes(RESULTS)]
    numbers = {"Failure": found.failures, "Error": found.errors, "Skipped": found.skipped}
    assert numbers == {kind: kinds.count(kind) for kind in numbers}
    assert found.tests == len(RESULTS)
    assert found.failures == sum(isinstance(result, Scored) and result.flagged for result in RESULTS)
    assert found.errors == sum(isinstance(result, Unreadable) for result in RESULTS)
    assert suite([]).tests == 0


@pytest.mark.parametrize("name", HOSTILE_NAMES, ids=ascii)
def test_a_hostile_name_comes_back_from_the_xml(name: str) -> None:
    (case,) = suite([unreadable(name)])
    assert case.name.isprintable()
    assert unescape(case.name) == name


def test_a_selection_of_fields_is_refused() -> None:
    with pytest.raises(IncompatibleOptions, match="--fields cannot be combined with JUnit"):
        write_all(OutputFormat.JUNIT, [], ("path",))
