"""Tables of names: what cameras, editors and generators write about themselves, and IPTC's digital source types."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from muflow_cli.records import Origin

# https://cv.iptc.org/newscodes/digitalsourcetype (2025) and C2PA 2.2; retired names are still in files. A composite
# with a synthetic part counts as synthetic: the face may be that part. What a person drew or rendered without a
# generative model counts as edited: it is no camera's record, and no model's.
DIGITAL_SOURCES: Final[Mapping[str, Origin]] = {
    "trainedAlgorithmicMedia": Origin.SYNTHETIC,
    "compositeWithTrainedAlgorithmicMedia": Origin.SYNTHETIC,
    "algorithmicMedia": Origin.SYNTHETIC,
    "compositeSynthetic": Origin.SYNTHETIC,
    "virtualRecording": Origin.SYNTHETIC,
    "trainedAlgorithmicData": Origin.SYNTHETIC,
    "algorithmicallyEnhanced": Origin.EDITED,
    "humanEdits": Origin.EDITED,
    "minorHumanEdits": Origin.EDITED,
    "composite": Origin.EDITED,
    "compositeCapture": Origin.EDITED,
    "digitalCreation": Origin.EDITED,
    "digitalArt": Origin.EDITED,
    "softwareImage": Origin.EDITED,
    "dataDrivenMedia": Origin.EDITED,
    "screenCapture": Origin.EDITED,
    "digitalCapture": Origin.CAMERA,
    "computationalCapture": Origin.CAMERA,
    "multipleCapture": Origin.CAMERA,
    "negativeFilm": Origin.CAMERA,
    "positiveFilm": Origin.CAMERA,
    "print": Origin.CAMERA,
    "empty": Origin.NONE,
}
_SOURCES_BY_LOWER: Final = {name.lower(): (name, origin) for name, origin in DIGITAL_SOURCES.items()}


def digital_source(value: str) -> tuple[str, Origin]:
    """A digital source type as IPTC spells it, and the origin it claims; an unknown one claims nothing.

    Args:
        value: an address of the vocabulary, or its last part.
    """
    last = value.strip().rstrip("/").rpartition("/")[2].rpartition(":")[2]
    return _SOURCES_BY_LOWER.get(last.lower(), (last, Origin.NONE))


# Where a word alone would also be a name, a place or a word of another language, the table asks for more of it.
_GENERATORS: Final = (
    "flux(?:[. _-]?[12](?:[. _-]\\w+)*|[. _-](?:dev|pro|schnell|kontext)\\w*)?",
    *("stable[ _-]?diffusion", "sdxl", "stability ?ai", "dreamstudio", "midjourney", "niji ?journey", "dall[ ·.-]?e"),
    *("gpt-4o", "gpt[ -]image", "openai", "chatgpt", "sora", "adobe[ _-]firefly", "google imagen", "imagen [234]"),
    *("google gemini", "nano banana", "made with google ai", "meta ai", "imagined with ai", "made with ai"),
    *("ai[ -]generated", "novel ?ai", "invoke ?ai", "comfy ?ui", "fooocus", "draw things", "swarm ?ui"),
    *("automatic1111", "sd[ -]?webui(?:[ -]forge)?", "easy diffusion", "diffusers", "leonardo[. ]?ai", "ideogram"),
    *("recraft", "playground ai", "krea[. ]ai", "kling ?ai", "seedream", "qwen-image", "hunyuan-?image", "z-image"),
    *("bing image creator", "image creator from (?:microsoft )?designer", "grok", "xai", "nightcafe", "craiyon"),
    *("starryai", "wombo", "pollinations(?:[. ]ai)?", "stylegan ?\\d?", "thispersondoesnotexist", "generated photos"),
    *("artbreeder", "civitai", "tensor\\.art", "seaart", "mage\\.space", "reve image"),
)
_EDITORS: Final = (
    *("photoshop", "lightroom", "adobe camera raw", "adobe bridge", "adobe imageready", "adobe express", "illustrator"),
    *(
        "indesign",
        "gimp",
        "paint\\.net",
        "affinity",
        "pixelmator",
        "snapseed",
        "capture one",
        "darktable",
        "rawtherapee",
    ),
    *("picsart", "canva", "facetune", "meitu\\w*", "beautyplus", "beautycam", "faceapp", "vsco", "luminar", "dxo"),
    *("on1", "corel", "paintshop", "paint shop", "acdsee", "photoscape", "picasa", "irfanview", "imagemagick"),
    *("graphicsmagick", "xnview\\w*", "microsoft office", "microsoft windows (?:photo|live)\\w*", "windows photo\\w*"),
    *("microsoft photo\\w*", "iphoto", "aperture", "topaz", "remini", "polarr", "fotor", "pixlr", "befunky"),
    *("photodirector", "krita", "inkscape", "figma", "quicktime", "photo mechanic", "nikon transfer", "capture nx\\w*"),
    *("viewnx\\w*", "digital photo professional", "silkypix", "photolab", "nero photosnap", "ulead", "photoimpact"),
    *(
        "photofiltre",
        "zoner",
        "fast ?stone",
        "ifranview",
        "skylum",
        "retouch4me",
        "portraitpro",
        "instagram",
        "snapchat",
    ),
)
_CAMERAS: Final = (
    *("canon", "nikon", "sony", "fuji ?film", "fuji", "olympus", "om digital", "panasonic", "leica", "pentax", "ricoh"),
    *("samsung", "apple", "google", "huawei", "xiaomi", "redmi", "oneplus", "oppo", "vivo", "motorola", "lge?", "htc"),
    *("nokia", "hmd", "kodak", "eastman", "casio", "minolta", "konica", "sigma", "hasselblad", "phase one", "dji"),
    *("gopro", "epson", "hewlett-packard", "hp", "polaroid", "mamiya", "leaf", "blackberry", "realme", "honor", "zte"),
    *("asus", "lenovo", "insta360", "nothing", "fairphone", "tecno", "infinix", "sharp", "toshiba", "vivitar", "benq"),
    *("jvc", "kyocera", "contax", "agfa\\w*", "jenoptik", "parrot", "raspberry", "sanyo", "noritsu", "imacon", "zeiss"),
)


def _any_of(names: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(rf"(?<![a-z0-9])(?:{'|'.join(names)})(?![a-z])", re.IGNORECASE)


_CLAIMS: Final = ((_any_of(_GENERATORS), Origin.SYNTHETIC), (_any_of(_EDITORS), Origin.EDITED))
_CAMERA: Final = _any_of(_CAMERAS)


def software_claim(name: str) -> Origin:
    """The origin that a program's name claims: a generator's, an editor's, or none that is known."""
    return next((origin for pattern, origin in _CLAIMS if pattern.search(name[:300])), Origin.NONE)


def is_camera(make: str) -> bool:
    """Whether a maker's name is that of a maker of cameras, phones or scanners."""
    return _CAMERA.search(make[:300]) is not None
