"""Image files that say something of their origin, each written byte by byte. `python tests/marked_files.py FOLDER`."""

from __future__ import annotations

import io
import struct
import sys
import zlib
from pathlib import Path

from PIL import Image

IPTC = "http://cv.iptc.org/newscodes/digitalsourcetype/"
A1111 = (
    "portrait of a face, 85mm\nNegative prompt: blurry\nSteps: 30, Sampler: DPM++ 2M, CFG scale: 7, Seed: 12345, "
    "Size: 512x512, Model hash: abc, Model: dreamshaper_8, Version: v1.9.4"
)


def saved(format_: str, **options: object) -> bytes:
    """A small image as Pillow saves it."""
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((48, 48)).convert("RGB").save(buffer, format_, **options)
    return buffer.getvalue()


def with_segment(marker: int, *bodies: bytes) -> bytes:
    """A JPEG with these segments right after its first marker."""
    segments = b"".join(struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body for body in bodies)
    return saved("JPEG")[:2] + segments + saved("JPEG")[2:]


def with_chunk(*chunks: tuple[bytes, bytes], times: int = 1) -> bytes:
    """A PNG with these chunks before its pixels, repeated."""
    whole = saved("PNG")
    packed = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    return whole[:33] + packed * times + whole[33:]  # after the signature and IHDR


def with_text(key: str, text: str) -> bytes:
    """A PNG with one text chunk."""
    return with_chunk((b"tEXt", key.encode() + b"\0" + text.encode()))


def with_riff(kind: bytes, body: bytes) -> bytes:
    """A WebP with one more chunk."""
    whole = saved("WEBP") + kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)
    return whole[:4] + struct.pack("<I", len(whole) - 8) + whole[8:]


def box(kind: bytes, *parts: bytes) -> bytes:
    """A box of the ISO base media format."""
    body = b"".join(parts)
    return struct.pack(">I", len(body) + 8) + kind + body


def cbor(value: object) -> bytes:
    """CBOR of text, small numbers, lists and maps."""
    if isinstance(value, int):
        return bytes([value])
    if isinstance(value, str):
        raw = value.encode()
        return bytes([0x79]) + struct.pack(">H", len(raw)) + raw
    if isinstance(value, list):
        return bytes([0x80 + len(value)]) + b"".join(map(cbor, value))
    assert isinstance(value, dict)
    return bytes([0xA0 + len(value)]) + b"".join(cbor(key) + cbor(item) for key, item in value.items())


def labelled(label: str, *parts: bytes) -> bytes:
    """A JUMBF superbox."""
    return box(b"jumb", box(b"jumd", bytes(16), b"\3", label.encode(), b"\0"), *parts)


def manifest(*actions: dict[str, str], generator: str = "Some Camera") -> bytes:
    """A C2PA manifest store of one manifest, unsigned."""
    assertion = labelled("c2pa.actions.v2", box(b"cbor", cbor({"actions": list(actions)})))
    claim = labelled("c2pa.claim.v2", box(b"cbor", cbor({"claim_generator_info": {"name": generator}})))
    return labelled("c2pa", labelled("urn:c2pa:1", labelled("c2pa.assertions", assertion), claim))


CREATED = {"action": "c2pa.created", "digitalSourceType": f"{IPTC}trainedAlgorithmicMedia"}
CAPTURED = {"action": "c2pa.created", "digitalSourceType": f"{IPTC}digitalCapture"}


def in_app11(store: bytes, size: int = 100) -> bytes:
    """A JPEG with a JUMBF box cut into segments, which stand in reverse."""
    head, rest = store[:8], store[8:]
    pieces = [rest[at : at + size] for at in range(0, len(rest), size)]
    bodies = [b"JP\0\1" + struct.pack(">I", number + 1) + head + piece for number, piece in enumerate(pieces)]
    return with_segment(0xEB, *reversed(bodies))


def xmp(properties: str) -> bytes:
    """An XMP packet with these attributes."""
    spaces = {
        "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
        "photoshop": "http://ns.adobe.com/photoshop/1.0/",
        "xmp": "http://ns.adobe.com/xap/1.0/",
        "dcterms": "http://purl.org/dc/terms/",
    }
    declared = " ".join(f'xmlns:{name}="{uri}"' for name, uri in spaces.items())
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f"<rdf:Description {declared} {properties}/></rdf:RDF></x:xmpmeta>"
    ).encode()


