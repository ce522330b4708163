"""Promises of images/archives.py: members are inputs, nothing is extracted, no archive harms a run."""

from __future__ import annotations

import io
import os
import random
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from muflow_cli.images import archive_limits, tars, zips
from muflow_cli.images.archives import split
from muflow_cli.images.error import ImageError
from muflow_cli.images.find import find
from muflow_cli.images.inputs import Input
from muflow_cli.images.read import read_input
from muflow_cli.records import Unreadable
from muflow_cli.run_specs import InputSpec

Members = dict[str, bytes]
KINDS = ("zip", "tar", "tar.gz", "tar.bz2", "tar.xz")


def png(level: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 40), (level, 0, 0)).save(buffer, "PNG", compress_level=0)
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pack(kind: str, members: Members) -> str:
    path = f"faces.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        return path
    with tarfile.open(path, f"w:{kind.removeprefix('tar').removeprefix('.')}") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def outcome(item: Input | Unreadable, max_bytes: int) -> bytes | str:
    if isinstance(item, Unreadable):
        return item.code
    try:
        return read_input(item, max_bytes)
    except ImageError as error:
        return error.code


def contents(argument: str, max_bytes: int = 2**20, **settings: object) -> list[tuple[str, bytes | str]]:
    """Paths with their content or the code of their record; all are listed before the first is read."""
    listed = list(find([argument], InputSpec(max_bytes=max_bytes, **settings)))
    return [(item.path, outcome(item, max_bytes)) for item in listed]


