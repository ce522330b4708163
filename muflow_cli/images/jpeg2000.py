"""The kinds of JPEG 2000 (ISO/IEC 15444-1) whose pixels Pillow reads rightly.

Pillow hands over the components as they are coded. It applies no channel definitions and no palette whose colours
repeat, scales samples of less than 8 bits by a power of two, and lets the whitest samples of more than 8 bits overflow
to black in colour images.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from muflow_cli.images.containers.boxes import Box, boxes, child, is_cut
from muflow_cli.images.error import ImageError

CODESTREAM: Final = b"\xff\x4f\xff\x51"
_END: Final = b"\xff\xd9"
_SIGNED: Final = 0x80
_ENUMERATED: Final = 1  # method of a colour specification
_SPACES: Final = {16: 3, 17: 1, 18: 3, 12: 4}  # sRGB, grey, sYCC, CMYK -> colours
_CMYK: Final = 12


class _Component(NamedTuple):
    depth: int
    is_signed: bool
    across: int
    down: int


def check_jpeg2000(data: bytes) -> None:
    """Refuse what Pillow would read wrongly.

    Raises:
        ImageError: unsupported, with the reason.
    """
    header = None
    if not data.startswith(CODESTREAM):
        header = next((box for box in boxes(data) if box.type == b"jp2h"), None)
    components = _components(data)
    if not components:
        return  # damaged; the decoder says so
    _check_components(components, has_palette=header is not None and child(data, header, b"pclr") is not None)
    if header is not None:
        _check_header(data, header, len(components))


def lacks_its_end(data: bytes) -> bool:
    """Whether the codestream has no end mark, or a box announces more bytes than there are."""
    if data.startswith(CODESTREAM):
        return _END not in data[-64:]
    stream = next((box for box in boxes(data) if box.type == b"jp2c"), None)
    lacks_mark = stream is not None and _END not in data[max(stream.start, stream.end - 64) : stream.end]
    return lacks_mark or is_cut(data, needed=b"jp2c")


def _components(data: bytes) -> list[_Component]:
    """Components as the codestream's SIZ segment describes them; empty if it has none."""
    start = 0
    if not data.startswith(CODESTREAM):
        start = next((box.start for box in boxes(data) if box.type == b"jp2c"), len(data))
    if not data.startswith(CODESTREAM, start):
        return []
    count = int.from_bytes(data[start + 40 : start + 42], "big")
    fields = data[start + 42 : start + 42 + 3 * min(count, 5)]
    return [
        _Component((depth & ~_SIGNED) + 1, bool(depth & _SIGNED), across, down)
        for depth, across, down in zip(fields[::3], fields[1::3], fields[2::3], strict=False)
    ]


def _check_components(components: list[_Component], *, has_palette: bool) -> None:
    depths = {component.depth for component in components}
    if len(components) > 4:
        raise _unsupported("more than 4 components")
    if any(component.is_signed for component in components):
        raise _unsupported("signed samples")
    if len(components) == 1 and not has_palette:
        if not 8 <= min(depths) <= 16:
            raise _unsupported(f"{min(depths)}-bit samples")
    elif depths != {8}:
        raise _unsupported(f"{'+'.join(str(depth) for depth in sorted(depths))}-bit colours")
    # Chroma alone may be coded at half the resolution.
    if any((component.across, component.down) != (1, 1) for component in (components[0], *components[3:])) or any(
        max(component.across, component.down) > 2 for component in components
    ):
        raise _unsupported("components of such different resolutions")


def _check_header(data: bytes, header: Box, components: int) -> None:
    palette = child(data, header, b"pclr")
    colours = components
    space = 0
    specification = child(data, header, b"colr")
    if specification is not None and data[specification.start] == _ENUMERATED:
        space = int.from_bytes(data[specification.start + 3 : specification.start + 7], "big")
        colours = 1 if palette else _SPACES.get(space, 0)
        if not colours <= components <= colours + (space != _CMYK) or colours == 0:
            raise _unsupported(f"colour space {space} in {components} components")
    if palette is not None and not (space == 16 and _is_plain(data, header, palette)):
        raise _unsupported("such a palette")
    channels = child(data, header, b"cdef")
    if channels is not None:
        fields = data[channels.start + 2 : channels.end]
        described = {fields[at : at + 6] for at in range(0, len(fields), 6)}
        if palette is not None or described != _in_order(components):
            raise _unsupported("such an order or meaning of its channels")


def _in_order(components: int) -> set[bytes]:
    """Entries of a channel definition: grey or RGB in their usual order, transparency behind them."""
    colours = 1 if components < 3 else 3
    entries = [(channel, 0, channel + 1) for channel in range(colours)]
    entries += [(channel, 1, 0) for channel in range(colours, components)]
    return {b"".join(number.to_bytes(2, "big") for number in entry) for entry in entries}


def _is_plain(data: bytes, header: Box, palette: Box) -> bool:
    """Whether a palette gives one component three channels of 8 bits, in order, each colour once."""
    count, columns = int.from_bytes(data[palette.start : palette.start + 2], "big"), data[palette.start + 2]
    start = palette.start + 3 + columns
    colours = [data[at : at + 3] for at in range(start, start + 3 * count, 3)]
    mapping = child(data, header, b"cmap")
    return (
        data[palette.start + 2 : start] == b"\3\7\7\7"
        and len(set(colours)) == count
        and mapping is not None
        and data[mapping.start : mapping.end] == b"\0\0\1\0\0\0\1\1\0\0\1\2"
    )


def _unsupported(what: str) -> ImageError:
    return ImageError(
        "unsupported", f"a JPEG 2000 image with {what} is not read; save it as PNG or as an 8-bit RGB image"
    )
