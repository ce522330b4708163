"""Families of generators: the three of the paper, in a small table that a file can extend or change."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from muflow_cli.bench.manifest import read_table

GANS: Final = "GANs"
OPEN_DIFFUSION: Final = "open diffusion"
CLOSED_DIFFUSION: Final = "closed diffusion"
OTHER: Final = "other"

# Names without case and punctuation: the paper's 19 generators (its published evaluation script), the rest of WILD's
# closed set, and common names of the same models elsewhere.
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
    """Family of a group by the longest known sequence of first words, the last folder first; else `other`.

    `Open Set/StyleGAN2`, `stylegan2_300` and `stylegan2-ffhq` are one family; `flux.1.1 pro` does not
    belong to that of `flux.1`.
    """
    for folder in reversed(group.split("/")):
        words = re.split(r"[\W_]+", folder.casefold())
        for length in range(len(words), 0, -1):
            name = "".join(words[:length])
            if name in families:
                return families[name]
    return OTHER


def read_families(path: str) -> dict[str, str]:
    """The built-in table, extended and changed by a CSV file (generator,family).

    Raises:
        BadTable: with the line and column of the first wrong cell.
    """
    lines = read_table(path, required=("generator", "family"))
    return {**FAMILIES, **{re.sub(r"[\W_]+", "", cells["generator"].casefold()): cells["family"] for _, cells in lines}}
