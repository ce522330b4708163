"""Promises about damaged coded data: what decoders show in silence is one record, and no whole file is refused."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from conftest import draw_face
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from muflow_cli.images.decode import decode
from muflow_cli.images.error import ImageError, missing_part
from muflow_cli.images.inputs import Input
from muflow_cli.images.loader import Loaded, LoadSpec, load
from muflow_cli.records import Facts, Unreadable
from muflow_cli.run_specs import Damaged, InputSpec
from muflow_cli.specs import ViewSpec

MANY = 10_000_000
END = b"\xff\xd9"


@cache
def face(side: int = 200) -> Image.Image:
    """A drawn face with the texture of a photograph, so that no part of it is flat."""
    generator = np.random.default_rng(7)
    pixels = np.asarray(draw_face(generator, side)).astype(int) + generator.integers(-20, 21, (side, side, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def encoded(container: str, image: Image.Image | None = None, **options: object) -> bytes:
    if container == "HEIF":
        pytest.importorskip("pillow_heif", reason="needs the extra heif").register_heif_opener()
    buffer = io.BytesIO()
    (image or face()).save(buffer, container, **options)
    return buffer.getvalue()


def refusal(data: bytes) -> tuple[str, str]:
    with pytest.raises(ImageError) as caught:
        decode(data, MANY)
    return caught.value.code, caught.value.message


def facts(data: bytes, damaged: Damaged = Damaged.REFUSE) -> Facts:
    return decode(data, MANY, damaged=damaged).facts


def scan_start(jpeg: bytes) -> int:
    at = jpeg.rindex(b"\xff\xda")
    return at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")


def cut_jpeg(share: float, **options: object) -> bytes:
    """A JPEG whose coded data stop at a share of their length, with the end mark put behind."""
    whole = encoded("JPEG", **options)
    start = scan_start(whole)
    return whole[: start + int(share * (len(whole) - start))] + END


def zeroed(data: bytes, start: float = 0.5, end: float = 1.0) -> bytes:
    first, last = int(start * len(data)), int(end * len(data))
    return data[:first] + bytes(last - first) + data[last:]


def png_of(rows: list[bytes], header: bytes) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    pixels = zlib.compress(b"".join(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def half_png() -> bytes:
    """A PNG with the rows of its upper half."""
    header = struct.pack(">IIBBBBB", 64, 64, 8, 2, 0, 0, 0)
    return png_of([bytes(1 + 3 * 64)] * 32, header)


def without_intervals(first: int, count: int) -> bytes:
    """A JPEG that has lost some of the parts between its restart markers."""
    whole = encoded("JPEG", quality=80, restart_marker_blocks=5)
    start = scan_start(whole)
    marks = [at for at in range(start, len(whole) - 1) if whole[at] == 0xFF and 0xD0 <= whole[at + 1] <= 0xD7]
    return whole[: marks[first]] + whole[marks[first + count] :]


def twice_as_tall() -> bytes:
    whole = bytearray(encoded("JPEG"))
    at = whole.index(b"\xff\xc0")
    whole[at + 5 : at + 7] = struct.pack(">H", 400)
    return bytes(whole)


def flipped_jpeg() -> bytes:
    """A JPEG with one wrong bit that makes libjpeg meet a code that does not exist."""
    whole = encoded("JPEG", quality=90, optimize=True)
    start = scan_start(whole)
    data = bytearray(whole)
    data[start + 100 : start + 140] = b"\xfe" * 40
    return bytes(data)


def flipped_png() -> bytes:
    """A PNG whose pixel data do not match their checksum, which Pillow does not look at."""
    data = bytearray(encoded("PNG"))
    data[data.rindex(b"IEND") - 5] ^= 16
    return bytes(data)


DAMAGED: dict[str, tuple[Callable[[], bytes], str, str]] = {
    "jpeg ends at half": (lambda: cut_jpeg(0.5), "truncated", "about the lower half of the image is missing"),
    "jpeg ends at a tenth": (
        lambda: cut_jpeg(0.1),
        "truncated",
        "about the lower nine tenths of the image are missing",
    ),
    "jpeg without an end": (lambda: cut_jpeg(0.5)[:-2], "truncated", "about the lower half of the image is missing"),
    "grey jpeg": (lambda: cut_jpeg(0.5, image=face().convert("L")), "truncated", "about the lower half"),
    "progressive jpeg": (lambda: cut_jpeg(0.5, progressive=True), "corrupt", "a part of the image is wrong"),
    "jpeg with zeros": (lambda: zeroed(encoded("JPEG"))[:-2] + END, "corrupt", "about the lower"),
    "progressive jpeg with zeros": (
        lambda: zeroed(encoded("JPEG", progressive=True), 0.8)[:-2] + END,
        "corrupt",
        "a part of the image is wrong; zeros stand in the place of its coded data",
    ),
    "jpeg in text mode": (lambda: encoded("JPEG").replace(b"\n", b"\r\n"), "corrupt", "a transfer in text mode"),
    "jpeg without some rows": (lambda: without_intervals(10, 11), "corrupt", "of the image is missing"),
    "jpeg twice as tall": (twice_as_tall, "truncated", "about the lower half of the image is missing"),
    "jpeg with wrong bytes": (flipped_jpeg, "corrupt", "a part of the image is wrong"),
    "half a png": (half_png, "truncated", "about the lower half of the image is missing"),
    "png with a wrong bit": (flipped_png, "corrupt", "checksum"),
    "webp with zeros": (lambda: zeroed(encoded("WEBP", quality=80)), "corrupt", "about the lower half of the image"),
    "lossless webp with zeros": (lambda: zeroed(encoded("WEBP", lossless=True)), "corrupt", "about the lower half"),
    "avif with zeros": (lambda: zeroed(encoded("AVIF")), "corrupt", "about the lower half of the image is missing"),
    "heic with zeros": (lambda: zeroed(encoded("HEIF")), "corrupt", "about the lower half of the image is missing"),
    "jp2 with zeros": (lambda: zeroed(encoded("JPEG2000"), 0.5, 0.75), "corrupt", "about 25 % of the image is missing"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_data_is_one_record_that_says_what_is_missing(kind: str) -> None:
    make, code, sentence = DAMAGED[kind]
    found, message = refusal(make())
    assert (found, sentence in message) == (code, True), message
    assert ": " not in message


@pytest.mark.parametrize("kind", [kind for kind in DAMAGED if kind != "jpeg in text mode"])
def test_damaged_images_are_scored_on_request_and_marked(kind: str) -> None:
    marked = facts(DAMAGED[kind][0](), Damaged.SCORE)
    assert marked.damaged
    assert marked.missing is None or 0 < marked.missing < 1


def test_every_shared_example_is_refused_and_can_be_scored(shared: Path) -> None:
    folder = shared / "data" / "failing" / "damage"
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        if path.suffix == ".heic":
            pytest.importorskip("pillow_heif", reason="needs the extra heif")
        assert refusal(data)[0] in ("truncated", "corrupt"), path.name
        assert facts(data, Damaged.SCORE).damaged, path.name


def test_a_wrong_bit_in_heic_is_refused() -> None:
    whole = encoded("HEIF", quality=80)
    start = whole.index(b"mdat") + 40
    refused = 0
    for at in range(start, len(whole), (len(whole) - start) // 10):
        data = bytearray(whole)
        data[at] ^= 8
        try:
            decode(bytes(data), MANY)
        except ImageError:
            refused += 1
    assert refused >= 8  # the rest falls into step again within its row


def test_an_image_that_lacks_its_last_row_of_blocks_is_scored_and_says_so() -> None:
    whole = encoded("JPEG", face(208), quality=85, subsampling=0, restart_marker_rows=1)
    last = max(at for at in range(len(whole) - 1) if whole[at] == 0xFF and 0xD0 <= whole[at + 1] <= 0xD7)
    marked = facts(whole[:last] + END)
    assert marked.damaged
    assert marked.missing == pytest.approx(8 / 208)


@pytest.mark.parametrize(
    "harmless",
    [
        lambda data: data + b"\0\0\0\x18ftypmp42" + bytes(5000),
        lambda data: data + data,
        lambda data: data + b"\n\r\n trailing words",
        lambda data: data[:-2],
        lambda data: data[:-2] + bytes(40) + END,
        lambda data: data[:2] + b"\xff\xe0\0\x10JFIF\0\x09\x09\0\0\1\0\1\0\0" + data[20:],
        lambda data: data[: data.index(b"\xff\xdb")] + b"\x11\x22\x33" + data[data.index(b"\xff\xdb") :],
    ],
    ids=["motion photo", "second image", "words", "no end mark", "padding", "strange version", "junk before the scan"],
)
def test_what_harms_no_pixel_is_scored_without_a_mark(harmless: Callable[[bytes], bytes]) -> None:
    whole = encoded("JPEG", quality=85)
    decoded = decode(harmless(whole), MANY)
    assert not decoded.facts.damaged
    assert decoded.image.tobytes() == Image.open(io.BytesIO(whole)).tobytes()


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{"subsampling": 0}, {"subsampling": 1}, {"subsampling": 2, "progressive": True}])
@pytest.mark.parametrize("draft", [0, 48])
def test_jpeg_pixels_are_those_of_pillow(mode: str, options: dict[str, int], draft: int) -> None:
    data = encoded("JPEG", face(203).convert(mode), quality=83, **options)
    with Image.open(io.BytesIO(data)) as image:
        if draft:
            image.draft("RGB", (draft, draft))
        expected = image.convert("RGB")
    assert decode(data, MANY, draft_side=draft).image.tobytes() == expected.tobytes()


FLAT = st.sampled_from([0, 1, 127, 128, 255])


@st.composite
def pictures(draw: st.DrawFn) -> Image.Image:
    """A flat image, a gradient, noise, or noise with a flat part: what coders turn into few or odd bytes."""
    width, height = draw(st.integers(1, 140)), draw(st.integers(1, 140))
    kind = draw(st.sampled_from(["flat", "gradient", "noise", "part"]))
    pixels = np.full((height, width, 3), draw(FLAT), dtype=np.uint8)
    if kind == "gradient":
        pixels[:] = np.linspace(0, 255, width)[None, :, None]
    elif kind != "flat":
        top, bottom = (0, height) if kind == "noise" else sorted((draw(st.integers(0, height)), height // 2))
        noise = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 256, (bottom - top, width, 3))
        pixels[top:bottom] = noise
    return Image.fromarray(pixels)


JPEG = st.fixed_dictionaries(
    {
        "quality": st.integers(1, 100),
        "subsampling": st.integers(0, 2),
        "progressive": st.booleans(),
        "optimize": st.booleans(),
        "restart_marker_blocks": st.integers(0, 20),
    }
)
WEBP = st.fixed_dictionaries(
    {"quality": st.integers(0, 100), "lossless": st.booleans(), "method": st.integers(0, 6)},
)


@settings(deadline=None, max_examples=150)
@given(
    image=pictures(),
    coding=st.one_of(
        st.tuples(st.just("JPEG"), JPEG),
        st.tuples(st.just("WEBP"), WEBP),
        st.tuples(st.just("PNG"), st.fixed_dictionaries({"compress_level": st.integers(0, 9)})),
        st.tuples(st.just("AVIF"), st.fixed_dictionaries({"quality": st.integers(0, 100), "speed": st.just(10)})),
        st.tuples(st.just("JPEG2000"), st.fixed_dictionaries({"irreversible": st.booleans()})),
    ),
    mode=st.sampled_from(["RGB", "L"]),
)
def test_no_whole_file_is_refused_or_marked(
    image: Image.Image, coding: tuple[str, dict[str, object]], mode: str
) -> None:
    container, options = coding
    assert not facts(encoded(container, image.convert(mode), **options)).damaged


@settings(deadline=None, max_examples=25)
@given(image=pictures(), quality=st.integers(1, 100))
def test_no_whole_heic_is_refused_or_marked(image: Image.Image, quality: int) -> None:
    large = image.resize((max(image.width, 64), max(image.height, 64)))
    assert not facts(encoded("HEIF", large, quality=quality)).damaged


@pytest.mark.parametrize(("width", "height", "quality", "method"), [(1024, 1024, 10, 4), (64, 1500, 100, 0)])
def test_a_smooth_image_that_webp_codes_in_zeros_is_not_refused(
    width: int, height: int, quality: int, method: int
) -> None:
    gradient = Image.linear_gradient("L").rotate(90).resize((width, height)).convert("RGB")
    assert not facts(encoded("WEBP", gradient, quality=quality, method=method)).damaged


@given(width=st.integers(1, 40), height=st.integers(1, 40), depth=st.sampled_from([1, 2, 4, 8, 16]))
def test_no_whole_interlaced_png_is_refused(width: int, height: int, depth: int) -> None:
    rows = []
    for top, left, down, right in (
        (0, 0, 8, 8),
        (0, 4, 8, 8),
        (4, 0, 8, 4),
        (0, 2, 4, 4),
        (2, 0, 4, 2),
        (0, 1, 2, 2),
        (1, 0, 2, 1),
    ):
        lines, columns = len(range(top, height, down)), len(range(left, width, right))
        rows += [bytes(1 + (columns * depth + 7) // 8)] * (lines if columns else 0)
    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 1)
    assert not facts(png_of(rows, header)).damaged
    if len(rows) > 1:
        assert refusal(png_of(rows[:-1], header))[0] == "truncated"


@given(share=st.floats(0.001, 1), lower=st.booleans())
def test_the_missing_part_is_a_clause_that_names_a_share_near_the_true_one(share: float, lower: bool) -> None:
    clause = missing_part(share, is_lower=lower)
    assert clause.endswith(("of the image is missing", "of the image are missing", "whole image is missing"))
    if "%" in clause:
        percent = int(clause.split(" %")[0].split()[-1])
        assert percent == pytest.approx(100 * share, abs=1)


def test_the_choice_reaches_the_decoder(tmp_path: Path) -> None:
    path = tmp_path / "half.png"
    path.write_bytes(half_png())
    results = []
    for damaged in Damaged:
        spec = LoadSpec(views={"whole": ViewSpec(size=32)}, inputs=InputSpec(damaged=damaged), workers=1, ahead=1)
        results += load([Input(str(path))], spec)
    refused, marked = results
    assert isinstance(refused, Unreadable)
    assert isinstance(marked, Loaded)
    assert (marked.facts.damaged, marked.facts.missing) == (True, 0.5)


def broken_at_its_markers(generator: np.random.Generator, whole: bytes) -> bytes:
    """A JPEG with a wrong byte, lost ones or doubled ones at two markers, where libjpeg may give up in the middle."""
    data = bytearray(whole)
    markers = [at for at in range(len(data) - 1) if data[at] == 0xFF and data[at + 1] in (0xC0, 0xC2, 0xC4, 0xDA, 0xDB)]
    for at in generator.choice(markers, 2):
        match generator.integers(3):
            case 0:
                data[at + 2 + generator.integers(18)] = generator.integers(256)
            case 1:
                del data[at : at + generator.integers(1, 40)]
            case _:
                other = generator.choice(markers)
                data[at:at] = data[other : other + generator.integers(2, 300)]
    return bytes(data)


def test_a_damaged_jpeg_has_the_same_pixels_whatever_was_in_memory() -> None:
    generator = np.random.default_rng(5)
    wholes = [encoded("JPEG", progressive=True), encoded("JPEG", subsampling=0), encoded("JPEG", optimize=True)]
    for number in range(600):
        data = broken_at_its_markers(generator, wholes[number % 3])
        found = set()
        for fill in (0, 255):
            memory = [np.full(size, fill, np.uint8) for size in (2**14, 2**16, 2**18)]
            del memory
            try:
                found.add(decode(data, 10**6, damaged=Damaged.SCORE).image.tobytes())
            except ImageError as error:
                found.add(error.message.encode())
        assert len(found) == 1