def in_app1(packet: bytes) -> bytes:
    """A JPEG with an XMP packet."""
    return with_segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + packet)


def in_extended_xmp(packet: bytes) -> bytes:
    """A JPEG whose XMP packet lies in two parts, the second first."""
    half = len(packet) // 2
    head = b"http://ns.adobe.com/xmp/extension/\0" + b"0123456789ABCDEF" * 2 + struct.pack(">I", len(packet))
    return with_segment(0xE1, *(head + struct.pack(">I", at) + packet[at : at + half + 1] for at in (half + 1, 0)))


def exif(tags: dict[int, str], comment: bytes = b"", note: bytes = b"") -> bytes:
    """An EXIF block."""
    block = Image.Exif()
    for tag, text in tags.items():
        block[tag] = text
    inner = block.get_ifd(0x8769)
    if comment:
        inner[0x9286] = comment
    if note:
        inner[0x927C] = note
    return block.tobytes()


def heif(*parts: bytes) -> bytes:
    """The boxes of an AVIF file without pixels."""
    return box(b"ftyp", b"avif", bytes(4), b"mif1") + b"".join(parts)


def heif_items(*items: tuple[bytes, bytes, bytes]) -> bytes:
    """A HEIF file with items: kind, MIME type, content."""
    infos = b"".join(
        box(b"infe", b"\2\0\0\0", struct.pack(">HH", number, 0), kind, b"\0", mime, b"\0")
        for number, (kind, mime, _) in enumerate(items, start=1)
    )
    iinf = box(b"iinf", bytes(4), struct.pack(">H", len(items)), infos)
    size = 8 + 8 + len(items) * 14
    at = len(heif()) + 12 + len(iinf) + size + 8
    places = b""
    for number, (_, _, content) in enumerate(items, start=1):
        places += struct.pack(">HHHII", number, 0, 1, at, len(content))
        at += len(content)
    iloc = box(b"iloc", bytes(4), b"\x44\0", struct.pack(">H", len(items)), places)
    return heif(box(b"meta", bytes(4), iinf, iloc), box(b"mdat", *(content for _, _, content in items)))


def gif_application(name: bytes, body: bytes, *, blocks: bool) -> bytes:
    """A GIF with an application extension before its pixels."""
    whole = saved("GIF")
    colours = 3 << (whole[10] & 7) + 1 if whole[10] & 0x80 else 0
    at = 13 + colours
    pieces = [body[start : start + 255] for start in range(0, len(body), 255)]
    packed = b"".join(bytes([len(piece)]) + piece for piece in pieces) if blocks else body
    return whole[:at] + b"!\xff\x0b" + name + packed + b"\0" + whole[at:]


def resource(number: int, content: bytes) -> bytes:
    """A Photoshop image resource block."""
    return (
        b"8BIM"
        + struct.pack(">H", number)
        + b"\0\0"
        + struct.pack(">I", len(content))
        + content
        + b"\0" * (len(content) % 2)
    )


C2PA_UUID = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
_STORE = manifest(CREATED)
_TRAINED = xmp(f'Iptc4xmpExt:DigitalSourceType="{IPTC}trainedAlgorithmicMedia"')
_USER_COMMENT = b"UNICODE\0" + A1111.encode("utf-16-be")
_FLUX = exif({0x010F: "flux"})
_COMFYUI = (
    '{"3": {"class_type": "KSampler", "inputs": {"seed": 7, "steps": 20, "sampler_name": "euler", "model": ["4", 0]}, '
    '"is_changed": [NaN]}, "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd_xl.safetensors"}},'
    ' "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a face"}}}'
)

