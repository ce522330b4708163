"""Fuzz of archives: their members are read under the SHA-256 of their bytes, and what is wrong is an error record."""

from __future__ import annotations

import hashlib
import io
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from fuzz_bundles import is_sentence
from mutations import mutate
from tiny import encoded, image

from muflow_cli.images.find import find
from muflow_cli.images.inputs import Input
from muflow_cli.images.loader import Loaded, LoadSpec, load
from muflow_cli.images.read import read_input
from muflow_cli.records import Unreadable
from muflow_cli.run_specs import InputSpec
from muflow_cli.specs import View, ViewSpec

_ZIPS = {"stored": 0, "deflate": 8, "bzip2": 12, "lzma": 14}
_TARS = {"tar": "w", "tar.gz": "w:gz", "tar.bz2": "w:bz2", "tar.xz": "w:xz"}
_EXTREMES = (0, 1, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1)


def members(generator: np.random.Generator) -> dict[str, bytes]:
    """Names and contents of what lies in every archive."""
    images = {f"faces/{number}.jpg": encoded(image(generator, 48)) for number in range(3)}
    odd = {"a/../b.png": encoded(image(generator, 40), "PNG"), "name " + "x" * 120 + ".jpg": images["faces/0.jpg"]}
    others = {"é.webp": encoded(image(generator, 40), "WEBP"), "notes.txt": b"no image\n" * 30, "in.zip": b"PK"}
    return images | odd | others


def zipped(contents: dict[str, bytes], method: int) -> bytes:
    """A zip of the contents."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def tarred(contents: dict[str, bytes], mode: str, form: int) -> bytes:
    """A tar of the contents and of a hard and a symbolic link."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode, format=form) as archive:  # type: ignore[call-overload]
        for name, data in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for name, kind in (("hard.jpg", tarfile.LNKTYPE), ("soft.jpg", tarfile.SYMTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "faces/1.jpg"
            archive.addfile(info)
    return buffer.getvalue()


def forged_zip(data: bytes, generator: np.random.Generator) -> bytes:
    """Numbers in the headers of a zip replaced: sizes, offsets, counts, methods, flags, checksums."""
    forged = bytearray(data)
    starts = [at for sign in (b"PK\1\2", b"PK\3\4", b"PK\5\6") for at in _all(data, sign)]
    for _ in range(generator.integers(1, 4)):
        at = starts[int(generator.integers(0, len(starts)))] + int(generator.integers(4, 46))
        form = "<H" if generator.random() < 0.5 else "<L"
        value = _EXTREMES[int(generator.integers(0, len(_EXTREMES)))] & (0xFFFF if form == "<H" else 0xFFFFFFFF)
        if at + 4 <= len(forged):
            struct.pack_into(form, forged, at, value)
    return bytes(forged)


def forged_tar(data: bytes, generator: np.random.Generator) -> bytes:
    """Fields of headers of a plain tar replaced, their checksums computed anew."""
    forged = bytearray(data)
    starts = [at - 257 for at in _all(data, b"ustar") if at >= 257]
    for _ in range(generator.integers(1, 4)):
        at = starts[int(generator.integers(0, len(starts)))]
        begin, length = ((0, 100), (124, 12), (156, 1), (157, 100), (345, 155))[int(generator.integers(0, 5))]
        field = forged[at + begin : at + begin + length]
        choice = int(generator.integers(0, 4))
        if choice == 0:
            field[:] = generator.bytes(length)
        elif choice == 1:
            field[:] = b"7" * length
        elif choice == 2:
            field[:] = (b"\x80" + generator.bytes(length))[:length]
        else:
            field[:] = bytes([b"012345678xgLKSD\0"[int(generator.integers(0, 16))]]) * length
        forged[at + begin : at + begin + length] = field
        forged[at + 148 : at + 156] = b" " * 8
        forged[at + 148 : at + 156] = b"%06o\0 " % sum(forged[at : at + 512])
    return bytes(forged)


def _all(data: bytes, sign: bytes) -> list[int]:
    found, at = [], data.find(sign)
    while at >= 0:
        found.append(at)
        at = data.find(sign, at + 1)
    return found


class Archives:
    """Mutated and forged zips and tars."""

    def __init__(self, folder: Path) -> None:
        contents = members(np.random.default_rng(13))
        self._seeds = [(f"zip {name}", ".zip", zipped(contents, method)) for name, method in _ZIPS.items()]
        forms = (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT)
        for number, (suffix, mode) in enumerate(_TARS.items()):
            for form in forms if suffix == "tar" else forms[number % 2 : number % 2 + 1]:
                # This form has no room for long names.
                short = {k: v for k, v in contents.items() if form != tarfile.USTAR_FORMAT or len(k) < 90}
                self._seeds.append((suffix, f".{suffix}", tarred(short, mode, form)))
        self._all = [data for _, _, data in self._seeds]
        view = ViewSpec(kind=View.RESIZE, size=32)
        self._spec = LoadSpec(views={"main": view}, inputs=InputSpec(), workers=1, ahead=2)
        self._folder = folder
        self._expected = {}
        for _, suffix, data in self._seeds:
            self._path = folder / f"mutated{suffix}"
            self._path.write_bytes(data)
            self._expected[data] = self._results()[0]

    def make(self, number: int, generator: np.random.Generator) -> tuple[str, Path]:
        """Write one archive; mutation and container, and where it lies."""
        container, suffix, self._seed = self._seeds[number % len(self._seeds)]
        forge = {".zip": forged_zip, ".tar": forged_tar}.get(suffix)
        forged = forge is not None and generator.random() < 0.5
        # The directory of a zip, which decides most, lies at its end.
        data = forge(self._seed, generator) if forged and forge else mutate(self._seed, self._all, generator, 1200)
        # Another name each time: archives that are open are known by name, size and time.
        self._path = self._folder / f"mutated-{number % 8}{suffix}"
        self._path.unlink(missing_ok=True)
        self._path.write_bytes(data)
        return f"{container}{', forged headers' if forged else ''}", self._path

    def _results(self) -> tuple[dict[str, str], list[Unreadable], list[str]]:
        """Path and SHA-256 of what can be scored, error records, and paths whose bytes differ when read again."""
        listed = list(find([str(self._path)], InputSpec()))
        inputs = {item.path: item for item in listed if isinstance(item, Input)}
        hashes, errors, other = dict[str, str](), list[Unreadable](), list[str]()
        for result in load(listed, self._spec):
            if isinstance(result, Loaded):
                hashes[result.path.partition("!")[2]] = result.facts.sha256
                again = inputs[result.path]
                names = [item for item in listed if item.path == result.path]
                if len(names) == 1 and hashlib.sha256(read_input(again, 2**28)).hexdigest() != result.facts.sha256:
                    other.append(result.path)
            else:
                errors.append(result)
        return hashes, errors, other

    def outcome(self) -> str:
        """What became of it."""
        hashes, errors, other = self._results()
        unprintable = [error.message for error in errors if not is_sentence(error.message)]
        if unprintable:
            return f"FAILED: not one sentence: {unprintable[0][:300]!r}"
        if other:
            return "FAILED: unseen, a member under another SHA-256"
        expected = self._expected[self._seed]
        own = [error for error in errors if not error.path.endswith("in.zip")]
        if own:
            return "error records" if not hashes else "some members, and error records for others or for the archive"
        if hashes == expected:
            return "all members as they were"
        if expected.keys() <= hashes.keys():
            return "all members, some with other bytes"
        return "members renamed or no longer listed, without an error"
