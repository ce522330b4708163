"""Promises of images/find.py: every input is listed once, in a stable order, or becomes one record."""

from __future__ import annotations

import io
import multiprocessing
import os
import pickle
import socket
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from muflow_cli.errors import BadList
from muflow_cli.images import globs, inputs, remote
from muflow_cli.images.error import ImageError
from muflow_cli.images.find import find
from muflow_cli.images.inputs import Input, InputKind
from muflow_cli.images.lists import read_list
from muflow_cli.images.read import read_input
from muflow_cli.records import Unreadable
from muflow_cli.run_specs import InputSpec


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PNG")
    return buffer.getvalue()


PNG = png()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def put(*names: str, content: bytes = PNG) -> None:
    for name in names:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def listed(*arguments: str, **settings: object) -> list[str]:
    """What `find` lists: a path, or path:code of a record."""
    return [
        item.path if isinstance(item, Input) else f"{item.path}:{item.code}"
        for item in find(arguments, InputSpec(**settings))
    ]


def refusal(path: str, max_bytes: int = 2**20) -> str:
    with pytest.raises(ImageError) as caught:
        read_input(Input(path), max_bytes)
    return caught.value.code


def test_a_folder_is_walked_in_the_order_of_name_bytes() -> None:
    put("d/b.png", "d/a/z.jpg", "d/a/B.jpg", "d/a.png", "d/é.png", "d/Z.png", "d/c/d/e/f.webp")
    assert listed("d") == ["d/Z.png", "d/a/B.jpg", "d/a/z.jpg", "d/a.png", "d/b.png", "d/c/d/e/f.webp", "d/é.png"]


def test_arguments_keep_their_order_and_spelling(folder: Path) -> None:
    put("a.png", "b.png", "d/c.png")
    assert listed("b.png", f"{folder}/a.png", "./d/") == ["b.png", f"{folder}/a.png", "./d/c.png"]


def test_in_a_folder_images_are_known_by_name_or_by_content() -> None:
    put("d/image", "d/image.dat", "d/no extension.")
    put("d/psd.PSD", "d/raw.nef", content=b"text")
    put("d/jxl", content=b"\xff\x0a")
    put("d/text.jpg", "d/TEXT.HEIC", "d/notes.txt", "d/script.eps", content=b"text")
    put("d/empty.jpg", "d/empty", content=b"")
    images = ["d/TEXT.HEIC", "d/empty.jpg", "d/image", "d/image.dat", "d/no extension.", "d/text.jpg"]
    assert listed("d") == sorted([*images, "d/psd.PSD", "d/raw.nef", "d/jxl"])


def test_a_file_that_is_named_is_an_input_whatever_it_is() -> None:
    put("notes.txt", ".hidden.txt", "thumb.txt", content=b"text")
    assert listed("notes.txt", ".hidden.txt", "thumb.txt", exclude=("thumb*",)) == [
        "notes.txt",
        ".hidden.txt",
        "thumb.txt",
    ]


def test_a_folder_named_like_an_image_is_a_folder() -> None:
    put("d/x.png/y.png")
    assert listed("d") == listed("d/x.png") == ["d/x.png/y.png"]


def test_hidden_names_are_skipped_unless_asked_for_or_named() -> None:
    put("d/.a.png", "d/.h/b.png", "d/c.png")
    assert listed("d") == ["d/c.png"]
    assert listed("d", hidden=True) == ["d/.a.png", "d/.h/b.png", "d/c.png"]
    assert listed("d/.h") == ["d/.h/b.png"]


@pytest.mark.parametrize("pattern", ["skip", "sk*", "d/skip", "d/s*p", "*/skip"])
def test_a_folder_is_excluded_by_name_or_path(pattern: str) -> None:
    put("d/skip/a.png", "d/skip/e/b.png", "d/keep/a.png")
    assert listed("d", exclude=(pattern,)) == ["d/keep/a.png"]


@pytest.mark.parametrize("pattern", ["a.png", "*/keep/a.*", "d/keep/a.png"])
def test_a_file_is_excluded_by_name_or_path(pattern: str) -> None:
    put("d/keep/a.png", "d/keep/b.png")
    assert listed("d", exclude=("other", pattern)) == ["d/keep/b.png"]


