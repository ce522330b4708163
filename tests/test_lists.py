"""Lists with columns: every path and group that CSV can carry comes back; what is no such list is one sentence."""

from __future__ import annotations

import codecs
import csv
import io
import os

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from muflow_cli.errors import BadList
from muflow_cli.images.lists import read_grouped_list

# A path is any bytes without NUL; a group is what a CSV writer gets as text.
PATHS = st.one_of(st.binary(min_size=1).map(os.fsdecode), st.text(min_size=1)).filter(
    lambda path: "\0" not in path and os.fsdecode(os.fsencode(path)) == path
)
GROUPS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1)


def table(*rows: tuple[str, ...], end: str) -> bytes:
    """Rows as CSV in UTF-8, with the bytes of names that are not."""
    text = io.StringIO()
    # All quoted, since Python before 3.13 forgets the quotes around a lone carriage return.
    csv.writer(text, lineterminator=end, quoting=csv.QUOTE_ALL).writerows(rows)
    return text.getvalue().encode("utf-8", "surrogateescape")


def read(data: bytes, column: str = "account") -> list[tuple[str, str]]:
    return [(str(path), path.group) for path in read_grouped_list(io.BytesIO(data), column)]


@st.composite
def encodable(draw: st.DrawFn) -> list[tuple[str, str]]:
    paths = draw(st.lists(PATHS.filter(is_utf8_or_bytes), max_size=6, unique=True))
    return [(path, draw(GROUPS)) for path in paths]


def is_utf8_or_bytes(path: str) -> bool:
    try:
        path.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # a lone surrogate that stands for no byte
        return False
    return True


@given(rows=encodable(), end=st.sampled_from(["\n", "\r\n"]), mark=st.sampled_from([b"", codecs.BOM_UTF8]))
@example(rows=[(os.fsdecode(b"\xe9,\"'\n.jpg"), 'two\r\nlines, "quoted"')], end="\r\n", mark=codecs.BOM_UTF8)
def test_every_path_and_group_comes_back(rows: list[tuple[str, str]], end: str, mark: bytes) -> None:
    data = mark + table(("path", "account"), *rows, end=end)
    assert read(data) == rows


@given(rows=encodable().filter(lambda rows: all(is_text(path) for path, _ in rows)))
def test_a_list_in_utf_16_reads_alike(rows: list[tuple[str, str]]) -> None:
    text = table(("path", "account"), *rows, end="\r\n").decode()
    assert read(codecs.BOM_UTF16_LE + text.encode("utf-16-le")) == rows
    assert read(codecs.BOM_UTF16_BE + text.encode("utf-16-be")) == rows


def is_text(path: str) -> bool:
    return not any(0xD800 <= ord(character) <= 0xDFFF for character in path)


def test_other_columns_and_their_order_do_not_matter() -> None:
    data = b"when,account,path,size\n1,ann,a.jpg,9\n2,bob,b.jpg,9\n"
    assert read(data) == [("a.jpg", "ann"), ("b.jpg", "bob")]
    assert read(data, "size") == [("a.jpg", "9"), ("b.jpg", "9")]


def test_rows_without_a_path_are_left_out() -> None:
    assert read(b"path,account\n,ann\n\n,\nb.jpg,bob\n") == [("b.jpg", "bob")]


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "the first line of the list names no column path and no column account"),
        (b"path,user\na.jpg,ann\n", "the first line of the list names no column account"),
        (b"file,account\na.jpg,ann\n", "the first line of the list names no column path"),
        (b"a.jpg\nb.jpg\n", "the first line of the list names no column path and no column account"),
        (b"path,account\na.jpg,ann\nb.jpg,\n", "the list names no account for 'b.jpg'"),
        (b"path,account\na.jpg\n", "the list names no account for 'a.jpg'"),
        (b"path,account\na.jpg,Smith, Ann\n", "line 2 of the list has more cells than the first line"),
        (b"path,account,account\na.jpg,ann,bob\n", "the first line of the list names a column twice"),
        (b"path,account\na.jpg,ann\na.jpg,ann\na.jpg,bob\n", "the list names 'a.jpg' in two groups"),
        (b'path,account\n"a.jpg"x,ann\n', "line 2 of the list is not CSV (',' expected after '\"')"),
        (b'path,account\n"a.jpg,ann\n', "line 2 of the list is not CSV (unexpected end of data)"),
        (b"path,account\n" + b"x" * 70_000 + b",ann\n", "the list holds a name of more than 65536 bytes"),
        (b"path,account\na\0.jpg,ann\n", "the list holds a NUL byte, which no name contains"),
    ],
    ids=["empty", "no group column", "no path column", "no header", "no group", "short row", "long row", "twice",
         "two groups", "quote", "open quote", "long name", "NUL"],
)  # fmt: skip  # a table
def test_what_is_no_such_list_is_refused_in_one_sentence(data: bytes, sentence: str) -> None:
    with pytest.raises(BadList) as refused:
        read(data)
    assert refused.value.problem == sentence
    assert "\n" not in str(refused.value)
