"""JSON schema of an ablation's report. `python -m muflow_cli.ablate.schema` writes the file."""

from __future__ import annotations

from muflow_cli.ablate.records import AblationDocument
from muflow_cli.files import write_whole
from muflow_cli.output.schemas import FOLDER, Schema, document_schema, schema_bytes


def ablation_schema() -> Schema:
    """Schema of the document that `muflow ablate --json` writes."""
    return document_schema(AblationDocument, "muflow.ablation/1")


if __name__ == "__main__":
    write_whole(FOLDER / "ablation-1.json", schema_bytes(ablation_schema()))
