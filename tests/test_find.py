"""Promises of pictures/find.py: every input is listed once, in a stable order, or becomes one record."""

from __future__ import annotations

import io
import os
import socket
import sys
import threading
from collections.abc import Iterable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from muflow_cli.pictures import remote
from muflow_cli.pictures.decode import PictureError
from muflow_cli.pictures.find import Source, find, read_list
from muflow_cli.records import Unreadable
from muflow_cli.specs import InputSpec


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
        found.path if isinstance(found, Source) else f"{found.path}:{found.code}"
        for found in find(arguments, InputSpec(**settings))
    ]


def refusal(path: str, max_bytes: int = 2**20) -> str:
    with pytest.raises(PictureError) as caught:
        Source(path).read(max_bytes)
    return caught.value.code


def test_a_folder_is_walked_in_the_order_of_name_bytes() -> None:
    put("d/b.png", "d/a/z.jpg", "d/a/B.jpg", "d/a.png", "d/é.png", "d/Z.png", "d/c/d/e/f.webp")
    assert listed("d") == ["d/Z.png", "d/a/B.jpg", "d/a/z.jpg", "d/a.png", "d/b.png", "d/c/d/e/f.webp", "d/é.png"]


def test_arguments_keep_their_order_and_spelling(folder: Path) -> None:
    put("a.png", "b.png", "d/c.png")
    assert listed("b.png", f"{folder}/a.png", "./d/") == ["b.png", f"{folder}/a.png", "./d/c.png"]


def test_in_a_folder_pictures_are_known_by_name_or_by_content() -> None:
    put("d/picture", "d/picture.dat", "d/no extension.")
    put("d/text.jpg", "d/TEXT.HEIC", "d/notes.txt", "d/faces.zip", "d/script.eps", content=b"text")
    put("d/empty.jpg", "d/empty", content=b"")
    assert listed("d") == ["d/TEXT.HEIC", "d/empty.jpg", "d/no extension.", "d/picture", "d/picture.dat", "d/text.jpg"]


def test_a_file_that_is_named_is_an_input_whatever_it_is() -> None:
    put("notes.txt", ".hidden.txt", "thumb.txt", content=b"text")
    assert listed("notes.txt", ".hidden.txt", "thumb.txt", exclude=("thumb*",)) == [
        "notes.txt",
        ".hidden.txt",
        "thumb.txt",
    ]


def test_a_folder_named_like_a_picture_is_a_folder() -> None:
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
    assert Source("d/z.png").read(10**6) == PNG  # another's file: O_NOATIME is refused, reading is not


def test_pipes_and_sockets_are_no_inputs_and_never_block() -> None:
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
def test_a_glob_lists_the_pictures_that_fit(folder: Path, pattern: str, expected: list[str]) -> None:
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
        found = listed(str(folder))
    finally:
        sys.setrecursionlimit(limit)
    assert found == [str(deep / "a.png")]


def test_names_that_are_not_utf8_survive() -> None:
    Path(os.fsdecode(b"d\xff")).mkdir()
    Path(os.fsdecode(b"d\xff/\xfe\n<b>.png")).write_bytes(PNG)
    (found,) = find([os.fsdecode(b"d\xff")], InputSpec())
    assert os.fsencode(found.path) == b"d\xff/\xfe\n<b>.png"
    assert isinstance(found, Source)
    assert found.read(10**6) == PNG


def test_find_is_lazy() -> None:
    put("a.png")

    def arguments() -> Iterator[str]:
        yield "a.png"
        raise AssertionError("read too far")

    assert next(find(arguments(), InputSpec())).path == "a.png"


def test_reading_stops_at_max_bytes_and_leaves_the_file_alone() -> None:
    put("a.png", content=bytes(1000))
    os.utime("a.png", (1, 1))
    assert Source("a.png").read(1000) == bytes(1000)
    assert refusal("a.png", 999) == "too_large"
    found = Path("a.png").stat()
    assert (found.st_atime, found.st_mtime) == (1, 1)


def test_a_file_that_vanished_is_a_record() -> None:
    assert refusal("gone.png") == "not_found"


def test_a_file_whose_length_is_not_announced_is_read_whole() -> None:
    assert Source("/proc/self/status").read(10**6).endswith(b"\n")
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
    found = list(find([f"{server}/{name}" for name in ("a.png", "big", "no.png")], InputSpec()))
    assert [source.path for source in found] == [f"{server}/a.png", f"{server}/big", f"{server}/no.png"]
    assert found[0].read(10**6) == PNG
    assert found[1].read(3 * 2**20) == bytes(3 * 2**20)
    for source, code in ((found[1], "too_large"), (found[2], "not_found")):
        with pytest.raises(PictureError) as caught:
            source.read(2 * 2**20)
        assert caught.value.code == code


def test_a_server_that_is_not_there_is_a_record() -> None:
    pytest.importorskip("aiohttp", reason="needs the extra remote")
    (found,) = find(["http://127.0.0.1:1/a.png"], InputSpec())
    assert isinstance(found, Source)
    with pytest.raises(PictureError) as caught:
        found.read(10**6)
    assert caught.value.code == "remote_error"


def test_an_object_store_is_listed_like_a_folder() -> None:
    fsspec = pytest.importorskip("fsspec", reason="needs the extra remote")
    store = fsspec.filesystem("memory")
    for name in ("b.png", "a/c.jpg", "a/.h.png", "notes.txt", "skip/d.png"):
        store.pipe(f"/bucket/{name}", PNG)
    found = list(remote.listed(store, "/bucket", "s3://bucket", InputSpec(exclude=("skip",))))
    assert [source.path for source in found] == ["s3://bucket/a/c.jpg", "s3://bucket/b.png"]
    assert found[0].read(10**6) == PNG
    (missing,) = remote.listed(store, "/bucket/none", "s3://bucket/none", InputSpec())
    assert isinstance(missing, Unreadable)
    assert missing.code == "not_found"


@pytest.mark.parametrize("module", ["fsspec", "aiohttp", "s3fs"])
def test_without_the_extra_an_address_says_what_to_install(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    if module == "aiohttp":
        pytest.importorskip("fsspec", reason="needs the extra remote")
        monkeypatch.delitem(sys.modules, "fsspec.implementations.http", raising=False)
        monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "http", raising=False)
    (found,) = find(["s3://bucket/a.png" if module == "s3fs" else "http://127.0.0.1:1/a.png"], InputSpec())
    assert isinstance(found, Unreadable)
    assert found.code == "needs_remote"
    assert "pip install 'muflow-cli[remote]'" in found.message
