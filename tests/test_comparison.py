"""A scan that compares its images with each other: what it says, refuses, keeps when it is killed, and counts once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import FP32, draw_face, write_faces
from PIL import Image
from scan_runs import command, environment, lines, result_lines, run

import muflow_cli
from muflow_cli.calibrate.workflow import CalibrateRequest, calibrate
from muflow_cli.records import Scored
from muflow_cli.scan.evidence import discard_evidence, evidence_path, open_evidence
from muflow_cli.scan.resume import prior_path

RATE = ["--fdr", "0.2", "--precision", "fp32"]


@pytest.fixture(scope="module")
def calibrated(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny detector on 60 reals of its own kind, and the same without features."""
    folder = tmp_path_factory.mktemp("calibrated")
    write_faces(folder / "reals", 60, seed=11)
    for name, features in (("whole", True), ("bare", False)):
        calibrate(
            CalibrateRequest(
                detector=tiny_bundle,
                reals=(str(folder / "reals"),),
                output=folder / f"{name}.safetensors",
                features=features,
                runtime=FP32,
            )
        )
    return folder / "whole.safetensors"


@pytest.fixture(scope="module")
def accounts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders: one of the calibration's kind, one whose images are paler and alike in their light."""
    folder = tmp_path_factory.mktemp("accounts")
    write_faces(folder / "ann", 14, seed=12)
    (folder / "bob").mkdir()
    generator = np.random.default_rng(13)
    ramp = np.stack([np.linspace(40, 160, 72 * 72).reshape(72, 72)] * 3, axis=-1)
    for index in range(14):
        levels = 0.5 * np.asarray(draw_face(generator)) + 0.5 * ramp
        Image.fromarray(levels.astype(np.uint8)).save(folder / "bob" / f"{index:02}.jpg", quality=90)
    return folder


def scan(*arguments: object, cwd: Path) -> dict[str, Any]:
    """The JSON report of a scan."""
    done = run("scan", *arguments, "--json", cwd=cwd)
    assert done.returncode in (0, 1), done.stderr
    return dict(json.loads(done.stdout))


def by_path(report: dict[str, Any], *names: str) -> dict[str, list[Any]]:
    return {result["path"]: [result[name] for name in names] for result in report["results"]}


def test_what_the_images_have_in_common_is_found(calibrated: Path, accounts: Path) -> None:
    plain = scan("ann", "bob", "--detector", calibrated, "--precision", "fp32", cwd=accounts)
    report = scan("ann", "bob", "--detector", calibrated, *RATE, "--adaptive", "--groups", cwd=accounts)
    summary, learned = report["summary"], report["summary"]["adaptive"]
    assert by_path(report, "p_value", "score", "tail") == by_path(plain, "p_value", "score", "tail")
    assert summary["stages"]["compare"] > 0
    assert summary["stages"]["score"] > 0
    assert plain["summary"]["stages"]["score"] > 0
    assert plain["summary"]["stages"].keys() == {"read", "score", "write"}
    assert (learned["training"], learned["nulls"], learned["fewest_flagged"]) == (30, 30, 5)
    flagged = [result["path"].split("/")[0] for result in report["results"] if result["flagged"]]
    assert flagged.count("bob") >= 6
    assert flagged.count("ann") <= 2
    for result in report["results"]:
        # What no calibration image is like is inconclusive, whatever its q-value.
        assert result["flagged"] == (result["q_value"] <= 0.2 and not result["atypical_input"])
    assert all(1 / 31 <= result["adaptive_p_value"] <= 1 for result in report["results"])
    assert [(group["name"], group["images"], group["unlike_calibration"]) for group in summary["groups"]] == [
        ("ann", 14, False),
        ("bob", 14, True),
    ]
    assert {result["group"] for result in report["results"]} == {"ann", "bob"}


