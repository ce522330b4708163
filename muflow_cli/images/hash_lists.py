"""Lists of hashes of files that need no look (`--known`): text lists, hashdeep output, and NSRL RDSv3 in SQLite."""

from __future__ import annotations

import codecs
import csv
import hashlib
import re
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from muflow_cli.errors import BadList
from muflow_cli.files import open_regular

# Name of a kind of hash -> bytes in it; they tell the kinds apart.
KINDS: Final[Mapping[str, int]] = {"md5": 16, "sha1": 20, "sha256": 32}

_SQLITE: Final = b"SQLite format 3\0"
_HASHDEEP: Final = "%%%% "
# A hash alone, or as md5sum, sha1sum and sha256sum write it; a backslash says that the name after it is escaped.
_LINE: Final = re.compile(r"\\?([0-9a-fA-F]{32}|[0-9a-fA-F]{40}|[0-9a-fA-F]{64})(?:[ \t].*)?")
# As BSD's tools and `--tag` write it.
_TAGGED: Final = re.compile(r"\\?(?:MD5|SHA1|SHA256) \(.*\) = ([0-9a-fA-F]{32}|[0-9a-fA-F]{40}|[0-9a-fA-F]{64})")
_REMEDY: Final = "give one MD5, SHA-1 or SHA-256 per line in hexadecimal, hashdeep output or an NSRL RDSv3 database"


class HashLists:
    """Hashes of known files.

    Args:
        paths: of the lists.

    Attributes:
        paths: as given.
        digest: SHA-256 over the contents of the lists, in order, hexadecimal.

    Raises:
        BadList: for a file that is none, naming the line.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)
        self._hashes: dict[str, set[bytes]] = {}
        self._databases = []
        whole = hashlib.sha256()
        for path in paths:
            try:
                with open_regular(path) as file:
                    is_database = file.read(len(_SQLITE)) == _SQLITE
                    file.seek(0)
                    whole.update(hashlib.file_digest(file, "sha256").digest())
            except OSError as error:
                raise BadList(f"cannot read the list {path} ({error.strerror})", "check --known") from None
            if is_database:
                self._databases.append(_Database(path))
            else:
                for value in _hashes(path):
                    self._hashes.setdefault(_KIND_OF[len(value)], set()).add(value)
        self.digest = whole.hexdigest()

    def __contains__(self, data: bytes) -> bool:
        """Whether the hash of a file with these bytes is on a list; safe to ask from several threads."""
        return self.has({kind: hashlib.new(kind, data, usedforsecurity=False).digest() for kind in self.kinds})

    @property
    def kinds(self) -> set[str]:
        """The kinds of hashes that are on the lists."""
        return {*self._hashes, *(kind for database in self._databases for kind in database.kinds)}

    def has(self, digests: Mapping[str, bytes]) -> bool:
        """Whether one of these hashes of a file is on a list; they are of all `kinds`."""
        return any(digests[kind] in listed for kind, listed in self._hashes.items()) or any(
            database.has(digests) for database in self._databases
        )


_KIND_OF: Final = {length: kind for kind, length in KINDS.items()}


class _Database:
    """An NSRL database, opened read-only; nothing beside it is created."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            # As immutable, it gets no journal and no lock, even on a medium that cannot be written.
            uri = f"{path.resolve().as_uri()}?mode=ro&immutable=1"
            self._connection = sqlite3.connect(uri, uri=True, check_same_thread=False)
            self._table, columns = self._found()
        except sqlite3.Error as error:
            raise self._damaged(error) from None
        if not columns:
            raise BadList(f"{path} has no table FILE or METADATA with hashes", _REMEDY)
        # One is enough; that of the longest hash is the key of NSRL's table.
        self.kinds = columns[-1:]
        self._lock = threading.Lock()

    def _found(self) -> tuple[str, list[str]]:
        """The table with hashes, and the kinds that it has."""
        for table in ("FILE", "METADATA"):
            # A view could compute for ever.
            real = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND upper(name) = ?"
            if self._connection.execute(real, (table,)).fetchone() is None:
                continue
            names = {str(row[1]).lower() for row in self._connection.execute(f"PRAGMA table_info({table})")}
            kinds = [kind for kind in KINDS if kind in names]
            if kinds:
                return table, kinds
        return "", []

    def has(self, digests: Mapping[str, bytes]) -> bool:
        """Whether a row has this hash; NSRL writes capitals, other tools small letters."""
        (kind,) = self.kinds
        text = digests[kind].hex()
        query = f"SELECT 1 FROM {self._table} WHERE {kind} IN (?, ?) LIMIT 1"  # noqa: S608 - both are names of ours
        try:
            with self._lock:
                return self._connection.execute(query, (text.upper(), text)).fetchone() is not None
        except sqlite3.Error as error:
            raise self._damaged(error) from None

    def _damaged(self, error: sqlite3.Error) -> BadList:
        return BadList(f"{self._path} is a damaged SQLite database ({error})", _REMEDY)


def _hashes(path: Path) -> Iterator[bytes]:
    """The hashes of a text list."""
    with path.open("rb") as file:
        start = file.read(2)
    encoding = "utf-16" if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
    columns: list[str] = []
    with path.open(encoding=encoding, errors="replace", newline="\n") as text:
        for number, raw in enumerate(text, start=1):
            line = raw.strip()
            if line.startswith(_HASHDEEP):
                columns = line.removeprefix(_HASHDEEP).lower().replace("-", "").split(",")
            elif line and not line.startswith("#"):
                yield _of_hashdeep(line, columns, path, number) if "size" in columns else _of_line(line, path, number)


def _of_line(line: str, path: Path, number: int) -> bytes:
    match = _LINE.fullmatch(line) or _TAGGED.fullmatch(line)
    if match is None:
        raise BadList(f"line {number} of {path} holds no hash", _REMEDY)
    return bytes.fromhex(match.group(1))


def _of_hashdeep(line: str, columns: Sequence[str], path: Path, number: int) -> bytes:
    """The longest hash of a row of hashdeep."""
    try:
        row = next(csv.reader([line], quoting=csv.QUOTE_NONE))
        kinds = [kind for kind in KINDS if kind in columns[: len(row)]]
        value = bytes.fromhex(row[columns.index(kinds[-1])])
    except (IndexError, ValueError, csv.Error):
        value = b""
    if len(value) not in _KIND_OF:
        raise BadList(f"line {number} of {path} holds no hash", _REMEDY)
    return value