def test_links_in_a_folder_are_followed_only_when_asked() -> None:
    put("real/a.png", "b.png", "d/c.png")
    Path("d/to_folder").symlink_to("../real")
    Path("d/to_file.png").symlink_to("../b.png")
    assert listed("d") == ["d/c.png"]
    assert listed("d", follow_links=True) == ["d/c.png", "d/to_file.png", "d/to_folder/a.png"]
    assert listed("d/to_folder", "d/to_file.png") == ["d/to_folder/a.png", "d/to_file.png"]


def test_links_that_lead_in_a_circle_end() -> None:
    put("d/e/a.png")
    Path("d/e/up").symlink_to("..")
    Path("d/e/self").symlink_to(".")
    Path("d/twin").symlink_to("e")
    assert listed("d", follow_links=True) == ["d/e/a.png"]
    Path("loop.png").symlink_to("loop.png")
    assert listed("loop.png") == ["loop.png:dangling_link"]


@pytest.mark.parametrize("follow", [False, True])
def test_a_dangling_link_is_a_record(follow: bool) -> None:
    put("d/b.png")
    Path("d/a.png").symlink_to("nowhere")
    assert listed("d", follow_links=follow) == ["d/a.png:dangling_link", "d/b.png"]
    assert listed("d/a.png") == ["d/a.png:dangling_link"]


def test_what_is_missing_is_a_record_and_the_rest_is_listed() -> None:
    put("a.png")
    assert listed("no.png", "a.png", "no*.png", "", "a.png/b", "nul\0.png") == [
        "no.png:not_found",
        "a.png",
        "no*.png:not_found",
        ":not_found",
        "a.png/b:not_found",
        "nul\0.png:not_found",
    ]
    assert listed("x" * 5000) == ["x" * 5000 + ":not_found"]


