"""What files say of their own origin: every kind is found in every container, whatever is damaged ends in one mark."""

from __future__ import annotations

import csv
import io
import struct
import time
import tracemalloc
import zlib
from pathlib import Path

import marked_files as files
import pytest
from PIL import Image

from muflow_cli.images.marks import MARKS, read_marks
from muflow_cli.images.metadata.cbor import BadCbor, decode
from muflow_cli.images.metadata.names import DIGITAL_SOURCES, digital_source, is_camera, software_claim
from muflow_cli.images.thumbnails import thumbnail_mark
from muflow_cli.records import Declared, Mark, Origin, Trust


def kinds(data: bytes) -> list[str]:
    return [mark.kind for mark in read_marks(data).marks]


def only(data: bytes, kind: str) -> Mark:
    (mark,) = (mark for mark in read_marks(data).marks if mark.kind == kind)
    return mark


@pytest.mark.parametrize("name", files.SYNTHETIC)
def test_a_mark_is_found_wherever_its_container_keeps_it(name: str) -> None:
    data, kind = files.SYNTHETIC[name]
    assert only(data, kind).claim is Origin.SYNTHETIC
    assert read_marks(data).origin is Origin.SYNTHETIC
    assert "unread" not in kinds(data)


def test_every_kind_of_mark_has_a_file_here() -> None:
    elsewhere = {"c2pa_elsewhere", "maker_note", "photoshop", "unread"}
    assert {kind for _, kind in files.SYNTHETIC.values()} | elsewhere == set(MARKS)


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
def test_a_file_without_metadata_says_nothing(format_: str) -> None:
    assert read_marks(files.saved(format_)).origin is Origin.NONE


def test_bytes_of_no_image_say_nothing() -> None:
    assert read_marks(b"") == read_marks(b"some text") == Declared()


def test_the_settings_of_a_generator_are_told_apart() -> None:
    detail = only(files.with_text("parameters", files.A1111), "a1111").detail
    assert detail == {
        "generator": "1.9.4",
        "model": "dreamshaper_8",
        "sampler": "DPM++ 2M",
        "seed": "12345",
        "steps": "30",
        "prompt": "portrait of a face, 85mm",
    }
    comfyui = only(files.SYNTHETIC["png-comfyui"][0], "comfyui").detail
    assert (comfyui["model"], comfyui["seed"], comfyui["prompt"]) == ("sd_xl.safetensors", "7", "a face")


def test_a_prompt_is_cut_and_holds_nothing_that_moves_a_terminal() -> None:
    hostile = '{"prompt": "\\u001b[2J\\u202e\\n' + "x" * 5000 + '", "seed": 1}'
    prompt = only(files.with_text("parameters", hostile), "prompt_json").detail["prompt"]
    assert len(prompt) == 200
    assert prompt.isprintable()


def test_the_strongest_claim_is_the_origin() -> None:
    camera = files.exif({0x010F: "Canon", 0x0110: "EOS 5D"}, note=b"x" * 20)
    edited = files.exif({0x010F: "Canon", 0x0110: "EOS 5D", 0x0131: "Adobe Photoshop 24.0"}, note=b"x" * 20)
    synthetic = files.exif(
        {0x010F: "Canon", 0x0131: "Adobe Photoshop 24.0"}, comment=b"ASCII\0\0\0" + files.A1111.encode()
    )
    origins = [read_marks(files.saved("JPEG", exif=block)).origin for block in (camera, edited, synthetic)]
    assert origins == [Origin.CAMERA, Origin.EDITED, Origin.SYNTHETIC]


def test_a_photoshop_block_is_an_edit_but_a_caption_is_none() -> None:
    caption = files.with_segment(0xED, b"Photoshop 3.0\0" + files.resource(0x0404, b"\x1c\x02\x78\0\4text"))
    edited = files.with_segment(0xED, b"Photoshop 3.0\0" + files.resource(0x03ED, bytes(16)))
    assert read_marks(caption).origin is Origin.NONE
    assert only(edited, "photoshop").claim is Origin.EDITED


