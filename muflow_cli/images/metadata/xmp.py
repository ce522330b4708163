"""XMP packet -> its properties, by name; a document type or an entity ends the reading, so nothing is expanded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Final
from xml.parsers import expat

_MAX_BYTES: Final = 4 * 2**20
_MAX_ELEMENTS: Final = 50_000
_MAX_TEXT: Final = 100_000
_MAX_VALUES: Final = 100

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


class _Stop(Exception):
    """The bounds are reached, or the packet declares a document type."""


def read_xmp(packet: bytes) -> tuple[Mapping[str, list[str]], bool]:
    """Values of the properties in WANTED, and whether the packet could be read to its end."""
    reader = _Reader()
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
        return reader.values, False
    return reader.values, len(packet) <= _MAX_BYTES


class _Reader:
    """Collects attributes and the text of elements."""

    def __init__(self) -> None:
        self.values: dict[str, list[str]] = defaultdict(list)
        self._open: list[str] = []
        self._elements = 0

    def start(self, name: str, attributes: Mapping[str, str]) -> None:
        self._elements += 1
        if self._elements > _MAX_ELEMENTS or len(self._open) > 64:
            raise _Stop
        local = name.rpartition("|")[2]
        self._open.append(self._open[-1] if local in _HOLDERS and self._open else local.lower())
        for key, value in attributes.items():
            own = key.rpartition("|")[2].lower()
            self._add(self._open[-1] if own == "resource" else own, value)

    def text(self, text: str) -> None:
        if self._open and text.strip():
            self._add(self._open[-1], text)

    def end(self, _: str) -> None:
        self._open.pop()

    def stop(self, *_: object) -> None:
        raise _Stop

    def _add(self, name: str, value: str) -> None:
        if name in WANTED and len(self.values[name]) < _MAX_VALUES:
            self.values[name].append(value[:_MAX_TEXT])