def test_the_summary_names_the_claim(calibrated: Path, accounts: Path) -> None:
    done = run("scan", "ann", "bob", "--detector", calibrated, *RATE, "--adaptive", "--groups", cwd=accounts)
    said = done.stderr.decode()
    assert "learned from 30 calibration images and ranked among 30 others" in said
    assert "2 groups, 1 unlike the calibration as a group (q <= 0.2)\n" in said
    assert "synthetic" not in said


def test_copies_and_near_copies_count_once(calibrated: Path, accounts: Path, tmp_path: Path) -> None:
    shutil.copytree(accounts, tmp_path, dirs_exist_ok=True)
    before = scan("ann", "bob", "--detector", calibrated, *RATE, "--adaptive", "--groups", cwd=tmp_path)
    for number in range(30):
        shutil.copy(tmp_path / "ann" / "0003.jpg", tmp_path / "ann" / f"copy {number}.jpg")
        # Another content hash, the same image: bytes after the end of the JPEG. The original stays the first.
        data = (tmp_path / "bob" / "05.jpg").read_bytes()
        (tmp_path / "bob" / f"near {number}.jpg").write_bytes(data + bytes([number]))
    after = scan("ann", "bob", "--detector", calibrated, *RATE, "--adaptive", "--groups", cwd=tmp_path)
    assert after["summary"]["adaptive"]["fewest_flagged"] == before["summary"]["adaptive"]["fewest_flagged"]
    assert [group["images"] for group in after["summary"]["groups"]] == [14, 14]
    assert [group["p_value"] for group in after["summary"]["groups"]] == pytest.approx(
        [group["p_value"] for group in before["summary"]["groups"]], abs=0.1
    )
    q_values = by_path(after, "q_value")
    assert len({tuple(value) for path, value in q_values.items() if "near" in path or path == "bob/05.jpg"}) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--detector", "bare", *RATE, "--adaptive"], "calibrate it again without --no-features"),
        (["--detector", "bare", "--groups"], "the detector holds no features of its calibration images"),
        (
            ["--detector", "whole", "--fdr", "0.2", "--groups", "--precision", "bf16"],
            "were computed on cpu in fp32, but this run computes on cpu in bf16, and the difference would count",
        ),
        (
            ["--detector", "whole", "--fdr", "0.01", "--adaptive", "--precision", "fp32"],
            "--adaptive at a false discovery rate of 0.01 needs at least 198 calibration images, and the detector has "
            "60: calibrate it with more real images, or give a rate of at least 1/31",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused_before_the_scan(
    arguments: Sequence[str], said: str, calibrated: Path, accounts: Path, tmp_path: Path
) -> None:
    words = [
        str(calibrated.with_name(f"{word}.safetensors")) if word in ("bare", "whole") else word for word in arguments
    ]
    done = run("scan", accounts, *words, "-o", tmp_path / "a.jsonl")
    assert done.returncode == 2
    assert said in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1
    assert [*tmp_path.iterdir()] == []


def test_a_killed_run_keeps_its_first_pass_and_goes_on_from_there(
    calibrated: Path, accounts: Path, tmp_path: Path
) -> None:
    words = ["scan", accounts, "--detector", calibrated, *RATE, "--adaptive", "--groups", "--batch-size", "2"]
    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    assert run(*words, "-o", whole).returncode == 1
    process = subprocess.Popen(command(*words, "-o", killed), env=environment(), stderr=subprocess.DEVNULL)
    while process.poll() is None and (not killed.exists() or killed.read_bytes().count(b"\n") < 8):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = lines(killed.read_bytes().rpartition(b"\n")[0])
    assert all(line["adaptive_p_value"] is None for line in kept if line["type"] == "result")
    rows = evidence_path(killed).stat().st_size
    assert rows > 0
    done = run(*words, "-o", killed, "--resume")
    assert done.returncode == 1, done.stderr
    assert result_lines(killed) == result_lines(whole)
    assert not evidence_path(killed).exists()
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".jsonl", ".jsonl"]