@pytest.fixture
def plain_user() -> Iterator[None]:
    """Permissions mean nothing to root: act as another user for one test."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    yield
    os.seteuid(0)


def test_what_may_not_be_read_is_a_record(folder: Path, request: pytest.FixtureRequest) -> None:
    put("d/a.png", "d/closed/b.png", "d/odd", "d/z.png")
    for path in (folder.parent, folder, folder.parent.parent):
        path.chmod(0o755)
    for name in ("d/a.png", "d/closed", "d/odd"):
        Path(name).chmod(0)
    request.getfixturevalue("plain_user")
    assert listed("d") == ["d/a.png", "d/closed:unreadable_folder", "d/odd", "d/z.png"]
    assert refusal("d/a.png") == refusal("d/odd") == "permission"
    assert read_input(Input("d/z.png"), 10**6) == PNG  # another's file: O_NOATIME is refused, reading is not


def test_pipes_and_sockets_are_not_inputs_and_never_block() -> None:
    put("d/b.png")
    os.mkfifo("d/a.png")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("d/c.png")
        assert listed("d") == ["d/b.png"]
    assert listed("d/a.png") == ["d/a.png"]
    assert refusal("d/a.png") == refusal("d") == refusal("/dev/zero") == "not_a_file"


def test_a_path_met_twice_is_listed_once(folder: Path) -> None:
    put("d/a.png", "d/e/b.png")
    assert listed("d/e/b.png", "d", "./d", f"{folder}/d/a.png", "d/*") == ["d/e/b.png", "d/a.png"]
    assert listed("no", "no") == ["no:not_found"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("d/*.png", ["d/a.png"]),
        ("d/*", ["d/a.png", "d/e/b.png", "d/e/f/c.png"]),
        ("d/**", ["d/a.png", "d/e/b.png", "d/e/f/c.png"]),
        ("**/*.png", ["d/a.png", "d/e/b.png", "d/e/f/c.png"]),
        ("**/f/*.png", ["d/e/f/c.png"]),
        ("./d/?/[bx].png", ["./d/e/b.png"]),
        ("d/.*", ["d/.hidden.png"]),
        ("d/*/f", ["d/e/f/c.png"]),
    ],
)
def test_a_glob_lists_the_images_that_fit(folder: Path, pattern: str, expected: list[str]) -> None:
    put("d/a.png", "d/e/b.png", "d/e/f/c.png", "d/.hidden.png")
    put("d/notes.txt", content=b"text")
    assert listed(pattern) == expected
    assert listed(f"{folder}/{pattern}") == [os.path.join(folder, path) for path in expected] or "./" in pattern  # noqa: PTH118  the path as reported


def test_a_file_with_glob_characters_is_itself() -> None:
    put("a[1].png", "a1.png")
    assert listed("a[1].png") == ["a[1].png"]


def test_a_glob_does_not_run_in_circles() -> None:
    put("d/a.png")
    for name in ("x", "y", "z"):
        Path("d", name).symlink_to(".")
    assert listed("**/*.png") == ["d/a.png"]


def test_deep_folders_are_walked(folder: Path) -> None:
    deep = folder
    for _ in range(600):
        deep /= "d"
    deep.mkdir(parents=True)
    (deep / "a.png").write_bytes(PNG)
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(300)
    try:
        paths = listed(str(folder))
    finally:
        sys.setrecursionlimit(limit)
    assert paths == [str(deep / "a.png")]


def test_globs_reach_deep_folders_and_list_each_path_once_in_linear_time(monkeypatch: pytest.MonkeyPatch) -> None:
    levels = ["/".join("d" * depth) for depth in range(1, 1001)]
    for level in levels:
        Path(level).mkdir()
    put("b.png", f"{levels[-1]}/a.png")
    looked: list[str] = []
    monkeypatch.setattr(globs, "entries", lambda path: looked.append(path) or inputs.entries(path))
    found = {}
    for pattern in ("**/*.png", "**/**/**/**/**/**/*.png", "**/**/**/d/**/*.png"):
        looked.clear()
        found[pattern] = listed(pattern)
        assert len(looked) == len(set(looked)) <= 1002
    Path(f"{levels[-1]}/a.png").unlink()
    for level in reversed(levels):  # pytest's own clean-up is recursive
        Path(level).rmdir()
    deep = f"{levels[-1]}/a.png"
    assert list(found.values()) == [["b.png", deep], ["b.png", deep], [deep]]


@pytest.fixture
def closed(folder: Path, request: pytest.FixtureRequest) -> None:
    """A folder d of one image, and of links into a folder that may not be entered."""
    put("shut/a.png", "shut/sub/b.png", "d/z.png")
    Path("d/file.png").symlink_to(folder / "shut" / "a.png")
    Path("d/sub").symlink_to(folder / "shut" / "sub")
    for path in (folder.parent, folder, folder.parent.parent):
        path.chmod(0o755)
    Path("shut").chmod(0)
    request.getfixturevalue("plain_user")


@pytest.mark.usefixtures("closed")
def test_links_into_a_folder_that_may_not_be_entered_are_records_and_the_rest_is_listed() -> None:
    expected = ["d/file.png:permission", "d/sub:permission", "d/z.png"]
    assert listed("d", follow_links=True) == listed("d") == expected
    assert listed("**/*.png") == ["d/file.png:permission", "d/z.png", "shut:unreadable_folder"]
    assert listed("d/*/*.png") == ["d/file.png:permission", "d/sub:permission"]


@pytest.mark.usefixtures("closed")
def test_what_lies_in_a_closed_folder_is_not_reported_as_missing() -> None:
    assert listed("shut/a.png", "shut/none.png") == ["shut/a.png:permission", "shut/none.png:permission"]


def test_names_that_are_not_utf8_survive() -> None:
    Path(os.fsdecode(b"d\xff")).mkdir()
    Path(os.fsdecode(b"d\xff/\xfe\n<b>.png")).write_bytes(PNG)
    (item,) = find([os.fsdecode(b"d\xff")], InputSpec())
    assert os.fsencode(item.path) == b"d\xff/\xfe\n<b>.png"
    assert isinstance(item, Input)
    assert read_input(item, 10**6) == PNG


def test_find_is_lazy() -> None:
    put("a.png")

    def arguments() -> Iterator[str]:
        yield "a.png"
        raise AssertionError("read too far")

    assert next(find(arguments(), InputSpec())).path == "a.png"


def test_reading_stops_at_max_bytes_and_leaves_the_file_alone() -> None:
    put("a.png", content=bytes(1000))
    os.utime("a.png", (1, 1))
    assert read_input(Input("a.png"), 1000) == bytes(1000)
    assert refusal("a.png", 999) == "too_large"
    status = Path("a.png").stat()
    assert (status.st_atime, status.st_mtime) == (1, 1)


def test_a_file_that_vanished_is_a_record() -> None:
    assert refusal("gone.png") == "not_found"


def test_a_file_whose_length_is_not_announced_is_read_whole() -> None:
    assert read_input(Input("/proc/self/status"), 10**6).endswith(b"\n")
    assert refusal("/proc/self/status", 10) == "too_large"


@given(st.lists(st.binary(min_size=1).filter(lambda b: not set(b) & {0, 10, 13})), st.booleans(), st.booleans())
def test_a_list_gives_back_its_paths(names: list[bytes], null: bool, crlf: bool) -> None:
    end = b"\0" if null else b"\r\n" if crlf else b"\n"
    for tail in (end, b""):
        stream = io.BytesIO(end.join(names) + tail)
        assert [os.fsencode(name) for name in read_list(stream, null)] == names


def test_a_null_list_keeps_line_ends_in_names_and_blank_lines_are_no_names() -> None:
    assert list(read_list(io.BytesIO(b"a\nb\r\0\0c"), null=True)) == ["a\nb\r", "c"]
    assert list(read_list(io.BytesIO(b"a\n\r\n\nb"), null=False)) == ["a", "b"]


@pytest.mark.parametrize(
    ("mark", "encoding"),
    [(b"", "utf-8"), (b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be")],
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\0"])
def test_a_list_is_read_in_the_encoding_that_its_mark_names(mark: bytes, encoding: str, end: str) -> None:
    names = ["x.jpg", "é ä.png", "\U0001f600/Ċ.jpg", "last"]
    data = mark + end.join(names).encode(encoding)
    assert list(read_list(Trickle(data), null=end == "\0")) == names


class Trickle(io.BytesIO):
    """Gives few bytes at a time, as a pipe may."""

    def read(self, size: int | None = -1) -> bytes:
        return super().read(min(size or 1, 3))


@pytest.mark.parametrize(
    ("content", "null"), [(b"a", False), (b"\0", False), (b"\0", True), (b"a", True), (b"\n", False)]
)
def test_an_endless_file_is_no_list(content: bytes, null: bool) -> None:
    class Endless(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return content * (size or 0)

    with pytest.raises(BadList, match="the list holds"):
        list(read_list(Endless(), null))


def test_a_list_of_lines_holds_no_nul() -> None:
    with pytest.raises(BadList, match="NUL"):
        list(read_list(io.BytesIO(b"a.png\0b.png\0"), null=False))


def test_a_name_in_a_list_is_never_a_pattern() -> None:
    put("x1.png", "a[1].png", "d!/b.zip")
    names = list(read_list(io.BytesIO(b"x[1].png\na[1].png\n*.png\n"), null=False))
    assert listed(*names) == ["x[1].png:not_found", "a[1].png", "*.png:not_found"]
    assert listed("x[1].png") == ["x1.png"]


def test_a_long_list_is_read_in_pieces() -> None:
    names = [f"{number:07}" for number in range(50_000)]
    assert list(read_list(io.BytesIO("\n".join(names).encode()), null=False)) == names


@pytest.fixture
def server(folder: Path) -> Iterable[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_an_http_address_is_read_within_limits(server: str) -> None:
    pytest.importorskip("aiohttp", reason="needs the extra remote")
    put("a.png")
    put("big", content=bytes(3 * 2**20))
    small, big, missing = find([f"{server}/{name}" for name in ("a.png", "big", "no.png")], InputSpec())
    assert [item.path for item in (small, big, missing)] == [f"{server}/{name}" for name in ("a.png", "big", "no.png")]
    assert read_input(small, 10**6) == PNG
    assert read_input(big, 3 * 2**20) == bytes(3 * 2**20)
    for item, code in ((big, "too_large"), (missing, "not_found")):
        with pytest.raises(ImageError) as caught:
            read_input(item, 2 * 2**20)
        assert caught.value.code == code


def test_a_server_that_is_not_there_is_a_record() -> None:
    pytest.importorskip("aiohttp", reason="needs the extra remote")
    (item,) = find(["http://127.0.0.1:1/a.png"], InputSpec())
    assert isinstance(item, Input)
    with pytest.raises(ImageError) as caught:
        read_input(item, 10**6)
    assert caught.value.code == "remote_error"


def test_an_object_store_is_listed_like_a_folder() -> None:
    fsspec = pytest.importorskip("fsspec", reason="needs the extra remote")
    store = fsspec.filesystem("memory")
    for name in ("b.png", "a/c.jpg", "a/.h.png", "notes.txt", "skip/d.png"):
        store.pipe(f"/bucket/{name}", PNG)
    first, second = remote.listed(store, "/bucket", "s3://bucket", InputSpec(exclude=("skip",)))
    assert [first.path, second.path] == ["s3://bucket/a/c.jpg", "s3://bucket/b.png"]
    assert read_input(first, 10**6) == PNG
    (missing,) = remote.listed(store, "/bucket/none", "s3://bucket/none", InputSpec())
    assert isinstance(missing, Unreadable)
    assert missing.code == "not_found"


def test_the_name_of_an_object_never_opens_another_file_system(folder: Path) -> None:
    fsspec = pytest.importorskip("fsspec", reason="needs the extra remote")
    put("secret.png")
    store = fsspec.filesystem("memory")
    store.pipe(f"/chain/x::file:/{folder}/secret.png", b"its own bytes")
    (item,) = remote.listed(store, "/chain", "s3://chain", InputSpec())
    assert isinstance(item, Input)
    assert read_input(item, 10**6) == b"its own bytes"


READ_PICKLED = """
import pickle, sys
from muflow_cli.images.read import read_input
pickle.dump([read_input(item, 10**6) for item in pickle.load(sys.stdin.buffer)], sys.stdout.buffer)
"""


def test_every_kind_of_input_can_be_pickled_and_read_in_another_process(server: str) -> None:
    pytest.importorskip("aiohttp", reason="needs the extra remote")
    put("a.png", os.fsdecode(b"\xff.png"))
    with zipfile.ZipFile("a.zip", "w") as archive:
        archive.write("a.png", "in/a.png")
    for suffix in ("tar", "tar.gz"):
        with tarfile.open(f"a.{suffix}", f"w:{suffix[4:]}") as archive:
            archive.add("a.png", "in/a.png")
    names = ("a.png", os.fsdecode(b"\xff.png"), "a.zip", "a.tar", "a.tar.gz", f"{server}/a.png")
    items = list(find(names, InputSpec()))
    assert {item.kind for item in items if isinstance(item, Input)} == set(InputKind) - {InputKind.STDIN}
    assert pickle.loads(pickle.dumps(items)) == items  # noqa: S301  made two words before
    command = [sys.executable, "-c", READ_PICKLED]
    done = subprocess.run(command, input=pickle.dumps(items), capture_output=True, check=True)
    assert pickle.loads(done.stdout) == [PNG] * len(items)  # noqa: S301  our own process


def test_a_process_that_is_forked_reads_the_same_zip() -> None:
    with zipfile.ZipFile("a.zip", "w") as archive:
        for number in range(50):
            archive.writestr(f"{number}.png", bytes([number]) * 5000)
    items = list(find(["a.zip"], InputSpec()))
    expected = [read_input(item, 10**6) for item in items]
    with multiprocessing.get_context("fork").Pool(3) as pool:
        assert pool.map(partial(read_input, max_bytes=10**6), items * 4) == expected * 4


def test_a_folder_that_may_be_listed_but_not_entered_ends_no_run(folder: Path, request: pytest.FixtureRequest) -> None:
    put("d/closed/e/a.png", "d/z.png")
    for path in (folder.parent, folder, folder.parent.parent):
        path.chmod(0o755)
    Path("d/closed").chmod(0o444)
    request.getfixturevalue("plain_user")
    assert listed("d", follow_links=True)[-1] == "d/z.png"


@pytest.mark.parametrize("module", ["fsspec", "aiohttp", "s3fs"])
def test_without_the_extra_an_address_says_what_to_install(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    if module == "aiohttp":
        pytest.importorskip("fsspec", reason="needs the extra remote")
        monkeypatch.delitem(sys.modules, "fsspec.implementations.http", raising=False)
        monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "http", raising=False)
    (record,) = find(["s3://bucket/a.png" if module == "s3fs" else "http://127.0.0.1:1/a.png"], InputSpec())
    assert isinstance(record, Unreadable)
    assert record.code == "needs_remote"
    assert "pip install 'muflow-cli[remote]'" in record.message
