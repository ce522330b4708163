"""Promises of `scan --sign` and of `--verify` with a signature: the user's own ssh-keygen makes and checks it."""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import write_faces
from scan_runs import begun, command, environment, run

from muflow_cli.errors import CannotSign
from muflow_cli.signatures import check_key, check_signature, sign, signature_of

pytestmark = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs ssh-keygen (OpenSSH), not found here")


def new_key(path: Path, passphrase: str = "") -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-C", "", "-f", path], check=True)
    return path


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two keys, one with a passphrase, and of lists of signers."""
    folder = tmp_path_factory.mktemp("keys")
    new_key(folder / "ann")
    new_key(folder / "bob", "a passphrase")
    (folder / "open").write_bytes((folder / "ann").read_bytes())
    (folder / "open").chmod(0o644)
    (folder / "text").write_text("no key\n")
    public = {name: (folder / f"{name}.pub").read_text().strip() for name in ("ann", "bob")}
    (folder / "signers").write_text(f"bob@x {public['bob']}\nann@x {public['ann']}\n")
    (folder / "only_bob").write_text(f"bob@x {public['bob']}\n")
    (folder / "elsewhere").write_text(f'ann@x namespaces="file" {public["ann"]}\n')
    (folder / "former").write_text(f'ann@x valid-before="20200101" {public["ann"]}\n')
    return folder


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faces")
    write_faces(folder, 2, seed=11)
    return folder


@pytest.fixture(scope="module")
def signed(
    tiny_bundle: Path, faces: Path, keys: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, subprocess.CompletedProcess[bytes]]:
    """A folder of signed outputs with odd names, and the run that made them."""
    folder = tmp_path_factory.mktemp("signed")
    outputs = [word for name in ("a.jsonl", "a.json", "-- \udcff.csv") for word in ("-o", folder / name)]
    done = run("scan", faces, "--detector", tiny_bundle, "--exit-zero", *outputs, "--sign", keys / "ann")
    return folder, done


@pytest.fixture
def report(signed: tuple[Path, object], tmp_path: Path) -> Path:
    """A signed report of this test alone."""
    for name in ("a.jsonl", "a.jsonl.sig"):
        shutil.copy(signed[0] / name, tmp_path)
    return tmp_path / "a.jsonl"


def test_every_output_is_signed_as_ssh_keygen_itself_checks(
    signed: tuple[Path, subprocess.CompletedProcess[bytes]], keys: Path
) -> None:
    folder, done = signed
    assert (done.returncode, done.stdout) == (0, b"")
    names = ["-- \udcff.csv", "a.json", "a.jsonl"]
    assert sorted(os.listdir(folder)) == sorted([*names, *(f"{name}.sig" for name in names)])  # noqa: PTH208 - bytes stay
    for name in names:
        words = ["ssh-keygen", "-Y", "verify", "-f", keys / "signers", "-I", "ann@x", "-n", "muflow"]
        with (folder / name).open("rb") as stream:
            subprocess.run([*words, "-s", folder / f"{name}.sig"], stdin=stream, capture_output=True, check=True)


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_verify_names_the_signer_where_it_may_and_says_where_nobody_vouches(
    name: str, signed: tuple[Path, object], keys: Path
) -> None:
    report = signed[0] / name
    named = run("scan", "--verify", report, "--signers", keys / "signers")
    assert (named.returncode, named.stdout) == (0, b"")
    assert b"signed by ann@x (ED25519 key SHA256:" in named.stderr
    unnamed = run("scan", "--verify", report)
    assert (unnamed.returncode, unnamed.stdout) == (0, b"")
    assert b"nobody vouches for its key; name those who may sign with --signers FILE\n2 results" in unnamed.stderr


def test_a_report_that_was_edited_with_all_its_digests_does_not_fit_its_signature(report: Path, keys: Path) -> None:
    report.write_bytes(report.read_bytes() + b"\n")
    done = run("scan", "--verify", report, "--signers", keys / "signers", "-q")
    assert done.returncode == 1
    assert b"a.jsonl.sig does not fit the report (Signature verification failed, incorrect signature)" in done.stdout
    check = check_signature(report, None)
    assert check is not None
    assert not check.good


@pytest.mark.parametrize(
    ("signers", "reason"),
    [
        ("only_bob", "No principal matched"),
        ("elsewhere", "not permitted for use in signature namespace"),
        ("former", "expired"),
        ("text", "missing key"),
    ],
)
def test_a_signature_of_nobody_who_may_sign_is_a_difference(
    signers: str, reason: str, report: Path, keys: Path
) -> None:
    check = check_signature(report, keys / signers)
    assert check is not None
    assert not check.good
    assert "names nobody who may sign so (" in check.message
    assert reason in check.message


def test_a_signature_that_is_wanted_must_be_there_whole_and_made_for_this_purpose(report: Path, keys: Path) -> None:
    signature = signature_of(report)
    signature.write_text("garbage")
    check = check_signature(report, None)
    assert check is not None
    assert (check.good, "does not fit the report (Couldn't parse signature" in check.message) == (False, True)
    signature.unlink()
    words = ["ssh-keygen", "-q", "-Y", "sign", "-n", "file", "-f", keys / "ann", report]
    subprocess.run(words, capture_output=True, check=True)
    check = check_signature(report, keys / "signers")
    assert check is not None
    assert (check.good, "namespace does not match" in check.message) == (False, True)
    signature.unlink()
    assert check_signature(report, None) is None
    wanted = run("scan", "--verify", report, "--signers", keys / "signers")
    assert (wanted.returncode, wanted.stdout.count(b"\n")) == (1, 1)
    assert b"there is no signature" in wanted.stdout


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--sign", "gone", "-o", "a.json"], "cannot sign with gone (no such file): give a key"),
        (["--sign", "KEYS/text", "-o", "a.json"], "cannot sign with KEYS/text ("),
        (["--sign", "KEYS/open", "-o", "a.json"], "(Permissions 0644 for 'KEYS/open' are too open): give a key"),
        (["--sign", "KEYS/ann"], "--sign cannot be combined with results on standard output, because"),
        (
            ["--sign", "KEYS/ann", "-o", "a.json", "-o", "-"],
            "--sign cannot be combined with results on standard output",
        ),
        (["--sign", "KEYS/ann", "-o", "a.json", "--json"], "--sign cannot be combined with results on standard output"),
        (["--sign", "KEYS/ann", "-o", "device.csv"], "cannot sign device.csv (not a file): choose another output"),
        (["--sign", "KEYS/ann", "-o", "there.json"], "there.json.sig exists: choose another name, or replace it with"),
        (["--sign", "there.json", "-o", "there.json", "--force"], "cannot sign with there.json ("),
        (["--signers", "KEYS/signers"], "--signers needs --verify REPORT, because"),
    ],
)
def test_what_cannot_be_signed_is_refused_in_a_sentence_before_anything_is_read(
    words: list[str],
    sentence: str,
    keys: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.json.sig").write_text("of an earlier run")
    (tmp_path / "device.csv").symlink_to(os.devnull)
    if words[1] == "there.json":
        (tmp_path / "there.json").write_text("{}")
    before = sorted(path.name for path in tmp_path.iterdir())
    given = [word.replace("KEYS", str(keys)) for word in words]
    paths = [] if "--signers" in words else ["photos", "--detector", "gone.safetensors"]
    assert begun(["scan", *paths, *given], monkeypatch) == 2
    shown, said = capsys.readouterr()
    assert (shown, said.count("\n")) == ("", 1)
    assert sentence.replace("KEYS", str(keys)) in said
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_passphrase_that_nobody_can_be_asked_for_is_said_before_the_scan(keys: Path, tmp_path: Path) -> None:
    words = command("scan", "photos", "--sign", keys / "bob", "-o", tmp_path / "a.json")
    # Away from any terminal.
    done = subprocess.run(
        words, capture_output=True, env=environment(), timeout=60, check=False, start_new_session=True
    )
    said = f"muflow: the key {keys / 'bob'} has a passphrase, and there is no terminal to ask for it: add the key to"
    assert (done.returncode, done.stdout, done.stderr.decode()[: len(said)]) == (2, b"", said)


def test_force_replaces_an_earlier_signature_and_the_key_is_never_an_output(
    tiny_bundle: Path, faces: Path, keys: Path, tmp_path: Path
) -> None:
    report = tmp_path / "a.jsonl"
    signature_of(report).symlink_to(tmp_path / "planted")
    words = ("scan", faces, "--detector", tiny_bundle, "--exit-zero", "--sign", keys / "ann", "--force", "-o")
    assert run(*words, report).returncode == 0
    assert not signature_of(report).is_symlink()
    assert not (tmp_path / "planted").exists()
    check = check_signature(report, keys / "signers")
    assert check is not None
    assert check.good
    (tmp_path / "key.json").symlink_to(keys / "ann")
    before = (keys / "ann").read_bytes()
    done = run(*words, tmp_path / "key.json")
    assert (done.returncode, b"is an input of this run" in done.stderr) == (2, True)
    assert (keys / "ann").read_bytes() == before


def test_a_signature_that_fails_after_the_scan_leaves_the_whole_report(
    tiny_bundle: Path, faces: Path, keys: Path, tmp_path: Path
) -> None:
    tool = tmp_path / "bin" / "ssh-keygen"
    tool.parent.mkdir()
    real = shutil.which("ssh-keygen")
    tool.write_text(
        f'#!/bin/sh\ncase "$*" in *" -- "*) echo "the agent is gone" >&2; exit 1;; esac\nexec {real} "$@"\n'
    )
    tool.chmod(0o755)
    report = tmp_path / "a.jsonl"
    words = ("scan", faces, "--detector", tiny_bundle, "--exit-zero", "-q", "-o", report, "--sign", keys / "ann")
    done = run(*words, env=environment(PATH=f"{tool.parent}:{os.environ['PATH']}"))
    assert (done.returncode, done.stdout) == (2, b"")
    said = f"muflow: the scan is complete, but not the signatures of {report} (the agent is gone): sign later with"
    assert done.stderr.decode().startswith(said)
    assert run("scan", "--verify", report).returncode == 0
    assert not signature_of(report).exists()


def test_without_the_tool_signing_is_refused_and_a_signature_is_said_to_be_unchecked(
    report: Path, keys: Path, tmp_path: Path
) -> None:
    nothing = environment(PATH=str(tmp_path))
    done = run("scan", "photos", "-o", tmp_path / "b.json", "--sign", keys / "ann", env=nothing)
    assert done.returncode == 2
    assert done.stderr == b"muflow: --sign needs ssh-keygen, which is not on the PATH: install OpenSSH 8.1 or newer\n"
    done = run("scan", "--verify", report, "--signers", keys / "signers", env=nothing)
    assert (done.returncode, done.stderr[:35]) == (2, b"muflow: --signers needs ssh-keygen,")
    done = run("scan", "--verify", report, env=nothing)
    assert (done.returncode, b"was not checked, because ssh-keygen is missing" in done.stderr) == (0, True)


def test_a_passphrase_is_asked_for_once_on_the_terminal(keys: Path, tmp_path: Path) -> None:
    files = [tmp_path / "a", tmp_path / "b"]
    for file in files:
        file.write_text("x")
    program = (
        "import sys; from pathlib import Path; from muflow_cli.signatures import *\n"
        "key, *files = map(Path, sys.argv[1:]); print('later', check_key(key)); sign(key, files)"
    )
    child, terminal = pty.fork()
    if child == 0:
        words = [sys.executable, "-c", program, *map(str, (keys / "bob", *files))]
        os.execv(sys.executable, words)  # noqa: S606 - this process is the terminal's
    said = b""
    while b"Enter passphrase" not in said:
        said += os.read(terminal, 1000)
    os.write(terminal, b"a passphrase\n")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    os.close(terminal)
    assert b"later True" in said
    assert all(signature_of(file).is_file() for file in files)


@pytest.fixture
def agent(keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An ssh-agent that holds bob's key."""
    if shutil.which("ssh-agent") is None:
        pytest.skip("needs ssh-agent (OpenSSH), which is not here")
    socket, ask = tmp_path / "agent", tmp_path / "ask"
    ask.write_text("#!/bin/sh\necho a passphrase\n")
    ask.chmod(0o755)
    monkeypatch.setenv("SSH_AUTH_SOCK", str(socket))
    with subprocess.Popen(["ssh-agent", "-D", "-a", socket], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()  # it listens
        how = {**os.environ, "SSH_ASKPASS": str(ask), "SSH_ASKPASS_REQUIRE": "force"}
        subprocess.run(["ssh-add", "-q", keys / "bob"], env=how, check=True)
        yield
        process.terminate()


@pytest.mark.usefixtures("agent")
def test_a_key_in_an_agent_needs_no_terminal(keys: Path, tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_text("x")
    assert not check_key(keys / "bob")
    sign(keys / "bob", [file])
    check = check_signature(file, keys / "only_bob")
    assert check is not None
    assert check.good
    assert check.message.startswith("signed by bob@x (")


def test_files_without_a_signature_are_named(keys: Path, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    with pytest.raises(CannotSign, match=f"not the signatures of {tmp_path / 'gone'} \\("):
        sign(keys / "ann", [tmp_path / "a", tmp_path / "gone"])
    assert signature_of(tmp_path / "a").is_file()