def test_a_run_is_continued_only_with_the_comparison_that_it_began(
    calibrated: Path, accounts: Path, tmp_path: Path
) -> None:
    report, page = tmp_path / "a.jsonl", tmp_path / "a.html"
    words = ["scan", accounts, "--detector", calibrated, "--precision", "fp32", "-o", report]
    assert run(*words, "--fdr", "0.9", "-o", page).returncode == 1
    whole = result_lines(report)
    done = run(*words, "--resume")
    assert done.returncode == 2
    assert done.stderr.decode().startswith(f"muflow: cannot resume {report}, because it was written with another --fdr")
    assert result_lines(report) == whole
    # The same line again, its page included; another file that exists is no part of that line.
    assert run(*words, "--fdr", "0.9", "-o", page, "--resume").returncode == 1
    assert result_lines(report) == whole
    other = tmp_path / "other.html"
    other.write_bytes(b"mine")
    done = run(*words, "--fdr", "0.9", "-o", other, "--resume")
    assert (done.returncode, other.read_bytes()) == (2, b"mine")


def test_a_refused_or_empty_run_leaves_what_an_earlier_one_kept(
    calibrated: Path, accounts: Path, tmp_path: Path
) -> None:
    report = tmp_path / "a.jsonl"
    with open_evidence(report, b"key", 4, resumed=False) as evidence:
        evidence.add("0" * 64, 1, np.zeros(4, dtype=np.float16))
    kept = evidence_path(report).read_bytes()
    words = ["scan", "--detector", calibrated, *RATE, "--adaptive", "-o", report]
    assert run(*words, accounts / "ann").returncode == 0  # complete: what it kept is gone
    assert not evidence_path(report).exists()
    evidence_path(report).write_bytes(kept)
    for arguments in ([accounts, "--resume", "--max-pixels", "9"], [tmp_path / "nothing", "--force"]):
        (tmp_path / "nothing").mkdir(exist_ok=True)
        assert run(*words, *arguments).returncode == 2
        assert evidence_path(report).read_bytes() == kept
    # A plain run under that name is complete as well.
    assert run("scan", accounts / "ann", "--detector", calibrated, "-o", report, "--force").returncode in (0, 1)
    assert not evidence_path(report).exists()


@pytest.mark.parametrize("kind", ["text", "folder", "pipe"])
def test_nothing_of_another_program_is_taken_for_results_that_were_put_aside(
    kind: str, calibrated: Path, accounts: Path, tmp_path: Path
) -> None:
    report = tmp_path / "a.jsonl"
    prior = prior_path(report)
    {"text": lambda: prior.write_bytes(b"notes"), "folder": prior.mkdir, "pipe": lambda: os.mkfifo(prior)}[kind]()
    done = run("scan", accounts / "ann", "--detector", calibrated, "--fdr", "0.2", "-o", report, timeout=60)
    assert done.returncode == 2
    assert f"cannot write {prior} (it is not what a scan keeps there)" in done.stderr.decode()
    assert kind != "text" or prior.read_bytes() == b"notes"
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl.prior"]


def test_what_a_resumed_report_held_of_other_images_is_said(calibrated: Path, accounts: Path, tmp_path: Path) -> None:
    report = tmp_path / "a.jsonl"
    words = ["--detector", calibrated, "--fdr", "0.9", "--precision", "fp32", "-o", report]
    run("scan", accounts, *words)
    said = run("scan", accounts / "ann", *words, "--resume").stderr.decode()
    assert "28 images are scored again, since nothing beside the report holds what a comparison needs of them" in said
    plain = ["--detector", calibrated, "-o", tmp_path / "b.jsonl"]
    run("scan", accounts, *plain)
    said = run("scan", accounts / "ann", *plain, "--resume").stderr.decode()
    assert f"14 results of {tmp_path / 'b.jsonl'} had no place, since no input has that content now" in said