def test_actions_and_sources_of_a_manifest_make_its_claim() -> None:
    def claim(*actions: dict[str, str]) -> Origin:
        return only(files.with_riff(b"C2PA", files.manifest(*actions)), "c2pa").claim

    assert claim(files.CAPTURED) is Origin.CAMERA
    assert claim(files.CAPTURED, {"action": "c2pa.color_adjustments"}) is Origin.EDITED
    assert claim(files.CREATED, {"action": "c2pa.color_adjustments"}) is Origin.SYNTHETIC
    assert claim({"action": "c2pa.opened"}, {"action": "c2pa.converted"}) is Origin.NONE
    assert claim({"action": "c2pa.created", "softwareAgent": "DALL·E"}) is Origin.SYNTHETIC


def test_a_manifest_that_lies_elsewhere_is_named_and_not_fetched() -> None:
    data = files.in_app1(files.xmp('dcterms:provenance="https://example.com/manifest"'))
    assert only(data, "c2pa_elsewhere").detail["reason"] == "not fetched"
    assert read_marks(data).origin is Origin.NONE


@pytest.mark.parametrize("name", DIGITAL_SOURCES)
def test_a_digital_source_type_is_known_in_any_spelling(name: str) -> None:
    expected = (name, DIGITAL_SOURCES[name])
    assert (
        digital_source(files.IPTC + name)
        == digital_source(name.upper())
        == digital_source(f"digsrctype:{name}")
        == expected
    )


def test_an_unknown_digital_source_type_claims_nothing() -> None:
    assert digital_source(files.IPTC + "somethingNew") == ("somethingNew", Origin.NONE)


@pytest.mark.parametrize(
    ("name", "claim"),
    [
        ("flux", Origin.SYNTHETIC),
        ("FLUX.1-dev", Origin.SYNTHETIC),
        ("Adobe Firefly", Origin.SYNTHETIC),
        ("DALL·E 3", Origin.SYNTHETIC),
        ("Adobe Photoshop CS2 Macintosh", Origin.EDITED),
        ("GIMP 2.10.30", Origin.EDITED),
        ("f.lux", Origin.NONE),
        ("Influx Camera", Origin.NONE),
        ("Ver.1.00", Origin.NONE),
        ("HDR+ 1.0.300", Origin.NONE),
        ("Editor de imagen", Origin.NONE),
    ],
)
def test_a_program_is_what_its_name_says(name: str, claim: Origin) -> None:
    assert software_claim(name) is claim


def test_makers_of_cameras_are_known_by_their_names() -> None:
    assert all(map(is_camera, ("Canon", "NIKON CORPORATION", "SAMSUNG", "Apple", "LG Electronics", "HP")))
    assert not any(map(is_camera, ("flux", "Applesauce", "")))


HOSTILE = {
    "a million chunks": lambda: files.with_chunk((b"tEXt", b""), times=1_000_000),
    "50 MB of text": lambda: files.with_chunk((b"tEXt", b"parameters\0" + b"{" * 50_000_000)),
    "50 MB of XMP": lambda: files.with_riff(b"XMP ", files.xmp("") + b" " * 50_000_000),
    "deflate bomb in zTXt": lambda: files.with_chunk((b"zTXt", b"prompt\0\0" + zlib.compress(bytes(20_000_000)))),
    "deflate bomb in iTXt": lambda: files.with_chunk((b"iTXt", b"a\0\1\0\0\0" + zlib.compress(bytes(20_000_000)))),
    "deep JSON": lambda: files.with_text("prompt", '{"a":' * 100_000),
    "deep JUMBF": lambda: files.with_riff(b"C2PA", _nested(2_000)),
    "cut JUMBF": lambda: files.with_riff(b"C2PA", files.manifest(files.CREATED)[:150]),
    "long CBOR": lambda: files.with_riff(
        b"C2PA",
        files.labelled(
            "c2pa", files.labelled("m", files.labelled("c2pa.claim", files.box(b"cbor", b"\x9a\xff\xff\xff\xff")))
        ),
    ),
    "entities": lambda: files.in_app1(b'<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;">]><a>&c;</a>'),
    "deep XML": lambda: files.in_app1(b"<a>" * 10_000),
    "cut segment": lambda: files.with_segment(0xE1, b"Exif\0\0II*\0")[:30],
}


def _nested(depth: int) -> bytes:
    inner = b""
    for _ in range(depth):
        inner = files.labelled("c2pa", inner)
    return inner


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_metadata_costs_little_and_leaves_one_mark(name: str) -> None:
    data = HOSTILE[name]()
    begun = time.process_time()
    marks = read_marks(data).marks
    assert time.process_time() - begun < 1
    assert [mark.kind for mark in marks if mark.kind != "c2pa"] in ([], ["unread"])


