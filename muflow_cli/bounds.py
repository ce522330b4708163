"""Bounds of settings: what a frozen specification refuses when it is made."""

from __future__ import annotations

from muflow_cli.errors import BadSpec


def between(spec: object, least: float, most: float, *names: str) -> None:
    """Refuse, with BadSpec, attributes of `spec` that are not from `least` to `most`."""
    for name in names:
        value = getattr(spec, name)
        if not least <= value <= most:  # NaN is not
            raise BadSpec(name, value, f"a value from {least:g} to {most:g}")


def inside_unit(spec: object, *names: str) -> None:
    """Refuse, with BadSpec, attributes of `spec` that are not between 0 and 1, both excluded."""
    for name in names:
        value = getattr(spec, name)
        if not 0 < value < 1:
            raise BadSpec(name, value, "between 0 and 1, both excluded")


def at_most(most: float, product: str, value: float) -> None:
    """Refuse, with BadSpec, a product of settings above `most`."""
    if value > most:
        raise BadSpec(product, value, f"at most {most}")