def test_weighted_p_values_decide_and_are_recorded(calibrated: Path, accounts: Path, tmp_path: Path) -> None:
    report = tmp_path / "a.jsonl"
    words = [accounts, "--detector", calibrated, "--reweight", "--precision", "fp32", "-o", report]
    done = run("scan", *words)
    assert done.returncode in (0, 1), done.stderr
    head, *_, end = lines(report.read_bytes())
    info, results = end["summary"]["reweight"], result_lines(report)
    assert head["run"]["options"]["reweight"] is True
    assert (info["learned_from"], info["bound"]) == (28, 20.0)
    assert 1 < info["effective"] <= 60
    alpha = head["detector"]["alpha"]
    judged = [json.loads(line) for line in results]
    decided = [one for one in judged if one["verdict"] != "inconclusive"]
    assert len(judged) - len(decided) == info["undecided"]
    assert all(one["flagged"] == (one["weighted_p_value"] <= alpha) for one in decided)
    assert "reweight: p-values are weighted; effective number of calibration images" in done.stderr.decode()
    # The run is continued and verified as any other, and not without the option.
    assert run("scan", *words, "--resume").returncode == done.returncode
    assert result_lines(report) == results
    refused = run("scan", *[word for word in words if word != "--reweight"], "--resume")
    assert b"it was written with another --reweight" in refused.stderr
    assert run("scan", "--verify", report).returncode == 0


def test_the_library_gives_what_the_command_gives(calibrated: Path, accounts: Path) -> None:
    report = scan(accounts, "--detector", calibrated, *RATE, "--adaptive", cwd=accounts)
    results = muflow_cli.scan(accounts, calibrated, fdr=0.2, adaptive=True, runtime=FP32)
    given = {r.path: [r.judgement.adaptive_p_value, r.judgement.q_value] for r in results if isinstance(r, Scored)}
    assert given == by_path(report, "adaptive_p_value", "q_value")


@pytest.mark.parametrize("kind", ["text", "link", "folder", "pipe"])
def test_nothing_of_another_program_is_replaced_by_the_features(
    kind: str, calibrated: Path, accounts: Path, tmp_path: Path
) -> None:
    report = tmp_path / "a.jsonl"
    place, other = evidence_path(report), tmp_path / "other"
    other.write_bytes(b"")
    {
        "text": lambda: place.write_bytes(b"notes of a batch"),
        "link": lambda: place.symlink_to(other),
        "folder": place.mkdir,
        "pipe": lambda: os.mkfifo(place),
    }[kind]()
    done = run("scan", accounts / "ann", "--detector", calibrated, *RATE, "--adaptive", "-o", report)
    assert done.returncode == 2
    said = f"cannot write {place} (it is not what a scan keeps there): move it away"
    assert done.stderr.decode().startswith(f"muflow: {said}")
    assert {path.name for path in tmp_path.iterdir()} == {"a.jsonl.batch", "other"}
    assert kind != "text" or place.read_bytes() == b"notes of a batch"


def test_a_leftover_of_an_earlier_run_is_replaced_and_a_rotten_row_is_scored_again(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [(f"{n:064x}", n, np.full(4, n, dtype=np.float16)) for n in range(3)]
    with open_evidence(path, b"key", 4, resumed=False) as evidence:
        for row in rows:
            evidence.add(*row)
    data = bytearray(evidence_path(path).read_bytes())
    data[-1] ^= 1
    evidence_path(path).write_bytes(bytes(data) + b"torn")
    with open_evidence(path, b"key", 4, resumed=True) as evidence:
        assert [digest in evidence for digest, _, _ in rows] == [True, True, False]
        assert np.array_equal(evidence.sample([rows[1][0]]).taken(np.array([0])), [[1, 1, 1, 1]])
        evidence.add(*rows[2])
        assert np.array_equal(evidence.sample([rows[2][0], rows[0][0]]).taken(np.array([0, 1]))[:, 0], [2, 0])
    with open_evidence(path, b"another detector", 4, resumed=True) as evidence:
        assert not any(digest in evidence for digest, _, _ in rows)
    with open_evidence(path, b"key", 4, resumed=False) as evidence:
        evidence.add(*rows[0])
    discard_evidence(path)
    assert not evidence_path(path).exists()
