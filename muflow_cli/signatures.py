"""Signatures of files by the user's own ssh-keygen (OpenSSH 8.1 or newer): `FILE.sig` beside `FILE`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from muflow_cli.errors import BadSpec, CannotSign, MissingTool
from muflow_cli.system import has_terminal

_NAMESPACE: Final = "muflow"  # a signature that was made for something else does not count
_GOOD: Final = re.compile(r'^Good "muflow" signature .*?with (\S+ key \S+)', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Check:
    """What a check of a signature gives.

    Attributes:
        good: whether the signature fits the file and, where a list of signers was given, who made it is known.
        message: a sentence without its full stop.
    """

    good: bool
    message: str


def signature_of(file: Path) -> Path:
    """Where the signature of a file lies."""
    return file.with_name(file.name + ".sig")


def check_key(key: Path) -> bool:
    """Sign nothing as a trial, before hours of work; whether ssh-keygen will ask for a passphrase later.

    The trial can ask nobody: a key with a passphrase passes it only by means of an ssh-agent.

    Raises:
        MissingTool: without ssh-keygen.
        CannotSign: for what is no usable key, or one whose passphrase nobody can be asked for.
    """
    tool = _tool("--sign")
    if not key.is_file():
        raise CannotSign(f"cannot sign with {key} (no such file)", "give a key that ssh-keygen made")
    done = subprocess.run(  # noqa: S603 - the user's own tool and key
        [tool, *_sign(key)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        start_new_session=True,  # away from the terminal
        env={**os.environ, "SSH_ASKPASS_REQUIRE": "never"},
        check=False,
    )
    if done.returncode == 0:
        return False
    if b"passphrase" not in done.stderr:
        raise CannotSign(f"cannot sign with {key} ({_reason(done.stderr)})", "give a key that ssh-keygen can use")
    if not has_terminal():
        problem = f"the key {key} has a passphrase, and there is no terminal to ask for it"
        raise CannotSign(problem, "add the key to an ssh-agent (ssh-add), or give another key")
    return True


def sign(key: Path, files: Sequence[Path]) -> None:
    """Sign files, each into `signature_of(file)`, which is replaced where it exists; a passphrase is asked for once.

    Raises:
        MissingTool: without ssh-keygen.
        CannotSign: naming the files that are complete but have no signature.
    """
    tool = _tool("--sign")
    for file in files:
        # Of what the file was before; ssh-keygen would ask whether it may be replaced.
        signature_of(file).unlink(missing_ok=True)
    done = subprocess.run(  # noqa: S603 - the user's own tool and key
        [tool, *_sign(key), "--", *(file.absolute() for file in files)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=False,
    )
    unsigned = [str(file) for file in files if not signature_of(file).is_file()]
    if done.returncode != 0 or unsigned:
        names = ", ".join(unsigned or map(str, files))
        problem = f"the scan is complete, but not the signatures of {names} ({_reason(done.stderr)})"
        raise CannotSign(problem, f"sign later with ssh-keygen -Y sign -n {_NAMESPACE} -f KEY FILE")


def check_signature(file: Path, signers: Path | None) -> Check | None:
    """Whether the signature beside a file fits it, and whose it is; None if there is none and no signer is asked for.

    Args:
        file: that was signed.
        signers: those whose signatures count (the format `allowed_signers` of ssh-keygen); None = nobody vouches for
            the key.

    Raises:
        MissingTool: without ssh-keygen, where signers are given.
        BadSpec: where the list of signers cannot be read.
    """
    signature = signature_of(file)
    if signers is not None:
        if not (signers.is_file() and os.access(signers, os.R_OK)):
            raise BadSpec("--signers", signers, "a readable file of signers in ssh-keygen's format allowed_signers")
        _tool("--signers")
    if os.path.lexists(signature) and not signature.is_file():
        return Check(good=False, message=f"the signature {signature} is not a file")
    if not signature.is_file():
        return (
            None
            if signers is None
            else Check(good=False, message=f"there is no signature {signature}; `scan --sign KEY` makes one")
        )
    if shutil.which("ssh-keygen") is None:
        return Check(good=True, message=f"the signature {signature} was not checked, because ssh-keygen is missing")
    fits = _verified(file, ["check-novalidate"])
    key = _GOOD.search(fits.stdout.decode(errors="replace"))
    if fits.returncode != 0 or key is None:
        return Check(good=False, message=f"the signature {signature} does not fit the report ({_reason(fits.stderr)})")
    if signers is None:
        message = f"the signature {signature} fits ({key[1]}), but nobody vouches for its key; name those who may sign"
        return Check(good=True, message=f"{message} with --signers FILE")
    return _signer(file, signers, key[1])


def _signer(file: Path, signers: Path, key: str) -> Check:
    """Who of the signers made a signature that fits."""
    principals = _run(["find-principals", "-f", os.fspath(signers), "-s", os.fspath(signature_of(file))], None)
    reason = _reason(principals.stderr)
    for principal in os.fsdecode(principals.stdout).splitlines():
        done = _verified(file, ["verify", "-f", os.fspath(signers), "-I", principal])
        if done.returncode == 0:
            return Check(good=True, message=f"signed by {principal} ({key})")
        reason = _reason(done.stderr)
    message = f"the signature {signature_of(file)} fits ({key}), but {signers} names nobody who may sign so ({reason})"
    return Check(good=False, message=message)


def _tool(option: str) -> str:
    tool = shutil.which("ssh-keygen")
    if tool is None:
        raise MissingTool(option, "ssh-keygen", "install OpenSSH 8.1 or newer")
    return tool


def _sign(key: Path) -> list[str]:
    return ["-Y", "sign", "-n", _NAMESPACE, "-f", os.fspath(key)]


def _verified(file: Path, words: list[str]) -> subprocess.CompletedProcess[bytes]:
    return _run([*words, "-n", _NAMESPACE, "-s", os.fspath(signature_of(file))], file)


def _run(words: list[str], file: Path | None) -> subprocess.CompletedProcess[bytes]:
    with (file or Path(os.devnull)).open("rb") as stream:
        return subprocess.run(  # noqa: S603 - the user's own tool, and no shell
            [_tool("--verify"), "-Y", *words], stdin=stream, capture_output=True, check=False
        )


def _reason(stderr: bytes) -> str:
    """What ssh-keygen gives as its reason: the first line that is neither a frame nor what it is about to do."""
    lines = [line.strip() for line in stderr.decode(errors="replace").splitlines()]
    said = [line for line in lines if line and not line.startswith(("@", "Signing ", "Enter passphrase"))]
    return said[0].rstrip(".").replace(": ", ", ") if said else "ssh-keygen gives no reason"
