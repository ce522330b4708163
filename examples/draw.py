"""Make the examples that are not photographs: `python examples/draw.py FOLDER` writes them again.

Every machine with the same Pillow writes the same files.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from PIL import Image, ImageDraw, ImageOps, PngImagePlugin

_PHOTOGRAPH: Final = Path(__file__).parent / "eileen_collins.jpg"
_SIDE: Final = 320
_SKIN, _HAIR, _BACK, _INK = (224, 178, 150), (70, 46, 34), (120, 140, 160), (40, 30, 30)
# IPTC's word for an image that a program made from a formula (https://cv.iptc.org/newscodes/digitalsourcetype/).
_DECLARED: Final = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
    'Iptc4xmpExt:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/algorithmicMedia"/>'
    "</rdf:RDF></x:xmpmeta>"
)


def drawn_face() -> Image.Image:
    """A face of ellipses, drawn four times too large and then reduced, so that its edges are smooth."""
    large = Image.new("RGB", (4 * _SIDE, 4 * _SIDE), _BACK)
    pen = ImageDraw.Draw(large)
    pen.ellipse((330, 180, 950, 1000), fill=_HAIR)
    pen.ellipse((390, 290, 890, 1050), fill=_SKIN)
    for x in (530, 750):
        pen.ellipse((x - 55, 560, x + 55, 630), fill="white")
        pen.ellipse((x - 28, 567, x + 28, 623), fill=_INK)
        pen.arc((x - 75, 490, x + 75, 620), 200, 340, fill=_HAIR, width=16)
    pen.line((640, 610, 615, 760, 665, 770), fill=(190, 140, 115), width=12, joint="curve")
    pen.chord((540, 800, 740, 920), 10, 170, fill=(170, 70, 70))
    return large.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)


def three_faces() -> Image.Image:
    """The photograph, its mirror image, and a smaller one that leans to the right."""
    with Image.open(_PHOTOGRAPH) as opened:
        photograph = opened.convert("RGB")
    small = photograph.resize((250, 250), Image.Resampling.LANCZOS)
    small = small.rotate(-15, Image.Resampling.BICUBIC, expand=True, fillcolor=_INK)
    sheet = Image.new("RGB", (2 * _SIDE + small.width, _SIDE), _INK)
    sheet.paste(photograph, (0, 0))
    sheet.paste(ImageOps.mirror(photograph), (_SIDE, 0))
    sheet.paste(small, (2 * _SIDE, (_SIDE - small.height) // 2))
    return sheet


def main(folder: Path) -> None:
    """Write the drawn face, the three faces and the broken file."""
    declared = PngImagePlugin.PngInfo()
    declared.add_itxt("XML:com.adobe.xmp", _DECLARED)
    drawn_face().save(folder / "declared_synthetic.png", optimize=True, pnginfo=declared)
    three_faces().save(folder / "three_faces.jpg", quality=90)
    whole = _PHOTOGRAPH.read_bytes()
    (folder / "broken.jpg").write_bytes(whole[: len(whole) // 3])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