# Name -> file and the kind of the mark that it carries; all of them are synthetic.
SYNTHETIC: dict[str, tuple[bytes, str]] = {
    "jpeg-app11": (in_app11(_STORE), "c2pa"),
    "png-cabx": (with_chunk((b"caBX", _STORE)), "c2pa"),
    "webp-c2pa": (with_riff(b"C2PA", _STORE), "c2pa"),
    "avif-uuid": (heif(box(b"uuid", C2PA_UUID, bytes(4), b"manifest\0", bytes(8), _STORE)), "c2pa"),
    "gif-c2pa": (gif_application(b"C2PA_GIF\1\0\0", _STORE, blocks=True), "c2pa"),
    "tiff-c2pa": (saved("TIFF", tiffinfo={0xCD41: _STORE}), "c2pa"),
    "jpeg-xmp": (in_app1(_TRAINED), "digital_source"),
    "jpeg-extended-xmp": (in_extended_xmp(_TRAINED), "digital_source"),
    "png-xmp": (with_chunk((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + _TRAINED)), "digital_source"),
    "webp-xmp": (with_riff(b"XMP ", _TRAINED), "digital_source"),
    "gif-xmp": (gif_application(b"XMP DataXMP", _TRAINED, blocks=False), "digital_source"),
    "tiff-xmp": (saved("TIFF", tiffinfo={0x02BC: _TRAINED}), "digital_source"),
    "heif-xmp": (heif_items((b"mime", b"application/rdf+xml", _TRAINED)), "digital_source"),
    "xmp-credit": (in_app1(xmp('photoshop:Credit="Made with Google AI"')), "credit"),
    "xmp-system": (in_app1(xmp('Iptc4xmpExt:AISystemUsed="Some model"')), "ai_system"),
    "iptc-credit": (
        with_segment(0xED, b"Photoshop 3.0\0" + resource(0x0404, b"\x1c\x02\x6e\0\x13Made with Google AI")),
        "credit",
    ),
    "png-a1111": (with_text("parameters", A1111), "a1111"),
    "png-a1111-compressed": (with_chunk((b"zTXt", b"parameters\0\0" + zlib.compress(A1111.encode()))), "a1111"),
    "png-a1111-international": (
        with_chunk((b"iTXt", b"parameters\0\1\0\0\0" + zlib.compress(A1111.encode()))),
        "a1111",
    ),
    "jpeg-a1111": (saved("JPEG", exif=exif({}, comment=_USER_COMMENT)), "a1111"),
    "webp-a1111": (saved("WEBP", exif=exif({}, comment=_USER_COMMENT)), "a1111"),
    "jpeg-comment": (with_segment(0xFE, A1111.encode()), "a1111"),
    "png-comfyui": (with_text("prompt", _COMFYUI), "comfyui"),
    "webp-comfyui": (saved("WEBP", exif=exif({0x0110: f"prompt:{_COMFYUI}"})), "comfyui"),
    "png-invokeai": (
        with_text("invokeai_metadata", '{"app_version": "4.2", "seed": 5, "model": {"name": "juggernaut"}}'),
        "invokeai",
    ),
    "png-novelai": (
        with_chunk(
            (b"tEXt", b"Software\0NovelAI"),
            (b"tEXt", b"Description\0a face"),
            (b"tEXt", b'Comment\0{"steps": 28, "seed": 9, "sampler": "k_euler"}'),
        ),
        "novelai",
    ),
    "png-fooocus": (with_text("parameters", '{"prompt": "a face", "seed": "3", "version": "Fooocus v2.3"}'), "fooocus"),
    "jpeg-draw-things": (
        saved("JPEG", exif=exif({}, comment=b'ASCII\0\0\0{"c": "a face", "model": "m", "sampler": "s", "seed": 1}')),
        "draw_things",
    ),
    "png-midjourney": (
        with_text("Description", "a face --v 6.1 Job ID: 0f8fad5b-d9cb-469f-a165-70867728950e"),
        "midjourney",
    ),
    "png-swarmui": (with_text("parameters", '{"sui_image_params": {"prompt": "a face", "seed": 1}}'), "swarmui"),
    "png-prompt": (with_text("anything", '{"prompt": "a face", "seed": 1}'), "prompt_json"),
    "jpeg-make": (saved("JPEG", exif=_FLUX), "exif"),
    "png-exif": (saved("PNG", exif=_FLUX), "exif"),
    "webp-exif": (saved("WEBP", exif=_FLUX), "exif"),
    "heif-exif": (heif_items((b"Exif", b"", bytes(4) + _FLUX.removeprefix(b"Exif\0\0"))), "exif"),
    "tiff-make": (saved("TIFF", tiffinfo={0x010F: "flux"}), "exif"),
    "xmp-tool": (in_app1(xmp('xmp:CreatorTool="Adobe Firefly"')), "xmp"),
}


if __name__ == "__main__":
    for _name, (_data, _) in SYNTHETIC.items():
        (Path(sys.argv[1]) / _name).write_bytes(_data)
