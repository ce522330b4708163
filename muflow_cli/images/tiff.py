"""Pixels of a TIFF: its first page of full resolution, in the kinds that are known to be read rightly.

Pillow takes the first directory, whatever it is, and reads some kinds from wrong places of the file. So the directory
is chosen and checked here, and Pillow gets a TIFF that has no other. Samples that lie in planes are decoded one by one.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, UnidentifiedImageError

from muflow_cli.images.containers.tiff import Directory, Reader, Tag, directories, with_directory
from muflow_cli.images.error import ImageError
from muflow_cli.images.pixels import to_rgb

_WHITE_IS_ZERO: Final = 0
_BLACK_IS_ZERO: Final = 1
_RGB: Final = 2
_PALETTE: Final = 3
_CMYK: Final = 5
_YCBCR: Final = 6
_LAB: Final = 8

_UNCOMPRESSED: Final = 1
_JPEG: Final = 7
_FAX: Final = frozenset((2, 3, 4))
_DEFLATE: Final = frozenset((8, 32946))
# LZW, deflate, LZMA, Zstandard: what a predictor may stand before.
_GENERAL: Final = frozenset((5, *_DEFLATE, 34925, 50000))
_PACKBITS: Final = 32773
_COMPRESSIONS: Final = frozenset((_UNCOMPRESSED, _JPEG, _PACKBITS, *_FAX, *_GENERAL))


class _Colours(NamedTuple):
    """What a photometric interpretation is called, its samples per pixel, and the bits per sample that are read."""

    name: str
    samples: int
    depths: frozenset[int]


_COLOURS: Final[Mapping[int, _Colours]] = {
    _WHITE_IS_ZERO: _Colours("grey", 1, frozenset((1, 2, 4, 8, 16))),
    _BLACK_IS_ZERO: _Colours("grey", 1, frozenset((1, 2, 4, 8, 12, 16))),
    _RGB: _Colours("RGB", 3, frozenset((8, 16))),
    _PALETTE: _Colours("palette", 1, frozenset((1, 2, 4, 8))),
    _CMYK: _Colours("CMYK", 4, frozenset((8, 16))),
    _YCBCR: _Colours("YCbCr", 3, frozenset((8,))),
    _LAB: _Colours("Lab", 3, frozenset((8,))),
}
_PREMULTIPLIED: Final = 1
_ALPHA: Final = 2
_MAX_EXTRA: Final = 3
_PLANE_MODES: Final = {1: "L", 3: "RGB", 4: "CMYK"}
_PREDICTORS: Final = frozenset((1, 2))
_NO_WHITE: Final = {2: "signed", 3: "floating-point"}  # formats of samples

_RAW_COLOURS: Final = frozenset((32803, 34892))  # colour filter array, linear raw
_RAW_COMPRESSIONS: Final = frozenset((32767, 32770, 34713, 65000, 65535))  # Sony, Samsung, Nikon, Kodak, Pentax
_RAW_MARKS: Final = ((8, b"CR"), (8, b"IIII"), (8, b"MMMM"))  # Canon, Phase One

_REDUCED, _MASK = 1, 4  # bits of NewSubfileType
_OLD_REDUCED: Final = 2  # a value of SubfileType

# Pillow must not see any other: it would apply an orientation for itself.
_FOR_PIXELS: Final = frozenset(
    (
        *(Tag.WIDTH, Tag.LENGTH, Tag.BITS, Tag.COMPRESSION, Tag.PHOTOMETRIC, Tag.FILL_ORDER, Tag.SAMPLES, Tag.PLANAR),
        *(Tag.STRIP_OFFSETS, Tag.ROWS_PER_STRIP, Tag.STRIP_BYTES, Tag.GROUP3, Tag.GROUP4, Tag.PREDICTOR),
        *(Tag.TILE_WIDTH, Tag.TILE_LENGTH, Tag.TILE_OFFSETS, Tag.TILE_BYTES, Tag.COLOR_MAP, Tag.EXTRA_SAMPLES),
        *(Tag.SAMPLE_FORMAT, Tag.JPEG_TABLES, Tag.YCBCR_COEFFICIENTS, Tag.YCBCR_SUBSAMPLING, Tag.YCBCR_POSITIONING),
        Tag.REFERENCE_BLACK_WHITE,
    )
)


@dataclass(frozen=True, slots=True)
class Tiff:
    """A TIFF whose kind is read, before its pixels are.

    Attributes:
        data: the whole file.
        directory: the image in it.
        width: as stored, pixels.
        height: as stored, pixels.
        orientation: as stored, 1..8.
    """

    data: bytes
    directory: Directory
    width: int
    height: int
    orientation: int

    def pixels(self) -> Image.Image:
        """8-bit RGB as stored, transparency laid on white.

        Raises:
            ImageError: unsupported_pixels.
            Exception: as Pillow raises it, for damaged data.
        """
        if _planes(self.directory) > 1:
            return to_rgb(self._merged())
        image = self._decoded(self.directory)
        if image.mode.startswith("I") and self.directory.number(Tag.PHOTOMETRIC) == _WHITE_IS_ZERO:
            return ImageChops.invert(to_rgb(image))
        return to_rgb(image)

    def _decoded(self, directory: Directory) -> Image.Image:
        if directory.number(Tag.PHOTOMETRIC) == _WHITE_IS_ZERO and directory.number(Tag.BITS) == 16:
            directory = directory.replaced({Tag.PHOTOMETRIC: _BLACK_IS_ZERO})
        try:
            image = Image.open(io.BytesIO(with_directory(self.data, directory)), formats=("TIFF",))
            image.load()
        except (UnidentifiedImageError, ValueError) as error:
            if isinstance(error, UnidentifiedImageError) or "raw mode" in str(error):
                raise _unsupported("this combination of samples") from None
            raise
        return image

    def _merged(self) -> Image.Image:
        """An image of 8 bits per sample whose samples lie in one plane each; 16-bit samples keep their high byte."""
        mode = _PLANE_MODES[_COLOURS[self.directory.number(Tag.PHOTOMETRIC)].samples]
        mode += {_PREMULTIPLIED: "a", _ALPHA: "A"}.get(self.directory.number(Tag.EXTRA_SAMPLES), "")
        offset_tag, length_tag = _chunk_tags(self.directory)
        offsets, lengths = self.directory.numbers(offset_tag), self.directory.numbers(length_tag)
        one_plane = {
            Tag.PHOTOMETRIC: _BLACK_IS_ZERO,
            Tag.SAMPLES: 1,
            Tag.BITS: self.directory.number(Tag.BITS),
            Tag.PLANAR: 1,
            Tag.EXTRA_SAMPLES: None,
            Tag.SAMPLE_FORMAT: None,
        }
        chunks_of_plane = _chunks(self.directory)
        planes = []
        for plane in range(len(mode)):
            chunks = slice(plane * chunks_of_plane, (plane + 1) * chunks_of_plane)
            alone = self.directory.replaced({**one_plane, offset_tag: offsets[chunks], length_tag: lengths[chunks]})
            planes.append(to_rgb(self._decoded(alone)).getchannel(0))
        return Image.merge(mode, planes)


def page_count(data: bytes) -> int:
    """Number of pages that are not reduced versions of others, at least 1."""
    return max(1, sum(not _is_reduced(image) for image in directories(data)))


def open_tiff(data: bytes, page: int = 1) -> Tiff:
    """The image of a TIFF: its first page that is not a reduced version of another, or a later one of these.

    Raises:
        ImageError: unsupported, unsupported_pixels, truncated or corrupt where there is no directory.
    """
    images = list(directories(data))
    if not images:
        raise ImageError(*_without_directory(data))
    if _is_camera_raw(data, images):
        raise ImageError("unsupported", "it is a camera raw file; convert it to JPEG, PNG or TIFF with a raw converter")
    full = [image for image in images if not _is_reduced(image)]
    if not full and len(images) > 1:
        raise _unsupported("only reduced versions of an image")
    if page > max(1, len(full)):
        raise ImageError("corrupt", f"the document has no page {page}")
    directory = full[page - 1] if full else images[0]
    _check_samples(directory)
    _check_layout(directory)
    kept = {tag: entry for tag, entry in directory.entries.items() if tag in _FOR_PIXELS}
    pixels = Directory(directory.order, kept)
    if _planes(directory) == 1:
        pixels = pixels.replaced({Tag.PLANAR: 1})  # Pillow would cut up the samples of a single plane
    if directory.number(Tag.PHOTOMETRIC) == _PALETTE:
        pixels = pixels.replaced({Tag.COLOR_MAP: _colour_map(directory)})
    return Tiff(
        data=data,
        directory=pixels,
        width=directory.number(Tag.WIDTH),
        height=directory.number(Tag.LENGTH),
        orientation=directory.number(Tag.ORIENTATION, 1),
    )


def lacks_data(data: bytes) -> bool:
    """Whether the directories of a TIFF place a part of its pixels, or a directory, behind the end of the file."""
    images = list(directories(data))
    for image in images:
        offset_tag, length_tag = _chunk_tags(image)
        offsets, lengths = image.numbers(offset_tag), image.numbers(length_tag)
        if len(offsets) == len(lengths) and (offsets + lengths > len(data)).any():
            return True
    return not images and _without_directory(data)[0] == "truncated"


def _without_directory(data: bytes) -> tuple[str, str]:
    if Reader(data).first >= len(data):
        return "truncated", "the image is cut short; the TIFF directory would stand behind the end of the file"
    return "corrupt", "it begins like a TIFF, but no directory can be found"


def _unsupported(what: str) -> ImageError:
    return ImageError("unsupported", f"a TIFF with {what} is not read; save it as PNG or as a plain RGB TIFF")


def _is_camera_raw(data: bytes, images: list[Directory]) -> bool:
    return any(data.startswith(mark, at) for at, mark in _RAW_MARKS) or any(
        Tag.DNG_VERSION in image.entries
        or image.number(Tag.PHOTOMETRIC) in _RAW_COLOURS
        or image.number(Tag.COMPRESSION) in _RAW_COMPRESSIONS
        for image in images
    )


def _is_reduced(image: Directory) -> bool:
    kind = image.number(Tag.NEW_SUBFILE_TYPE)
    return bool(kind & (_REDUCED | _MASK)) or image.number(Tag.SUBFILE_TYPE) == _OLD_REDUCED


def _check_samples(image: Directory) -> None:
    """Refuse samples of a kind that is not read.

    Raises:
        ImageError: unsupported, unsupported_pixels.
    """
    samples = image.number(Tag.SAMPLES, 1)
    bits = image.numbers(Tag.BITS)[:samples]  # some programs write one too many
    depth = int(bits[0]) if len(bits) else 1
    sample_format = image.number(Tag.SAMPLE_FORMAT, 1)
    if sample_format in _NO_WHITE or depth >= 32:
        kind = _NO_WHITE.get(sample_format, f"{depth}-bit")
        raise ImageError(
            "unsupported_pixels" if samples == 1 else "unsupported",
            f"{kind} pixels have no defined white; convert the image to 8 or 16 bits",
        )
    if sample_format != 1:
        raise _unsupported(f"sample format {sample_format}")
    if Tag.PHOTOMETRIC not in image.entries:
        raise _unsupported("no statement about its colours")
    photometric = image.number(Tag.PHOTOMETRIC)
    colours = _COLOURS.get(photometric)
    if colours is None:
        raise _unsupported(f"photometric interpretation {photometric}")
    if depth not in colours.depths or len(set(bits.tolist())) > 1:
        raise _unsupported(f"{'+'.join(str(bit) for bit in bits)}-bit {colours.name} samples")
    if not colours.samples <= samples <= colours.samples + _MAX_EXTRA or len(bits) not in (1, samples):
        raise _unsupported(f"{samples} samples per pixel in {colours.name}")
    if photometric == _CMYK and image.number(Tag.INK_SET, 1) != 1:
        raise _unsupported("other inks than CMYK")


def _check_layout(image: Directory) -> None:
    """Refuse data that are stored in a way that is not read.

    Raises:
        ImageError: unsupported; corrupt if the parts do not cover the image.
    """
    compression, photometric = image.number(Tag.COMPRESSION, 1), image.number(Tag.PHOTOMETRIC)
    if compression not in _COMPRESSIONS:
        raise _unsupported(f"compression {compression}")
    if compression in _GENERAL and image.number(Tag.PREDICTOR, 1) not in _PREDICTORS:
        raise _unsupported(f"predictor {image.number(Tag.PREDICTOR)}")
    if photometric == _YCBCR and compression != _JPEG:
        raise _unsupported("YCbCr samples outside JPEG")
    planes = _planes(image)
    if planes > 1 and (compression == _JPEG or photometric in (_PALETTE, _LAB, _YCBCR)):
        raise _unsupported(f"{_COLOURS[photometric].name} samples in planes")
    if image.number(Tag.EXTRA_SAMPLES) and photometric in (_CMYK, _LAB, _YCBCR):
        raise _unsupported(f"transparency in {_COLOURS[photometric].name}")
    parts = len(image.numbers(_chunk_tags(image)[0]))
    if parts != planes * _chunks(image):
        raise ImageError("corrupt", f"its {parts} strips or tiles do not cover the image")


def _planes(image: Directory) -> int:
    """Number of planes that the samples lie in."""
    return image.number(Tag.SAMPLES, 1) if image.number(Tag.PLANAR, 1) == 2 else 1


def _chunks(image: Directory) -> int:
    """Number of strips or tiles of a plane."""
    width, height = image.number(Tag.WIDTH), image.number(Tag.LENGTH)
    if Tag.TILE_WIDTH not in image.entries:
        return -(-height // max(1, min(height, image.number(Tag.ROWS_PER_STRIP, height))))
    across, down = (max(1, image.number(tag)) for tag in (Tag.TILE_WIDTH, Tag.TILE_LENGTH))
    return -(-width // across) * -(-height // down)


def _chunk_tags(image: Directory) -> tuple[int, int]:
    """Tags of the offsets and the lengths of the strips or tiles."""
    if Tag.TILE_WIDTH in image.entries:
        return Tag.TILE_OFFSETS, Tag.TILE_BYTES
    return Tag.STRIP_OFFSETS, Tag.STRIP_BYTES


def _colour_map(image: Directory) -> NDArray[np.uint64]:
    """Red, green and blue of a palette, 0..65535, (3 * colours,)."""
    colours = image.numbers(Tag.COLOR_MAP)
    if len(colours) != 3 * 2 ** image.number(Tag.BITS, 1):
        raise _unsupported(f"a palette of {len(colours)} values")
    # Some programs write 0..255; libtiff and ImageMagick tell them apart in this way.
    return colours * np.uint64(257) if colours.max() < 256 else colours
