"""The card of a distilled model: which teachers it learned from, and under which licences they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...contracts.backbone import Backbone
from ...contracts.run_info import RunInfo
from ...runs.sections import worded


def distilled_card(info: RunInfo, student: Backbone, teachers: Sequence[Backbone], words: Mapping[str, str]) -> str:
    """Markdown.

    Args:
        info: of the training.
        words: what it calls images.
    """
    rows = [("student, before", student), *(("teacher", each) for each in teachers)]
    lines = ["# Distilled towers", "", "| | backbone | licence | fingerprint |", "|---|---|---|---|"]
    lines += [f"| {what} | `{each.spec}` | {_licence_of(each)} | {each.fingerprint[:16]} |" for what, each in rows]
    losses = ", ".join(f"{name} ({weight:g})" for name, weight in info["losses"].items())
    lines += ["", f"* Losses: {losses}; {info['steps']} steps on {info.data.name}."]
    lines += [f"* {worded(line, words)}" for line in f"{info.verdict}\n{info['generic']}".splitlines() if line]
    lines.append("* Use: `--backbone FOLDER`. Licences of teachers may hold for what learned from them: read them.")
    return "\n".join(lines) + "\n"


def taught_by(teacher: Backbone) -> str:
    """A sentence for the run."""
    return f"Learned from teacher '{teacher.spec}', whose licence is {_licence_of(teacher)}."


def _licence_of(backbone: Backbone) -> str:
    return backbone.licence or "unknown"
