"""Signatures of C2PA manifests: checked with the library where it is installed, and never over a network."""

from __future__ import annotations

import datetime
import io
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import marked_files as files
import pytest

from muflow_cli.errors import BadSpec
from muflow_cli.images.marks import read_marks
from muflow_cli.images.metadata.signatures import check_signature, read_anchors
from muflow_cli.records import Mark, Origin, Trust

c2pa = pytest.importorskip("c2pa")
x509 = pytest.importorskip("cryptography.x509")

from cryptography.hazmat.primitives import hashes, serialization  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec  # noqa: E402


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def certificate(name: str, key: ec.EllipticCurvePrivateKey, issuer: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    """A certificate of the authority, for itself or for a signer, as C2PA asks for them."""
    names = [x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, part)]) for part in (name, "authority")]
    now = datetime.datetime.now(datetime.UTC)
    itself = key is issuer
    uses = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only"), False
    )
    usage = x509.KeyUsage(
        digital_signature=not itself, key_cert_sign=itself, crl_sign=itself, decipher_only=False, **uses
    )
    builder = x509.CertificateBuilder(
        subject_name=names[0],
        issuer_name=names[1],
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=now - datetime.timedelta(days=1),
        not_valid_after=now + datetime.timedelta(days=1),
    )
    builder = builder.add_extension(x509.BasicConstraints(ca=itself, path_length=None), critical=True)
    builder = builder.add_extension(usage, critical=True)
    known = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key())
    builder = builder.add_extension(known, critical=False)
    if not itself:
        purpose = x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.EMAIL_PROTECTION])
        builder = builder.add_extension(purpose, critical=False)
    return builder.sign(issuer, hashes.SHA256())


@pytest.fixture(scope="module")
def signed() -> tuple[bytes, str]:
    """A JPEG with a signed manifest, and the certificate (PEM) of the authority that vouches for its signer."""
    authority, signer = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root = pem(certificate("authority", authority, authority))
    chain = pem(certificate("signer", signer, authority)) + root
    private = signer.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    settings = c2pa.C2paSignerInfo(c2pa.C2paSigningAlg.ES256, chain, private, None)
    assertions = [{"label": "c2pa.actions", "data": {"actions": [files.CREATED]}}]
    written = io.BytesIO()
    with c2pa.Builder({"claim_generator_info": [{"name": "tests"}], "assertions": assertions}) as builder:
        builder.sign(c2pa.Signer.from_info(settings), "image/jpeg", io.BytesIO(files.saved("JPEG")), written)
    return written.getvalue(), root.decode()


def mark(data: bytes, anchors: str | None) -> Mark:
    (only,) = read_marks(data, anchors).marks
    return only


def test_a_signer_is_valid_only_by_a_list_that_holds_his_authority(signed: tuple[bytes, str]) -> None:
    data, root = signed
    assert mark(data, root).trust is Trust.VALID
    assert mark(data, None).trust is Trust.UNTRUSTED
    assert mark(data, root).detail["signer"] == "signer"


def test_a_file_that_changed_after_it_was_signed_is_invalid(signed: tuple[bytes, str]) -> None:
    data, root = signed
    changed = mark(data[:-30] + bytes(10) + data[-20:], root)
    assert changed.trust is Trust.INVALID
    assert "mismatch" in changed.detail["reason"]
    assert changed.claim is Origin.SYNTHETIC


def test_a_camera_whose_signature_does_not_fit_is_no_origin() -> None:
    unsigned = read_marks(files.with_riff(b"C2PA", files.manifest(files.CAPTURED)))
    assert [(only.trust, only.claim) for only in unsigned.marks] == [(Trust.INVALID, Origin.CAMERA)]
    assert unsigned.origin is Origin.NONE


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """An address, and the requests that reached it."""
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(self.path)
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    listening = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{listening.server_port}/", requests
    listening.shutdown()
    thread.join()
    listening.server_close()


def test_nothing_is_fetched(server: tuple[str, list[str]]) -> None:
    address, requests = server
    data = files.in_app1(files.xmp(f'dcterms:provenance="{address}manifest"'))
    check_signature(data, None)
    assert requests == []
    # The library does fetch by its own defaults.
    with pytest.raises(c2pa.C2paError):
        c2pa.Reader(
            "image/jpeg", io.BytesIO(data), context=c2pa.Context.from_dict({"verify": {"remote_manifest_fetch": True}})
        )
    assert requests == ["/manifest"]


@pytest.mark.parametrize(
    "text", [None, "no certificate", "-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n"]
)
def test_a_trust_list_that_holds_no_certificate_is_refused(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "anchors.pem"
    if text is not None:
        file.write_text(text)
    with pytest.raises(BadSpec, match="certificates \\(PEM\\)"):
        read_anchors(file)


def test_a_trust_list_is_read_as_it_is(tmp_path: Path, signed: tuple[bytes, str]) -> None:
    data, root = signed
    (tmp_path / "anchors.pem").write_text(root)
    assert mark(data, read_anchors(tmp_path / "anchors.pem")).trust is Trust.VALID


def test_a_trust_list_without_an_end_is_refused_at_once(tmp_path: Path) -> None:
    large = tmp_path / "anchors.pem"
    with large.open("wb") as file:
        file.truncate(2**30)
    for path in (large, Path("/dev/zero")):
        with pytest.raises(BadSpec, match="at most 16 MiB"):
            read_anchors(path)