@pytest.mark.parametrize("name", ["50 MB of text", "50 MB of XMP", "deflate bomb in zTXt", "deep JUMBF", "long CBOR"])
def test_hostile_metadata_takes_little_memory(name: str) -> None:
    data = HOSTILE[name]()
    tracemalloc.start()
    read_marks(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 * 2**20


def test_damage_is_named_once() -> None:
    broken = files.with_segment(0xE1, *[b"http://ns.adobe.com/xap/1.0/\0<x"] * 5)
    assert kinds(broken) == ["unread"]


def test_cbor_of_an_unknown_length_and_tags_are_read() -> None:
    assert decode(b"\xbf\x61a\x9f\x01\x20\xff\x61b\x7f\x61x\x61y\xff\xff") == {"a": [1, -1], "b": "xy"}
    assert decode(b"\xc0\x74" + b"2026-01-01T00:00:00Z") == "2026-01-01T00:00:00Z"
    assert decode(b"\xfb" + struct.pack(">d", 1.5)) == 1.5


@pytest.mark.parametrize(
    "raw", [b"", b"\x1c", b"\x5b" + b"\xff" * 8, b"\x81" * 100, b"\x9f" + b"\x00" * 30_000, b"\x1f"]
)
def test_bad_cbor_is_refused(raw: bytes) -> None:
    with pytest.raises(BadCbor):
        decode(raw)


def scene(side: int = 300) -> Image.Image:
    """A picture with a direction: bright at the left, darker at the top."""
    slope = Image.linear_gradient("L").resize((side, side))
    return Image.merge("RGB", [slope.rotate(90), slope, slope.rotate(90)])


def with_thumbnail(image: Image.Image, thumbnail: Image.Image) -> bytes:
    small = io.BytesIO()
    thumbnail.save(small, "JPEG")
    first = struct.pack("<HI", 0, 14)  # an empty directory, then the offset of the next
    entries = struct.pack("<HHIIHHIII", 0x0201, 4, 1, 44, 0x0202, 4, 1, len(small.getvalue()), 0)
    block = b"Exif\0\0II*\0" + struct.pack("<I", 8) + first + struct.pack("<H", 2) + entries
    assert len(block) - 6 == 44
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", exif=block + small.getvalue())
    return buffer.getvalue()


def test_a_thumbnail_of_the_same_picture_is_no_mark_turned_or_letterboxed() -> None:
    small = scene(120)
    letterboxed = Image.new("RGB", (160, 120))
    letterboxed.paste(small.resize((160, 90)), (0, 15))
    for thumbnail in (small, small.rotate(90), small.rotate(180), letterboxed):
        assert thumbnail_mark(with_thumbnail(scene(), thumbnail), scene()) is None


def test_a_thumbnail_of_another_picture_is_a_mark() -> None:
    other = Image.radial_gradient("L").resize((120, 120)).convert("RGB")
    mark = thumbnail_mark(with_thumbnail(scene(), other), scene())
    assert mark is not None
    assert mark.claim is Origin.EDITED


def test_a_thumbnail_that_is_damaged_or_flat_says_nothing() -> None:
    flat = with_thumbnail(scene(), Image.new("RGB", (120, 120), "grey"))
    damaged = with_thumbnail(scene(), scene(120)).replace(b"\xff\xc0", b"\xff\xc5", 1)
    assert thumbnail_mark(flat, scene()) is None
    assert thumbnail_mark(damaged, scene()) is None
    assert thumbnail_mark(files.saved("PNG"), scene()) is None


def test_the_collected_examples_are_read_as_their_list_says(shared: Path) -> None:
    with (shared / "data/marked/EXPECTED.csv").open(newline="") as listed:
        for row in csv.DictReader(listed):
            declared = read_marks((shared / "data/marked" / row["file"]).read_bytes())
            claims = {mark.kind: mark.claim for mark in declared.marks}
            assert declared.origin.value == row["origin"], row["file"]
            assert not row["kind"] or claims[row["kind"]].value == row["origin"], row["file"]


def test_an_unsigned_manifest_is_not_trusted() -> None:
    assert only(files.SYNTHETIC["png-cabx"][0], "c2pa").trust in (Trust.NOT_VERIFIED, Trust.INVALID)
