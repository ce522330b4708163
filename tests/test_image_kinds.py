"""A valid file gives its own pixels or one record that names what is not read; "corrupt" is kept for damage."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiff_samples import Page, tiff

from muflow_cli.images.decode import decode
from muflow_cli.images.error import ImageError

MANY = 10_000_000
WIDTH, HEIGHT = 37, 29


def grey() -> np.ndarray:
    """(H, W, 1) from black to white."""
    return np.linspace(0, 255, WIDTH * HEIGHT).astype(np.uint8).reshape(HEIGHT, WIDTH, 1)


def rgb() -> np.ndarray:
    """(H, W, 3), different in each corner and colour, with black and white."""
    return np.concatenate([grey(), grey()[::-1], grey()[:, ::-1] // 2], axis=2)


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(decode(data, MANY).image).astype(int)


def refusal(data: bytes) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decode(data, MANY)
    return caught.value


def encoded(image: Image.Image, container: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, container, **options)
    return buffer.getvalue()


STORAGE = {
    "one strip": {},
    "strips": {"rows": 8},
    "tiles": {"tile": 16},
    "deflated strips": {"rows": 8, "is_deflated": True},
    "deflated tiles": {"tile": 16, "is_deflated": True},
}


@pytest.mark.parametrize("storage", STORAGE.values(), ids=STORAGE)
@pytest.mark.parametrize("is_planar", [False, True], ids=["interleaved", "planar"])
@pytest.mark.parametrize("deep", [False, True], ids=["8bit", "16bit"])
def test_every_way_to_store_a_tiff_gives_the_same_pixels(storage: Mapping, is_planar: bool, deep: bool) -> None:
    for order in "<>":
        for photometric, samples, expected in (
            (0, 255 - grey(), grey()),
            (1, grey(), grey()),
            (2, rgb(), rgb()),
            (5, np.concatenate([255 - rgb(), 0 * grey()], axis=2), rgb()),
        ):
            stored = samples * np.uint16(257) if deep else samples
            data = tiff(Page(samples=stored, photometric=photometric, is_planar=is_planar, **storage), order=order)
            assert np.abs(pixels(data) - expected).max() <= 1, (order, photometric)


@pytest.mark.parametrize("order", ["<", ">"])
def test_bigtiff_is_read_in_both_byte_orders(order: str) -> None:
    assert (pixels(tiff(Page(samples=rgb(), rows=8), order=order, is_big=True)) == rgb()).all()


@pytest.mark.parametrize("is_planar", [False, True], ids=["interleaved", "planar"])
@pytest.mark.parametrize("deep", [False, True], ids=["8bit", "16bit"])
def test_transparency_of_a_tiff_is_laid_on_white_however_it_is_stored(is_planar: bool, deep: bool) -> None:
    alpha = np.full_like(grey(), 102)
    expected = rgb() * (102 / 255) + 153
    for meaning, colours, right in (
        (0, rgb(), rgb()),
        (1, (rgb() * (102 / 255)).astype(np.uint8), expected),
        (2, rgb(), expected),
    ):
        samples = np.concatenate([colours, alpha], axis=2)
        samples = samples * np.uint16(257) if deep else samples
        data = tiff(Page(samples=samples, is_planar=is_planar, tags={338: [meaning]}))
        assert np.abs(pixels(data) - right).mean() < 2, meaning


@pytest.mark.parametrize("unit", [1, 257], ids=["0to255", "0to65535"])
def test_a_palette_is_scaled_by_its_largest_value(unit: int) -> None:
    colours = np.arange(256)
    tags = {320: [*(colours * unit), *(colours[::-1] * unit), *(colours // 2 * unit)]}
    shown = pixels(tiff(Page(samples=grey(), photometric=3, tags=tags)))
    assert (shown == np.concatenate([grey(), 255 - grey(), grey() // 2], axis=2)).all()


def test_the_first_page_of_full_resolution_is_scored() -> None:
    small = rgb()[::4, ::4]
    full = Page(samples=rgb())
    for mark in ({254: [1]}, {255: [2]}, {254: [5]}):
        assert (pixels(tiff(Page(samples=small, tags=mark), full)) == rgb()).all()
        assert (pixels(tiff(Page(samples=small, tags=mark, children=[full]))) == rgb()).all()
        assert (pixels(tiff(full, Page(samples=small, tags=mark))) == rgb()).all()
    assert (pixels(tiff(Page(samples=small, tags={254: [1]}))) == small).all()  # there is no other
    reduced = Page(samples=small, tags={254: [1]})
    assert refusal(tiff(reduced, reduced)).code == "unsupported"


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    "raw",
    [{50706: [1]}, {262: [32803]}, {262: [34892]}, {259: [32767]}, {259: [34713]}, {259: [65535]}],
    ids=["DNG", "colour filter array", "linear raw", "ARW", "NEF", "PEF"],
)
def test_a_camera_raw_file_is_not_judged_by_its_preview(order: str, raw: Mapping[int, Sequence[int]]) -> None:
    inner = Page(samples=rgb(), tags=raw)
    preview = Page(samples=rgb()[::4, ::4], tags={254: [1]}, children=[inner])
    for data in (tiff(preview, order=order), tiff(inner, order=order), tiff(Page(samples=rgb()), inner, order=order)):
        error = refusal(data)
        assert error.code == "unsupported"
        assert "camera raw" in error.message


@pytest.mark.parametrize(
    "head",
    [
        b"II*\0\x10\0\0\0CR\2\0",
        b"IIRO\x08\0\0\0",
        b"IIU\0\x18\0\0\0",
        b"FUJIFILMCCD-RAW 0201",
        b"\0\0\0\x18ftypcrx \0\0\0\1",
    ],
    ids=["CR2", "ORF", "RW2", "RAF", "CR3"],
)
def test_camera_raw_files_are_known_by_their_signatures(head: bytes) -> None:
    directory = struct.pack("<HHHIII", 1, 256, 3, 1, 5, 0)
    error = refusal(head.ljust(16, b"\0") + directory + bytes(99))
    assert error.code == "unsupported"
    assert "camera raw" in error.message


@pytest.mark.parametrize(
    ("page", "code", "word"),
    [
        (Page(samples=rgb().astype(np.float32), tags={339: [3, 3, 3]}), "unsupported", "floating-point"),
        (Page(samples=grey().astype(np.int16), photometric=1, tags={339: [2]}), "unsupported_pixels", "signed"),
        (Page(samples=rgb().astype(np.uint32)), "unsupported", "32-bit"),
        (Page(samples=rgb(), photometric=6, tags={530: [2, 2]}), "unsupported", "YCbCr"),
        (Page(samples=rgb(), tags={259: [34712]}), "unsupported", "compression 34712"),
        (Page(samples=rgb(), is_deflated=True, tags={317: [3]}), "unsupported", "predictor 3"),
        (Page(samples=rgb(), photometric=32844), "unsupported", "photometric interpretation 32844"),
        (Page(samples=np.concatenate([rgb(), grey()], axis=2), photometric=5, tags={332: [2]}), "unsupported", "inks"),
        (Page(samples=grey(), photometric=3, tags={320: [1, 2, 3]}), "unsupported", "palette"),
    ],
    ids=["float", "signed", "32bit", "YCbCr", "JPEG2000", "predictor", "logluv", "inks", "palette"],
)
def test_kinds_of_tiff_that_are_not_read_are_named(page: Page, code: str, word: str) -> None:
    for order in "<>":
        error = refusal(tiff(page, order=order))
        assert error.code == code
        assert word in error.message


def test_a_tiff_whose_directory_places_pixels_or_itself_behind_its_end_is_truncated() -> None:
    data = tiff(Page(samples=rgb(), rows=8, is_deflated=True))
    assert refusal(data[: len(data) * 2 // 3]).code == "truncated"
    cut = tiff(Page(samples=rgb(), is_deflated=True, tags={279: [10**6]}))
    assert refusal(cut.replace(zlib.compress(rgb().tobytes())[20:400], bytes(380))).code == "truncated"
    assert refusal(tiff(Page(samples=rgb(), tags={278: [8]}))).code == "corrupt"  # strips are missing


def boxed(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", 8 + len(content)) + kind + content


def with_header_box(data: bytes, extra: bytes) -> bytes:
    """A JP2 with one more box in its header."""
    start = data.index(b"jp2h") - 4
    length = int.from_bytes(data[start : start + 4], "big")
    header = data[start + 8 : start + length] + extra
    return data[:start] + boxed(b"jp2h", header) + data[start + length :]


def test_jpeg_2000_gives_its_pixels_or_names_what_is_not_read() -> None:
    data = encoded(Image.fromarray(rgb()), "JPEG2000")
    assert (pixels(data) == rgb()).all()
    in_order = b"\0\3" + bytes.fromhex("000000000001 000100000002 000200000003")
    swapped = b"\0\3" + bytes.fromhex("000000000003 000100000002 000200000001")
    assert (pixels(with_header_box(data, boxed(b"cdef", in_order))) == rgb()).all()
    assert refusal(with_header_box(data, boxed(b"cdef", swapped))).code == "unsupported"
    siz = data.index(b"\xff\x4f\xff\x51") + 42  # depth, then the two resolutions, of each component
    for change, word in ((b"\x0f\1\1" * 3, "16-bit"), (b"\x87\1\1" * 3, "signed"), (b"\7\4\4" * 3, "resolutions")):
        error = refusal(data[:siz] + change + data[siz + 9 :])
        assert error.code == "unsupported"
        assert word in error.message


@pytest.mark.parametrize("container", ["JPEG2000", "AVIF", "GIF"])
def test_files_with_announced_lengths_are_truncated_where_bytes_are_missing(container: str) -> None:
    data = encoded(Image.fromarray(rgb()), container)
    for end in range(len(data) * 2 // 3, len(data) - 2, 37):
        assert refusal(data[:end]).code == "truncated"


def test_a_gif_that_is_whole_but_damaged_is_corrupt() -> None:
    data = encoded(Image.fromarray(rgb()), "GIF")
    image = data.index(b"\x2c", 13 + 3 * 256)
    broken = data[: image + 11] + b"\x02\x44\x01\x00\x3b"  # one sub-block, the terminator and the trailer
    assert refusal(broken).code == "corrupt"


@pytest.mark.parametrize(
    ("marker", "depth", "kind"), [(0xC1, 12, "12-bit"), (0xC3, 8, "lossless"), (0xC5, 8, "hierarchical")]
)
def test_kinds_of_jpeg_that_are_not_read_are_named(marker: int, depth: int, kind: str) -> None:
    data = encoded(Image.fromarray(rgb()), "JPEG")
    at = data.index(b"\xff\xc0")
    error = refusal(data[: at + 1] + bytes([marker]) + data[at + 2 : at + 4] + bytes([depth]) + data[at + 5 :])
    assert error.code == "unsupported"
    assert kind in error.message


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    """The image of `rgb` with further chunks in front of its pixels."""
    data = encoded(Image.fromarray(rgb()), "PNG")
    at = data.index(b"IDAT") - 4
    extra = b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )
    return data[:at] + extra + data[at:]


def test_texts_and_profiles_of_a_png_of_any_size_cost_neither_pixels_nor_memory() -> None:
    bomb = zlib.compress(bytes(50_000_000))
    for chunk in (
        (b"zTXt", b"workflow\0\0" + bomb),
        (b"iTXt", b"workflow\0\1\0\0\0" + bomb),
        (b"tEXt", b"workflow\0" + bytes(70_000_000)),
        (b"iCCP", b"profile\0\0" + bomb),
        (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n 9\nnonsense")),
    ):
        assert (pixels(png(chunk)) == rgb()).all()


def test_faults_in_later_frames_do_not_cost_the_first() -> None:
    assert (pixels(png((b"acTL", struct.pack(">II", 2, 0)), (b"fdAT", b"\0\0\0\7"))) == rgb()).all()


def test_an_image_without_an_opaque_pixel_is_refused() -> None:
    transparent = Image.new("RGBA", (8, 8), (9, 9, 9, 0))
    for container in ("PNG", "WEBP", "GIF"):
        assert refusal(encoded(transparent, container)).code == "unsupported"
    transparent.putpixel((0, 0), (9, 9, 9, 255))
    assert pixels(encoded(transparent, "PNG"))[0, 0].tolist() == [9, 9, 9]


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"\xff\x0a", "JPEG XL"),
        (b"8BPS\0\1", "Photoshop"),
        (b"II\xbc\1", "JPEG XR"),
    ],
    ids=["jxl box", "jxl", "psd", "jxr"],
)
def test_images_that_are_not_read_are_named(head: bytes, name: str) -> None:
    error = refusal(head + bytes(40))
    assert error.code == "unsupported"
    assert name in error.message


def test_the_refusal_of_a_large_image_names_the_option() -> None:
    with pytest.raises(ImageError, match="--max-pixels") as caught:
        decode(tiff(Page(samples=rgb())), 100)
    assert caught.value.code == "too_many_pixels"


@pytest.mark.parametrize("folder", ["misread", "orientation", "reason"])
def test_collected_files_give_the_reference_or_say_what_they_are(folder: str, shared: Path) -> None:
    reference = np.asarray(Image.open(shared / "data/failing/reference.png").convert("RGB")).astype(int)
    codes = {
        "gif_bit_flip.gif": "corrupt",
        "jp2_cut_in_half.jp2": "truncated",
        "avif_cut_at_two_thirds.avif": "truncated",
        "tif_cut_at_two_thirds.tif": "truncated",
        "tif_grey16_signed.tif": "unsupported_pixels",
    }
    for path in sorted((shared / "data/failing" / folder).glob("*")):
        if path.suffix == ".zip":
            continue
        try:
            shown = decode(path.read_bytes(), MANY).image
        except ImageError as error:
            assert error.code == codes.get(path.name, "unsupported"), path.name  # noqa: PT017  either outcome is right
        else:
            shown = shown.resize((160, 200)) if shown.size == (480, 600) else shown
            assert path.name not in codes
            assert np.abs(np.asarray(shown).astype(int) - reference).mean() < 3, path.name
