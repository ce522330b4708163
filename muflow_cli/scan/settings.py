"""What all images of a run are compared for."""

from __future__ import annotations

from dataclasses import dataclass

from muflow_cli.errors import BadSpec, IncompatibleOptions


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """What to compare.

    Attributes:
        fdr: false discovery rate to flag at instead of the rule's alpha, in (0, 1); None = the rule decides.
        adaptive: flag by adaptive p-values, which needs a false discovery rate.
        groups: judge every group of images, too.
        reweight: flag by p-values that count calibration images by how much they resemble these as files.
    """

    fdr: float | None = None
    adaptive: bool = False
    groups: bool = False
    reweight: bool = False

    def __post_init__(self) -> None:
        if self.fdr is not None and not 0 < self.fdr < 1:
            raise BadSpec("--fdr", self.fdr, "a rate between 0 and 1, both excluded")
        if self.adaptive and self.fdr is None:
            raise IncompatibleOptions("--adaptive", "--fdr RATE", "it flags at a false discovery rate", needs=True)

        if self.reweight and self.fdr is not None:
            why = "Benjamini-Hochberg needs p-values that do not work against each other, and weighted ones may"
            raise IncompatibleOptions("--reweight", "--adaptive" if self.adaptive else "--fdr", why)

    @property
    def options(self) -> dict[str, int | float | str | bool | None]:
        """The options of `scan` that say so, for the head of a report."""
        return {"fdr": self.fdr, "adaptive": self.adaptive, "groups": self.groups, "reweight": self.reweight}

    @property
    def any(self) -> bool:
        """Whether the verdicts wait for the last image."""
        return self.fdr is not None or self.groups or self.reweight

    @property
    def features(self) -> bool:
        """Whether the features of the images are needed."""
        return self.adaptive or self.groups
