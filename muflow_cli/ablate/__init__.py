"""`ablate`: a detector's branch fitted again in other ways, and what each choice is worth."""

from muflow_cli.ablate.workflow import AblateRequest, AblateResult, ablate

__all__ = ["AblateRequest", "AblateResult", "ablate"]
