"""The warnings of libde265 about the coded data of a HEIC image, which libheif does not pass on."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

from muflow_cli.images.containers.boxes import CodedItem

# Deblocking and sample-adaptive offset change pixels behind the prediction loop only, so no warning depends on them.
_WITHOUT_FILTERS: Final = (7, 8)  # DE265_DECODER_PARAM_DISABLE_DEBLOCKING, _DISABLE_SAO
_MOST_STEPS: Final = 100  # de265_decode is called until it wants no more; a still image takes a few


def units(item: CodedItem) -> Iterator[bytes]:
    """NAL units of an hvc1 item, without those of its configuration.

    Raises:
        EOFError: if a unit ends behind the item.
    """
    wide = (item.configuration[21] & 3) + 1 if len(item.configuration) > 22 else 4
    at = 0
    while at < len(item.data):
        size = int.from_bytes(item.data[at : at + wide], "big")
        at += wide
        if at + size > len(item.data):
            raise EOFError
        yield item.data[at : at + size]
        at += size


def first_warning(item: CodedItem) -> str | None:
    """What libde265 warns of first while it decodes an item; None if nothing, or where the library is not found.

    It warns of nothing in whole data. Of damaged data a substream that does not end where it should gives most away.
    """
    library = _libde265()
    if library is None:
        return None
    decoder = ctypes.c_void_p(library.de265_new_decoder())
    try:
        for parameter in _WITHOUT_FILTERS:
            library.de265_set_parameter_bool(decoder, parameter, 1)
        for unit in (*_parameter_sets(item.configuration), *units(item)):
            library.de265_push_NAL(decoder, unit, len(unit), ctypes.c_int64(0), None)
        library.de265_flush_data(decoder)
        more = ctypes.c_int(1)
        for _ in range(_MOST_STEPS):
            if library.de265_decode(decoder, ctypes.byref(more)) or not more.value:
                break
        warning = library.de265_get_warning(decoder)
        return library.de265_get_error_text(warning).decode("ascii", "replace") if warning else None
    finally:
        library.de265_free_decoder(decoder)


def _parameter_sets(configuration: bytes) -> Iterator[bytes]:
    """The units of an hvcC box (ISO/IEC 14496-15)."""
    at = 23
    for _ in range(configuration[22] if len(configuration) > 22 else 0):
        count = int.from_bytes(configuration[at + 1 : at + 3], "big")
        at += 3
        for _ in range(count):
            size = int.from_bytes(configuration[at : at + 2], "big")
            yield configuration[at + 2 : at + 2 + size]
            at += 2 + size


@cache
def _libde265() -> ctypes.CDLL | None:
    """The library that pillow-heif has loaded, if it can be located."""
    try:
        with Path("/proc/self/maps").open(encoding="utf-8", errors="replace") as maps:
            path = next(line.split()[-1] for line in maps if "libde265" in line)
        library = ctypes.CDLL(path)
        library.de265_new_decoder.restype = ctypes.c_void_p
        library.de265_get_error_text.restype = ctypes.c_char_p
    except (OSError, StopIteration, AttributeError):
        return None
    return library
