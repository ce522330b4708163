"""JSON schema of a benchmark's report. `python -m muflow_cli.bench.schema` writes the file."""

from __future__ import annotations

from typing import Any, Final

from muflow_cli.bench.evaluate import METRICS
from muflow_cli.bench.records import BenchDocument
from muflow_cli.files import write_whole
from muflow_cli.output.schemas import FOLDER, Schema, document_schema, schema_bytes

_FIGURE: Final = {"$ref": "#/$defs/Figure"}


def bench_schema() -> Schema:
    """Schema of the document that `muflow bench --json` writes."""
    schema = _with_metrics(document_schema(BenchDocument, "muflow.bench/2"))
    schema["$defs"]["Figures"] = {
        "description": "Metric -> figure; only metrics that the scores allow.",
        "type": "object",
        "properties": dict.fromkeys(METRICS, _FIGURE),
        "required": ["auc"],
        "additionalProperties": False,
    }
    return dict(schema)


def _with_metrics(part: Any) -> Any:
    """`part` in which every mapping of names to figures is one of metrics: the records say only that names are text."""
    if isinstance(part, list):
        return [_with_metrics(item) for item in part]
    if not isinstance(part, dict):
        return part
    if part.get("additionalProperties") == _FIGURE:
        described = {"description": part["description"]} if "description" in part else {}
        return {"$ref": "#/$defs/Figures", **described}
    return {name: _with_metrics(item) for name, item in part.items()}


if __name__ == "__main__":
    write_whole(FOLDER / "bench-2.json", schema_bytes(bench_schema()))
