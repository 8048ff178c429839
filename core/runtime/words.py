"""Values as a user reads them: settings in a line, scores as percentages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..contracts.adapter import FitReport


def choice(report: FitReport) -> str:
    """One line on what the fit chose and on what, or "" where there was nothing to choose."""
    if not report.chosen:
        return ""
    return f"Chosen: {in_words(report.chosen)} – {report.chosen_on}."


def in_words(values: Mapping[str, Any]) -> str:
    """{"alpha": 2.1300000000000003} -> "alpha 2.13"."""
    return ", ".join(f"{name} {_value(value)}" for name, value in values.items())


def _value(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no"}.get(value, "none")
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return " ".join(_value(inner) for inner in value)
    return str(value)