@pytest.mark.parametrize("kind", KINDS)
def test_members_are_read_in_stored_order(kind: str) -> None:
    path = pack(kind, {"z.png": png(1), "a/b.jpg": png(2), "a/no extension": png(3), "é.png": png(4)})
    assert contents(path) == [
        (f"{path}!z.png", png(1)),
        (f"{path}!a/b.jpg", png(2)),
        (f"{path}!a/no extension", png(3)),
        (f"{path}!é.png", png(4)),
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_members_are_chosen_as_files_in_a_folder_are(kind: str) -> None:
    members = {".h.png": b"1", "__MACOSX/._a.png": b"2", "skip/a.png": b"3", "notes.txt": b"4", "a.png": b"5", "b": b""}
    path = pack(kind, members)
    assert contents(path, exclude=("skip",)) == [(f"{path}!a.png", b"5")]
    assert [name for name, _ in contents(path, exclude=("skip",), hidden=True)] == [
        f"{path}!.h.png",
        f"{path}!__MACOSX/._a.png",
        f"{path}!a.png",
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_one_member_is_addressed_by_name_whatever_it_is(kind: str) -> None:
    path = pack(kind, {"a.png": png(1), "d!/.notes": b"text", "b.png": png(2)})
    assert contents(f"{path}!b.png") == [(f"{path}!b.png", png(2))]
    assert contents(f"{path}!d!/.notes") == [(f"{path}!d!/.notes", b"text")]
    assert contents(f"{path}!c.png") == [(f"{path}!c.png", "not_found")]


def test_only_an_archive_that_exists_is_entered() -> None:
    path = pack("zip", {"a.png": png(1)})
    Path("x!y.png").write_bytes(png(2))
    assert split(f"{path}!a.png") == (path, "a.png")
    assert split("x!y.png") == split("no.zip!a.png") == split("nul\0.zip!a") == ("", "")
    assert contents("x!y.png") == [("x!y.png", png(2))]
    assert contents("no.zip!a.png") == [("no.zip!a.png", "not_found")]


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_in_a_folder_is_opened_unless_archives_are_left_out(kind: str) -> None:
    path = pack(kind, {"a.png": png(1), "b/inner.zip": b"PK", "notes.txt": b"text"})
    assert contents(".") == [(f"./{path}!a.png", png(1)), (f"./{path}!b/inner.zip", "unsupported")]
    assert contents(".", archives=False) == []
    assert contents(path, archives=False)[0] == (f"{path}!a.png", png(1))


@pytest.mark.parametrize("kind", KINDS)
def test_names_reach_nothing_outside_the_archive(kind: str, folder: Path) -> None:
    path = pack(kind, {"/etc/a.png": png(1), "../../b.png": png(2)})
    before = sorted(folder.parent.rglob("*"))
    assert [content for _, content in contents(path)] == [png(1), png(2)]
    assert sorted(folder.parent.rglob("*")) == before


def test_links_and_devices_in_archives_are_not_inputs() -> None:
    with tarfile.open("a.tar", "w") as archive:
        for name, kind in (("l.png", tarfile.SYMTYPE), ("h.png", tarfile.LNKTYPE), ("d.png", tarfile.CHRTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    with zipfile.ZipFile("a.zip", "w") as archive:
        link = zipfile.ZipInfo("l.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    assert contents("a.tar") == [("a.tar!h.png", "not_found")]
    assert contents("a.zip") == []


@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_hard_link_in_a_tar_is_the_member_that_it_leads_to(kind: str) -> None:
    path = pack(kind, {})
    with tarfile.open(path, f"w:{kind.removeprefix('tar').removeprefix('.')}") as archive:
        info = tarfile.TarInfo("a.png")
        info.size = len(png(1))
        archive.addfile(info, io.BytesIO(png(1)))
        for name, target in (("b.png", "a.png"), ("c", "a.png"), ("d.txt", "a.png"), ("../e.png", "../../etc/passwd")):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.LNKTYPE, target
            archive.addfile(link)
    links = [(f"{path}!{name}", png(1)) for name in ("b.png", "c", "d.txt")]
    assert contents(path) == [(f"{path}!a.png", png(1)), *links, (f"{path}!../e.png", "not_found")]
    assert contents(f"{path}!b.png") == links[:1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_member_beyond_max_bytes_is_one_record(kind: str) -> None:
    path = pack(kind, {"a.png": bytes(1000), "b.png": bytes(1001), "c.png": b"c"})
    assert contents(path, max_bytes=1000) == [
        (f"{path}!a.png", bytes(1000)),
        (f"{path}!b.png", "too_large"),
        (f"{path}!c.png", b"c"),
    ]


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "tar.bz2", "tar.xz"])
def test_an_archive_that_explodes_ends_with_one_record(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_limits, "MAX_MEMBERS", 100)
    monkeypatch.setattr(tars, "MAX_MEMBERS", 100)
    path = pack(kind, {f"{number}.png": bytes(2**20) for number in range(12)})
    results = contents(path, max_bytes=2**20)
    assert 1 <= len(results) < 12
    assert results[-1] == (path, "archive_bomb")


def test_skipping_in_a_compressed_tar_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_limits, "MAX_MEMBERS", 100)
    monkeypatch.setattr(tars, "MAX_MEMBERS", 100)
    path = pack("tar.gz", {"a.png": png(1), "zeros.bin": bytes(50 * 2**20), "b.png": png(2)})
    assert contents(path) == [(f"{path}!a.png", png(1)), (path, "archive_bomb")]


@pytest.mark.parametrize("kind", KINDS)
def test_members_are_counted(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_limits.Allowance, "__init__", _three_members)
    path = pack(kind, {f"{number}.png": b"x" for number in range(5)})
    assert [content for _, content in contents(path)] == [b"x", b"x", b"x", "too_many_members"]


def _three_members(self: archive_limits.Allowance, size: int) -> None:
    self.bytes, self.members = size, 3


def test_only_so_many_members_without_an_image_s_name_are_looked_into(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zips, "MAX_SNIFFED", 3)
    path = pack("zip", {f"{number}": b"x" for number in range(5)} | {"known": png(1), "a.png": png(2)})
    assert contents(path) == [(f"{path}!a.png", png(2)), (path, "too_many_members")]


@pytest.mark.parametrize("large", [False, True])
def test_a_zip_of_very_many_members_is_refused_before_its_directory_is_parsed(
    large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if large:
        monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 2)  # so that the directory ends as a large one does
    path = pack("zip", {f"{number}.png": png(1) for number in range(5)})
    assert (b"PK\6\6" in Path(path).read_bytes()) is large
    assert len(contents(path)) == 5
    monkeypatch.setattr(zips, "MAX_MEMBERS", 4)
    zips._parsed_zip.cache_clear()
    assert contents(path) == [(path, "too_many_members")]


def sparse_member(name: str, size: int) -> bytes:
    """The header of a tar member that is one hole (GNU, old format)."""
    header = bytearray(tarfile.TarInfo(name).tobuf(tarfile.GNU_FORMAT))
    header[156:157] = b"S"
    for at, number in ((124, 0), (386, size), (398, 0), (483, size)):
        header[at : at + 12] = b"%011o\0" % number
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def test_the_holes_of_a_tar_count_as_bytes() -> None:
    Path("a.tar").write_bytes(b"".join(sparse_member(f"{n}.png", 2**20) for n in range(40)) + bytes(1024))
    results = contents("a.tar", max_bytes=2**20)
    assert 1 <= len(results) < 12
    assert results[0] == ("a.tar!0.png", bytes(2**20))
    assert results[-1] == ("a.tar", "archive_bomb")


def test_a_tar_header_of_any_length_is_not_read() -> None:
    with tarfile.open("a.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("a.png")
        info.pax_headers = {"comment": "x" * 2**21}
        archive.addfile(info)
    assert contents("a.tar", max_bytes=2**28) == [("a.tar", "archive_bomb")]


def test_a_member_packed_by_another_method_is_unsupported() -> None:
    path = pack("zip", {"a.png": png(1)})
    data = bytearray(Path(path).read_bytes())
    for signature, at in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        data[data.index(signature) + at] = 9  # deflate64
    Path(path).write_bytes(data)
    assert contents(path) == [(f"{path}!a.png", "unsupported")]


def test_an_encrypted_member_is_one_record() -> None:
    path = pack("zip", {"a.png": png(1), "b.png": png(2)})
    data = bytearray(Path(path).read_bytes())
    for signature, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = data.index(signature)
        data[start + at] |= 1
    Path(path).write_bytes(data)
    assert contents(path) == [(f"{path}!a.png", "encrypted"), (f"{path}!b.png", png(2))]


def test_a_member_that_is_packed_by_an_unread_method_is_one_record() -> None:
    path = pack("zip", {"a.png": png(1), "b.png": png(2)})
    data = bytearray(Path(path).read_bytes())
    for signature, at in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        start = data.index(signature)
        data[start + at] = 9  # deflate64, as Windows packs above 2 GB
    Path(path).write_bytes(data)
    assert contents(path) == [(f"{path}!a.png", "unsupported"), (f"{path}!b.png", png(2))]


def test_a_member_with_a_wrong_checksum_is_one_record() -> None:
    with zipfile.ZipFile("a.zip", "w") as archive:
        archive.writestr("a.png", b"good content")
        archive.writestr("b.png", b"b")
    data = Path("a.zip").read_bytes()
    Path("a.zip").write_bytes(data.replace(b"good content", b"evil content"))
    assert contents("a.zip") == [("a.zip!a.png", "corrupt_member"), ("a.zip!b.png", b"b")]


@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_truncated_tar_gives_its_good_members_then_one_record(kind: str) -> None:
    chance = random.Random(0)
    members = {f"{number}.png": chance.randbytes(3000) for number in range(6)}
    path = pack(kind, members)
    whole = Path(path).read_bytes()
    if kind == "tar":
        whole = whole[: 6 * (512 + 3072)]  # what follows the members is padding
    for share in (0.2, 0.5, 0.8):
        Path(path).write_bytes(whole[: int(len(whole) * share)])
        results = contents(path)
        good = [(name, content) for name, content in results if isinstance(content, bytes)]
        assert good == [(f"{path}!{name}", members[name]) for name in list(members)[: len(good)]]
        assert results[-1] == (path, "truncated_archive")
        assert len(results) <= len(good) + 2


def test_a_tar_cut_between_two_members_is_told_from_a_whole_one() -> None:
    path = pack("tar", {"a.png": bytes(512), "b.png": bytes(512)})
    Path(path).write_bytes(Path(path).read_bytes()[:1024])
    assert contents(path) == [(f"{path}!a.png", bytes(512)), (path, "truncated_archive")]


def test_a_tar_with_a_damaged_header_does_not_end_in_silence() -> None:
    path = pack("tar", {"a.png": bytes(512), "b.png": bytes(512)})
    data = bytearray(Path(path).read_bytes())
    data[1024 + 150] ^= 1
    Path(path).write_bytes(data)
    assert contents(path) == [(f"{path}!a.png", bytes(512)), (path, "corrupt_archive")]


def test_a_tar_header_that_points_backwards_ends() -> None:
    info = tarfile.TarInfo("a.png")
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = struct.pack(">BxxxQ", 0xFF, 2**64 - 4096)  # base 256, negative
    header[148:156] = b"        "
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    Path("a.tar").write_bytes(header + bytes(1024))
    assert contents("a.tar") == [("a.tar", "corrupt_archive")]


def test_a_zip_that_lists_fewer_members_than_it_announces_does_not_end_in_silence(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("a.jpg", "b.jpg", "c.jpg"):
            archive.writestr(name, name)
    data = bytearray(path.read_bytes())
    end = data.rindex(b"PK\5\6")
    second = data.index(b"PK\1\2", data.index(b"PK\1\2") + 1)
    first = data.index(b"PK\1\2")
    # The second entry becomes the comment of the first.
    data[first + 32 : first + 34] = (data.index(b"PK\1\2", second + 1) - second).to_bytes(2, "little")
    path.write_bytes(data)
    *members, record = find([str(path)], InputSpec())
    assert [item.path for item in members] == [f"{path}!a.jpg", f"{path}!c.jpg"]
    assert isinstance(record, Unreadable)
    assert record.code == "corrupt_archive"
    assert record.message == "the archive lists 2 members but announces 3, so some may be missing"
    data[end + 8 : end + 12] = (2).to_bytes(2, "little") * 2
    path.write_bytes(data)
    assert len(list(find([str(path)], InputSpec()))) == 2


def test_what_a_library_says_of_damage_stands_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.jpg", b"\xff" * 3000)
    data = bytearray(path.read_bytes())
    data[26:28] = (2000).to_bytes(2, "little")  # the name in the header of the member, which zipfile then quotes
    path.write_bytes(data)
    (member,) = find([str(path)], InputSpec())
    assert isinstance(member, Input)
    with pytest.raises(ImageError) as caught:
        read_input(member, 2**20)
    assert (
        caught.value.message == "the member of the archive is damaged (File name in directory 'a.jpg' and header ...)"
    )
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("a.jpg"))
    packed = (tmp_path / "a.tar.gz").read_bytes()
    (tmp_path / "a.tar.gz").write_bytes(packed[:12] + b"\xff" * 20)
    (record,) = find([str(tmp_path / "a.tar.gz")], InputSpec())
    assert isinstance(record, Unreadable)
    assert ": " not in record.message


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_not_an_archive_is_one_record(kind: str) -> None:
    path = f"a.{kind}"
    for content in (b"", b"text", bytes(100), png(1)):
        Path(path).write_bytes(content)
        ((name, code),) = contents(path)
        assert name == path
        assert code in ("corrupt_archive", "truncated_archive")


def test_a_zip_is_opened_once_for_all_its_members(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    class Counted(zipfile.ZipFile):
        def __init__(self, path: str) -> None:
            opened.append(path)
            super().__init__(path)

    path = pack("zip", {f"{number}.png": png(number) for number in range(20)})
    monkeypatch.setattr(zips.zipfile, "ZipFile", Counted)
    assert [content for _, content in contents(path)] == [png(number) for number in range(20)]
    assert opened == [path]


def test_threads_that_share_a_zip_read_what_one_alone_reads() -> None:
    chance = random.Random(1)
    members = {f"{number}.png": chance.randbytes(30_000) for number in range(60)}
    listed = list(find([pack("zip", members)], InputSpec()))
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda item: read_input(item, 2**20), listed)) == list(members.values())


def test_a_zip_that_is_replaced_is_parsed_again() -> None:
    path = pack("zip", {"a.png": png(1), "b.png": png(2)})
    first, second = find([path], InputSpec())
    Path(path).unlink()
    pack("zip", {"a.png": png(3)})
    assert outcome(first, 2**20) == png(3)
    assert outcome(second, 2**20) == "not_found"
    Path(path).unlink()
    assert outcome(first, 2**20) == "not_found"
    os.mkfifo(path)
    assert outcome(first, 2**20) == "not_a_file"


def test_members_with_the_same_name_are_each_read() -> None:
    with warnings.catch_warnings(), zipfile.ZipFile("a.zip", "w") as archive:
        warnings.simplefilter("ignore")
        archive.writestr("a.png", b"first")
        archive.writestr("a.png", b"second")
    assert contents("a.zip") == [("a.zip!a.png", b"first"), ("a.zip!a.png", b"second")]


def damaged(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    at = chance.randrange(len(data))
    changes: list[Callable[[], object]] = [
        lambda: changed.__delitem__(slice(at, None)),
        lambda: changed.__delitem__(slice(at, at + chance.randrange(1, 600))),
        lambda: [changed.__setitem__(chance.randrange(len(data)), chance.randrange(256)) for _ in range(6)],
        lambda: [changed.__setitem__(-chance.randrange(1, 200), chance.randrange(256)) for _ in range(3)],
    ]
    chance.choice(changes)()
    return bytes(changed)


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_archive_never_ends_a_run(kind: str) -> None:
    chance = random.Random(3)
    path = pack(kind, {f"{number}.png": png(number) for number in range(4)} | {"unknown": png(9)})
    whole = Path(path).read_bytes()
    for _ in range(150):
        Path(path).write_bytes(damaged(whole, chance))
        for _, content in contents(path):
            assert isinstance(content, bytes | str)
