"""C2PA manifest store (JUMBF, ISO 19566-5) -> what its claims and assertions say; no signature is checked here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from muflow_cli.images.containers.boxes import whole_boxes
from muflow_cli.images.metadata.cbor import BadCbor, decode

_MAX_DEPTH: Final = 8
_MAX_BOXES: Final = 5_000
_MAX_ASSERTION: Final = 2**20


@dataclass(slots=True)
class Manifest:
    """One manifest of a store, the first the oldest, the last the one that describes the file.

    Attributes:
        label: its name in the store.
        generators: software named by its claim and its actions.
        actions: names of what was done ("c2pa.created").
        sources: last parts of the digital source types of its actions and assertions ("trainedAlgorithmicMedia").
        ingredients: relation and title of what it was made from.
    """

    label: str
    generators: list[str] = field(default_factory=list)
    actions: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    ingredients: list[str] = field(default_factory=list)


def read_manifests(store: bytes) -> tuple[list[Manifest], bool]:
    """The manifests of a store, and whether all of it could be read."""
    manifests: dict[str, Manifest] = {}
    whole = store[4:8] == b"jumb" and int.from_bytes(store[:4], "big") in (0, 1, len(store))
    for labels, kind, body in _contents(store):
        if len(labels) > 2:
            manifest = manifests.setdefault(labels[1], Manifest(labels[1]))
            try:
                _read_box(manifest, labels[-1], decode(body) if kind == b"cbor" else msgspec.json.decode(body))
            except (BadCbor, msgspec.DecodeError, ValueError, RecursionError):
                whole = False
    return list(manifests.values()), whole


def _contents(store: bytes) -> Iterator[tuple[tuple[str, ...], bytes, bytes]]:
    """Labels from the store down, kind and body of every CBOR and JSON box, in the order of the store."""
    pending: list[tuple[int, int, tuple[str, ...]]] = [(0, len(store), ())]
    visited = 0
    while pending:
        start, end, labels = pending.pop()
        inner = []
        for kind, first, last in whole_boxes(store, start, end):
            visited += 1
            if visited > _MAX_BOXES:
                return
            if kind == b"jumd":
                # 16 bytes of type, a byte of toggles, then the label.
                label = store[first + 17 : min(last, first + 300)].partition(b"\0")[0]
                labels = (*labels, label.decode("utf-8", "replace"))
            elif kind == b"jumb" and len(labels) < _MAX_DEPTH:
                inner.append((first, last, labels))
            elif kind in (b"cbor", b"json"):
                yield labels, kind, store[first : min(last, first + _MAX_ASSERTION)]
        pending += reversed(inner)


def _read_box(manifest: Manifest, label: str, value: object) -> None:
    if not isinstance(value, dict):
        return
    if label.startswith("c2pa.claim"):
        manifest.generators += _names(value.get("claim_generator_info")) or _names(value.get("claim_generator"))
    elif label.startswith("c2pa.actions"):
        for action in _list(value.get("actions")):
            if isinstance(action, dict):
                manifest.actions += _names(action.get("action"))
                manifest.generators += _names(action.get("softwareAgent"))
                manifest.sources += _sources(action)
    elif label.startswith("c2pa.ingredient"):
        relation, title = (" ".join(_names(value.get(key))) for key in ("relationship", "dc:title"))
        manifest.ingredients.append(f"{relation or 'ingredient'} {title}".strip())
    elif not label.startswith("c2pa.hash"):
        manifest.sources += _sources(value)


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def _names(value: object) -> list[str]:
    """Text, or the `name` and `version` of an object, or those of a list of either."""
    names = []
    for item in _list(value):
        if isinstance(item, dict):
            parts = (item.get("name"), item.get("version"))
            names.append(" ".join(part for part in parts if isinstance(part, str)))
        elif isinstance(item, str):
            names.append(item)
    return [name for name in names if name]


def _sources(value: Mapping[str, object]) -> list[str]:
    """Values of every key that names a digital source type, one level down as well."""
    inner = [item for part in value.values() for item in _list(part) if isinstance(item, dict)]
    return [
        source.rpartition("/")[2]
        for part in (value, *inner)
        for key, source in part.items()
        if isinstance(source, str) and key.rpartition(":")[2].lower() == "digitalsourcetype"
    ]
