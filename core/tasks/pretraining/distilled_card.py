"""The card of a distilled model: which teachers it learned from, and under which licences they are."""

from __future__ import annotations

from collections.abc import Sequence

from ...contracts.backbone import Backbone
from ...contracts.run_info import RunInfo


def distilled_card(info: RunInfo, student: Backbone, teachers: Sequence[Backbone]) -> str:
    """Markdown.

    Args:
        info: of the training.
    """
    rows = [("student, before", student), *(("teacher", each) for each in teachers)]
    lines = ["# Distilled towers", "", "| | backbone | licence | fingerprint |", "|---|---|---|---|"]
    lines += [f"| {what} | `{each.spec}` | {_licence_of(each)} | {each.fingerprint[:16]} |" for what, each in rows]
    losses = ", ".join(f"{name} ({weight:g})" for name, weight in info["losses"].items())
    lines += ["", f"* Losses: {losses}; {info['steps']} steps on {info.data.name}."]
    lines += [f"* {sentence}" for sentence in (info.verdict, info["generic"]) if sentence]
    lines.append("* Use: `--backbone FOLDER`. Licences of teachers may hold for what learned from them: read them.")
    return "\n".join(lines) + "\n"


def taught_by(teacher: Backbone) -> str:
    """A sentence for the run."""
    return f"Learned from teacher '{teacher.spec}', whose licence is {_licence_of(teacher)}."


def _licence_of(backbone: Backbone) -> str:
    return backbone.licence or "unknown"
