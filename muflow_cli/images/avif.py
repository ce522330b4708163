"""Why libavif refuses an AVIF (AV1 Image File Format) that is whole."""

from __future__ import annotations

from typing import Final

from muflow_cli.images.boxes import Box, boxes, child

_ALPHA: Final = (b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha\0", b"urn:mpeg:hevc:2015:auxid:1\0")


def alpha_lacks_its_size(data: bytes) -> bool:
    """Whether a transparency plane has no `ispe` property, as early versions of cavif wrote it."""
    meta = next((box for box in boxes(data) if box.type == b"meta"), None)
    properties = meta and child(data, meta, b"iprp", skip=4)
    container = properties and child(data, properties, b"ipco")
    association = properties and child(data, properties, b"ipma")
    if not container or not association:
        return False
    kinds = list(boxes(data, container.start, container.end))
    alpha = {
        number for number, box in enumerate(kinds, 1) if box.type == b"auxC" and data.startswith(_ALPHA, box.start + 4)
    }
    sizes = {number for number, box in enumerate(kinds, 1) if box.type == b"ispe"}
    return any(item & alpha and not item & sizes for item in _associated(data, association))


def _associated(data: bytes, box: Box) -> list[set[int]]:
    """Numbers of the properties of each item (ISO/IEC 14496-12, `ipma`)."""
    version, has_wide_index = data[box.start], data[box.start + 3] & 1
    item_bytes, index_bytes = (2 if version < 1 else 4), (2 if has_wide_index else 1)
    at, items = box.start + 8, []
    for _ in range(int.from_bytes(data[box.start + 4 : at], "big")):
        at += item_bytes
        if at >= min(box.end, len(data)):
            break
        count = data[at]
        at += 1
        essential = 0x80 << 8 * (index_bytes - 1)
        indices = range(at, at + count * index_bytes, index_bytes)
        items.append({int.from_bytes(data[i : i + index_bytes], "big") & ~essential for i in indices})
        at += count * index_bytes
    return items
