"""XMP packet -> its properties, by name; a document type or an entity ends the reading, so nothing is expanded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from xml.parsers import expat

_MAX_BYTES: Final = 4 * 2**20
_MAX_ELEMENTS: Final = 50_000
_MAX_TEXT: Final = 100_000
_MAX_VALUES: Final = 100
_CONTAINER: Final = "http://ns.google.com/photos/1.0/container/"
_ITEM: Final = f"{_CONTAINER}item/|"
_OFFSET: Final = "http://ns.google.com/photos/1.0/camera/|MicroVideoOffset"

# Elements of RDF that only hold others: their text belongs to the property around them.
_HOLDERS: Final = frozenset(("li", "Alt", "Bag", "Seq", "value"))

# Names in lower case, without their namespaces: files use several for one meaning.
WANTED: Final = frozenset(
    (
        *("digitalsourcetype", "digitalsourcefiletype", "credit", "creatortool", "softwareagent", "action"),
        *("make", "model", "software", "description", "usercomment", "provenance"),
        *("aisystemused", "aisystemversionused", "aipromptinformation", "aipromptwritername"),
    )
)


@dataclass(frozen=True, slots=True)
class Appended:
    """What XMP says of files that follow the image (Google's Motion Photo format 1.0, and its forerunner).

    Attributes:
        items: of the container's directory, in the order of the file: length in bytes and meaning of each, the image
            itself first; 0 where no length is given.
        video_offset: where the video of a "micro video" begins, bytes before the end of the file; 0 without one.
    """

    items: tuple[tuple[int, str], ...]
    video_offset: int


class _Stop(Exception):
    """The bounds are reached, or the packet declares a document type."""


def read_xmp(packet: bytes) -> tuple[Mapping[str, list[str]], bool]:
    """Values of the properties in WANTED, and whether the packet could be read to its end."""
    reader = _Reader()
    whole = _parse(packet, reader)
    return reader.values, whole


def read_appended(packet: bytes) -> Appended:
    """What the packet of a motion photo says of what lies behind the image."""
    reader = _Items()
    _parse(packet, reader)
    return Appended(tuple((_number(item["Length"]), item["Semantic"]) for item in reader.items), _number(reader.offset))


def _number(text: str) -> int:
    """A number of bytes; 0 for anything else."""
    return int(text) if len(text) < 19 and text.isascii() and text.isdigit() else 0


def _parse(packet: bytes, reader: _Reader | _Items) -> bool:
    """Whether the packet could be read to its end."""
    start = packet.find(b"<x:xmpmeta", 0, 4096)
    end = packet.rfind(b"</x:xmpmeta>")
    if 0 <= start < end:  # packets are padded, and some writers leave a byte order mark or NUL behind
        packet = packet[start : end + 12]
    parser = expat.ParserCreate(namespace_separator="|")
    parser.buffer_text = True
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    parser.StartDoctypeDeclHandler = reader.stop
    parser.EntityDeclHandler = reader.stop
    try:
        parser.Parse(packet[:_MAX_BYTES].strip(b"\0 \n\r\t"), True)
    except (expat.ExpatError, _Stop, ValueError):
        return False
    return len(packet) <= _MAX_BYTES


class _Bounded:
    """Follows which elements are open, as far as the bounds."""

    def __init__(self) -> None:
        self._open: list[str] = []
        self._elements = 0

    def _within_bounds(self) -> None:
        """Count an element; _Stop where there are too many, or too many in each other."""
        self._elements += 1
        if self._elements > _MAX_ELEMENTS or len(self._open) > 64:
            raise _Stop

    def end(self, _: str) -> None:
        self._open.pop()

    def stop(self, *_: object) -> None:
        raise _Stop


class _Reader(_Bounded):
    """Collects attributes and the text of elements."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, list[str]] = defaultdict(list)

    def start(self, name: str, attributes: Mapping[str, str]) -> None:
        self._within_bounds()
        local = name.rpartition("|")[2]
        self._open.append(self._open[-1] if local in _HOLDERS and self._open else local.lower())
        for key, value in attributes.items():
            own = key.rpartition("|")[2].lower()
            self._add(self._open[-1] if own == "resource" else own, value)

    def text(self, text: str) -> None:
        if self._open and text.strip():
            self._add(self._open[-1], text)

    def _add(self, name: str, value: str) -> None:
        if name in WANTED and len(self.values[name]) < _MAX_VALUES:
            self.values[name].append(value[:_MAX_TEXT])


class _Items(_Bounded):
    """Collects the items of a container's directory, whose properties are attributes or elements."""

    def __init__(self) -> None:
        super().__init__()
        self.items: list[dict[str, str]] = []
        self.offset = ""

    def start(self, name: str, attributes: Mapping[str, str]) -> None:
        self._within_bounds()
        if name == f"{_CONTAINER}|Item" and len(self.items) < _MAX_VALUES:
            self.items.append({"Length": "", "Semantic": ""})
        self._open.append(name)
        for key, value in attributes.items():
            self._add(key, value)

    def text(self, text: str) -> None:
        if self._open:
            self._add(self._open[-1], text.strip())

    def _add(self, name: str, value: str) -> None:
        if name == _OFFSET:
            self.offset = self.offset or value[:_MAX_VALUES]
        elif name.startswith(_ITEM) and self.items:
            own = name.removeprefix(_ITEM)
            self.items[-1][own] = self.items[-1].get(own) or value[:_MAX_VALUES]
