"""The signature of a C2PA manifest, checked by the library c2pa-python where it is installed; never over a network."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from muflow_cli.errors import BadSpec
from muflow_cli.records import Trust

if TYPE_CHECKING:
    import c2pa

_MAX_ANCHORS: Final = 16 * 2**20  # bytes; the lists of whole operating systems take less than one
# What a certificate may lack although the signature fits the file.
_OF_THE_SIGNER: Final = frozenset(("signingCredential.untrusted", "signingCredential.expired"))


def check_signature(data: bytes, anchors: str | None) -> tuple[Trust, Mapping[str, str]]:
    """How far the signature of a file's manifest can be trusted, and who signed it.

    Args:
        data: the whole file.
        anchors: certificates (PEM) that may vouch for a signer; None = no signer is trusted.
    """
    context = _context(anchors)
    if context is None:
        return Trust.NOT_VERIFIED, {"reason": "install muflow-cli[c2pa] to check the signature"}
    import c2pa

    try:
        with c2pa.Reader(None, io.BytesIO(data), context=context) as reader:
            report = json.loads(reader.json())
    except (c2pa.C2paError, ValueError) as error:
        return Trust.INVALID, {"reason": str(error)}
    return _state(report)


def read_anchors(path: Path) -> str:
    """The certificates (PEM) of a file that names trusted authorities.

    Raises:
        BadSpec: where the file cannot be read, holds no certificate, or the library that checks signatures is missing.
    """
    try:
        # A device has no end, a pipe no beginning.
        if not path.is_file() or path.stat().st_size > _MAX_ANCHORS:
            raise OSError
        anchors = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        needed = f"a file of at most {_MAX_ANCHORS >> 20} MiB that can be read, with certificates (PEM)"
        raise BadSpec("--c2pa-trust", path, needed) from None
    if _context(None) is None:
        raise BadSpec("--c2pa-trust", path, "used with the extra muflow-cli[c2pa], which checks signatures")
    # A dependency of the library, which itself passes over certificates that it cannot read.
    from cryptography.x509 import load_pem_x509_certificates

    try:
        load_pem_x509_certificates(anchors.encode())
    except ValueError:
        raise BadSpec("--c2pa-trust", path, "a file with certificates (PEM)") from None
    return anchors


def _state(report: Mapping[str, Any]) -> tuple[Trust, dict[str, str]]:
    active = report.get("manifests", {}).get(report.get("active_manifest"), {})
    signer = active.get("signature_info") or {}
    names = {"signer": signer.get("issuer"), "certificate": signer.get("common_name"), "signed": signer.get("time")}
    detail = {key: str(value) for key, value in names.items() if value}
    failures = report.get("validation_results", {}).get("activeManifest", {}).get("failure", [])
    codes = list(dict.fromkeys(str(failure.get("code")) for failure in failures))
    if codes:
        detail["reason"] = ", ".join(codes)
    if set(codes) - _OF_THE_SIGNER:
        return Trust.INVALID, detail
    return Trust.UNTRUSTED if codes else Trust.VALID, detail


@cache
def _context(anchors: str | None) -> c2pa.Context | None:
    """Settings that fetch nothing: no manifest elsewhere, no certificate's status."""
    try:
        import c2pa
    except (ImportError, OSError):  # OSError: its shared library does not load here
        return None
    verify = {"verify_trust": True, "remote_manifest_fetch": False, "ocsp_fetch": False}
    trust = {} if anchors is None else {"trust": {"trust_anchors": anchors}}
    return c2pa.Context.from_dict({"verify": verify, **trust})
