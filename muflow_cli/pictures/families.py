"""Families of generators: the paper's three, by a small table that a file can extend or overrule."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from muflow_cli.pictures.manifest import read_table

GANS: Final = "GANs"
OPEN_DIFFUSION: Final = "open diffusion"
CLOSED_DIFFUSION: Final = "closed diffusion"
OTHER: Final = "other"

# Names without case and punctuation. The paper's 19 generators (its published evaluation script), the rest of WILD's
# closed set, and usual names of the same models elsewhere.
FAMILIES: Final[Mapping[str, str]] = {
    **dict.fromkeys(("stylegan", "stylegan1", "stylegan2", "stylegan3", "stargan", "attgan", "gdwct"), GANS),
    **dict.fromkeys(("progan", "pggan", "stargan2", "starganv2", "biggan", "gaugan", "cyclegan"), GANS),
    **dict.fromkeys(("flux1", "stablediffusion", "stablecascade", "sdattendandexcite"), OPEN_DIFFUSION),
    **dict.fromkeys(("sd14", "sd15", "sd20", "sd21", "sd3", "sd35", "sdxl", "sdv4", "sdv5"), OPEN_DIFFUSION),
    **dict.fromkeys(("ldm", "glide", "adm", "ddpm", "wukong"), OPEN_DIFFUSION),
    **dict.fromkeys(("dalle3", "midjourney", "starryai", "deepai", "hotpotai", "flux11pro"), CLOSED_DIFFUSION),
    **dict.fromkeys(("nvidiasanapag", "tencenthunyuan", "adobefirefly", "freepik", "leonardoai"), CLOSED_DIFFUSION),
}


def family(group: str, families: Mapping[str, str] = FAMILIES) -> str:
    """Family of a group by its name's first words, the most of them and the last folder first; else `other`.

    `Open Set/StyleGAN2`, `stylegan2_300` and `stylegan2-ffhq` are one family; `flux.1.1 pro` is not `flux.1`'s.
    """
    for folder in reversed(group.split("/")):
        words = re.split(r"[\W_]+", folder.casefold())
        for length in range(len(words), 0, -1):
            name = "".join(words[:length])
            if name in families:
                return families[name]
    return OTHER


def read_families(path: str) -> dict[str, str]:
    """The built-in table with the lines of a CSV file (generator,family) put over it.

    Raises:
        BadTable: naming line and column of the first cell that is wrong.
    """
    lines = read_table(path, required=("generator", "family"))
    return {**FAMILIES, **{re.sub(r"[\W_]+", "", cells["generator"].casefold()): cells["family"] for _, cells in lines}}
