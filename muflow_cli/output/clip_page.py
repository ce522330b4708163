"""What the page of a scan holds of a clip: less than the report, and the pictures of its worst frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def clip_of_page(clip: Mapping[str, Any], pictures: Sequence[Mapping[str, object]]) -> dict[str, object]:
    """A clip as the script of the page reads it.

    Args:
        clip: as in a JSON report.
        pictures: of its worst frames, in the order of `clip["worst"]`, with `thumbnail` where there is one; empty where
            the page shows none of this clip.

    Returns:
        `frames`: [time, score, track, whether it is flagged as a still] each; `worst`: time and picture of each;
        `seconds`, `judged_by`, `converted_from` and the number of `tracks`, where they are known.
    """
    frames = [
        [frame["time"], frame["score"], frame["track"], int(frame["verdict"] == "flagged")] for frame in clip["frames"]
    ]
    shown = pictures or [{}] * len(clip["worst"])
    worst = [{"time": time, **picture} for time, picture in zip(clip["worst"], shown, strict=True)]
    facts = {name: clip["facts"].get(name) for name in ("seconds", "converted_from")}
    known = facts | {"judged_by": clip["judged_by"], "tracks": len(clip["tracks"])}
    return {"frames": frames, "worst": worst} | {name: value for name, value in known.items() if value}
