"""What a file says of its own origin: MARKS, a row for each kind, read from the bytes that were read for hashing.

Every piece is bounded (`images.metadata`); whatever is damaged or beyond the bounds gives one mark `unread`, never an
error. Texts are the file's own words: they may be false.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Final

from muflow_cli.images.metadata.generators import GENERATORS, Text, parsed
from muflow_cli.images.metadata.iptc import iptc_credits, resources
from muflow_cli.images.metadata.jumbf import Manifest, read_manifests
from muflow_cli.images.metadata.names import digital_source, is_camera, software_claim
from muflow_cli.images.metadata.pieces import Metadata, read_metadata
from muflow_cli.images.metadata.signatures import check_signature
from muflow_cli.images.metadata.tiff import Tag, read_tags
from muflow_cli.images.metadata.xmp import read_xmp
from muflow_cli.records import Declared, Mark, Origin, Trust

_MAX_TEXT: Final = 2**20
_MAX_DETAIL: Final = 200
_MAX_NAMED: Final = 8

# Captions, their digest and a few links: the blocks that programs other than Photoshop write.
_CAPTIONS: Final = frozenset((0x0404, 0x0425, 0x040B, 0x0422, 0x0423))

# Actions that change what an image shows (C2PA 2.2, section 18.13). Opening, converting and publishing do not.
_EDITS: Final = frozenset(
    f"c2pa.{name}"
    for name in (
        *("edited", "edited.metadata", "adjustedColor", "color_adjustments", "changedSpeed", "cropped", "drawing"),
        *("enhanced", "filtered", "orientation", "placed", "removed", "redacted", "resized", "translated", "trimmed"),
        *("deleted", "addedText", "watermarked", "unknown"),
    )
)


@dataclass(frozen=True)
class Contents:
    """The metadata of one file, each part read when a row asks for it.

    Attributes:
        data: the whole file.
        metadata: its pieces.
        anchors: certificates (PEM) that may vouch for a C2PA signer; None = none.
    """

    data: bytes
    metadata: Metadata
    anchors: str | None = None

    @cached_property
    def exif(self) -> Mapping[Tag, bytes]:
        """Raw values of the tags; the first EXIF block wins."""
        tags: dict[Tag, bytes] = {}
        for stream in self.metadata.exif[:4]:
            tags = read_tags(stream) | tags
        return tags

    def exif_text(self, tag: Tag) -> str:
        """The value of a text tag up to its NUL."""
        return self.exif.get(tag, b"")[:_MAX_TEXT].partition(b"\0")[0].decode("utf-8", "replace").strip()

    @cached_property
    def xmp(self) -> Mapping[str, list[str]]:
        """Values of the properties, those of all packets together."""
        values: dict[str, list[str]] = {}
        for packet in self.metadata.xmp[:4]:
            own, whole = read_xmp(packet)
            if not whole:
                self.metadata.complain("an XMP packet is damaged or too large")
            for name, items in own.items():
                values.setdefault(name, []).extend(items)
        return values

    @cached_property
    def manifests(self) -> list[Manifest]:
        """The C2PA manifests, the one that describes the file last."""
        manifests = []
        for store in self.metadata.c2pa[:4]:
            own, whole = read_manifests(store)
            if not whole:
                self.metadata.complain("a C2PA manifest store is damaged or too large")
            manifests += own
        return manifests

    @cached_property
    def texts(self) -> list[Text]:
        """Texts that a generator may have written, of every place where one stands."""
        texts = list(self.metadata.texts)
        texts.append(("usercomment", _user_comment(self.exif.get(Tag.USER_COMMENT, b""))))
        texts.append(("xpcomment", self.exif.get(Tag.XP_COMMENT, b"")[:_MAX_TEXT].decode("utf-16-le", "replace")))
        tags = (Tag.DESCRIPTION, Tag.MAKE, Tag.MODEL, Tag.SOFTWARE)
        texts += [(tag.name.lower(), self.exif_text(tag)) for tag in tags]
        texts += [(name, value) for name in ("usercomment", "description") for value in self.xmp.get(name, ())]
        return [parsed(key, value) for key, value in texts if value]


def _user_comment(raw: bytes) -> str:
    """Text of the tag UserComment, whose first 8 bytes name its encoding (EXIF 2.32, 4.6.5)."""
    code, body = raw[:8], raw[8 : 8 + _MAX_TEXT]
    if not code.startswith(b"UNICODE"):
        return body.decode("utf-8", "replace").strip("\0 ")
    # The standard leaves the order of bytes to the file; text in Latin script has its zeros in the high bytes.
    low_first = body[1:200:2].count(0) >= body[0:200:2].count(0)
    return body.decode("utf-16-le" if low_first else "utf-16-be", "replace").strip("\0 ")


def _c2pa(contents: Contents) -> Iterator[Mark]:
    if not contents.metadata.c2pa:
        return
    manifests = contents.manifests
    sources = [digital_source(source) for manifest in manifests for source in manifest.sources]
    generators = [name for manifest in manifests for name in manifest.generators]
    actions = [action for manifest in manifests for action in manifest.actions]
    claims = {origin for _, origin in sources} | {software_claim(name) for name in generators} - {Origin.EDITED}
    if _EDITS.intersection(actions):
        claims.add(Origin.EDITED)
    trust, signature = check_signature(contents.data, contents.anchors)
    detail = {
        "generator": _listed(generators),
        "source": _listed(name for name, _ in sources),
        "actions": _listed(actions),
        "ingredients": _listed(title for manifest in manifests for title in manifest.ingredients),
        "manifests": str(len(manifests)),
    }
    yield _mark("c2pa", _strongest(claims), {**detail, **signature}, trust)


def _remote_c2pa(contents: Contents) -> Iterator[Mark]:
    if addresses := contents.xmp.get("provenance"):
        yield _mark("c2pa_elsewhere", Origin.NONE, {"address": addresses[0], "reason": "not fetched"})


def _digital_source(contents: Contents) -> Iterator[Mark]:
    for name in ("digitalsourcetype", "digitalsourcefiletype"):
        sources = dict(map(digital_source, contents.xmp.get(name, ())))
        if sources:
            yield _mark("digital_source", _strongest(sources.values()), {"source": _listed(sources)})


def _ai_system(contents: Contents) -> Iterator[Mark]:
    """Properties that IPTC defined for generated images (Photo Metadata Standard 2025.1)."""
    names = {"generator": "aisystemused", "version": "aisystemversionused", "prompt": "aipromptinformation"}
    detail = {key: contents.xmp[name][0] for key, name in names.items() if contents.xmp.get(name)}
    if detail:
        yield _mark("ai_system", Origin.SYNTHETIC, detail)


def _credit(contents: Contents) -> Iterator[Mark]:
    for credit in (*contents.xmp.get("credit", ()), *iptc_credits(contents.metadata)):
        # A photographer's credit says nothing of the origin.
        if software_claim(credit) is Origin.SYNTHETIC:
            yield _mark("credit", Origin.SYNTHETIC, {"credit": credit})
            return


def _exif(contents: Contents) -> Iterator[Mark]:
    make, model, software = map(contents.exif_text, (Tag.MAKE, Tag.MODEL, Tag.SOFTWARE))
    claims = {software_claim(name) for name in (make, model, software)}
    if is_camera(make) or (make and model and not {Tag.EXPOSURE, Tag.F_NUMBER}.isdisjoint(contents.exif)):
        claims.add(Origin.CAMERA)
    if make or model or software:
        yield _mark("exif", _strongest(claims), {"make": make, "model": model, "software": software})


def _maker_note(contents: Contents) -> Iterator[Mark]:
    if note := contents.exif.get(Tag.MAKER_NOTE):
        yield _mark("maker_note", Origin.CAMERA, {"bytes": str(len(note))})


def _xmp(contents: Contents) -> Iterator[Mark]:
    tools = [name for key in ("creatortool", "softwareagent", "software") for name in contents.xmp.get(key, ())]
    if tools:
        yield _mark("xmp", _strongest(map(software_claim, tools)), {"software": _listed(tools)})


def _photoshop(contents: Contents) -> Iterator[Mark]:
    # Many programs write a block with nothing but captions in it.
    numbers = [number for block in contents.metadata.photoshop for number, _ in resources(block)]
    if not _CAPTIONS.issuperset(numbers):
        yield _mark("photoshop", Origin.EDITED, {"blocks": str(len(numbers))})


def _generator(kind: str) -> Callable[[Contents], Iterator[Mark]]:
    def read(contents: Contents) -> Iterator[Mark]:
        detail = GENERATORS[kind](contents.texts)
        if detail is not None:
            yield _mark(kind, Origin.SYNTHETIC, detail)

    return read


def _unread(contents: Contents) -> Iterator[Mark]:
    if contents.metadata.problem is not None:
        yield _mark("unread", Origin.NONE, {"reason": contents.metadata.problem})


MARKS: Final[Mapping[str, Callable[[Contents], Iterator[Mark]]]] = {
    "c2pa": _c2pa,
    "c2pa_elsewhere": _remote_c2pa,
    "digital_source": _digital_source,
    "ai_system": _ai_system,
    "credit": _credit,
    **{kind: _generator(kind) for kind in GENERATORS},
    "exif": _exif,
    "xmp": _xmp,
    "photoshop": _photoshop,
    "maker_note": _maker_note,
    # Last, since the rows before it find what is damaged.
    "unread": _unread,
}


def read_marks(data: bytes, anchors: str | None = None) -> Declared:
    """Everything that a file says of its own origin.

    Args:
        data: the whole file, of any kind; its signature names the container.
        anchors: certificates (PEM) that may vouch for the signer of a C2PA manifest; None = none may.
    """
    metadata = read_metadata(data)
    if metadata == Metadata():
        return Declared()
    contents = Contents(data, metadata, anchors)
    return declared(mark for read in MARKS.values() for mark in read(contents))


def with_mark(known: Declared, mark: Mark | None) -> Declared:
    """What a file declares, and one more mark at the end if there is one."""
    return known if mark is None else declared((*known.marks, mark))


def declared(marks: Iterable[Mark]) -> Declared:
    """Marks and the strongest of their claims; a signature that does not fit the file vouches for no camera."""
    marks = tuple(marks)
    claims = {mark.claim for mark in marks if mark.trust is not Trust.INVALID or mark.claim is not Origin.CAMERA}
    return Declared(origin=_strongest(claims), marks=marks)


def _strongest(claims: Iterable[Origin]) -> Origin:
    return min(claims, key=tuple(Origin).index, default=Origin.NONE)


def _mark(kind: str, claim: Origin, detail: Mapping[str, str], trust: Trust = Trust.UNSIGNED) -> Mark:
    clean = {name: _clean(value) for name, value in detail.items()}
    return Mark(kind=kind, claim=claim, detail={name: value for name, value in clean.items() if value}, trust=trust)


def _clean(text: str) -> str:
    """At most 200 characters of a text, those that are not printable as spaces."""
    printable = "".join(c if c.isprintable() else " " for c in text[: 4 * _MAX_DETAIL])
    return " ".join(printable.split())[:_MAX_DETAIL]


def _listed(names: Iterable[str]) -> str:
    """The first distinct names, joined."""
    return ", ".join(islice(dict.fromkeys(names), _MAX_NAMED))
