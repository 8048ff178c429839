"""What the report of a task that trains an mmengine config shows: its scores and the sections that the task gives."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...runs import run_sections as shared
from ...runs.report import Report
from ...runs.sections import CurveSection, HeadlineSection, Number, TableSection, is_share, number, plural


def config_training_report(
    folder: str | Path,
    info: Mapping[str, Any],
    metrics: Mapping[str, Any],
    sections: Sequence[Any],
    history: Sequence[Mapping[str, float]],
) -> Report:
    """The report of a run in a folder.

    Args:
        info: as in run.json.
        metrics: as in metrics.json.
        sections: of the task's own, see `core/runs/sections.py`.
        history: a row per shown step of the training, "step" and values by name; may be empty.
    """
    scores = [(name.replace("_", " "), number(value, is_share(name))) for name, value in metrics["adapted"].items()]
    numbers = [Number(name, text, main=place == 0) for place, (name, text) in enumerate(scores[:3])]
    return Report(
        kind="Report of one adaptation run",
        title=f"{info['data'].get('name') or 'data'}: {info['task']}",
        lead=f"On {plural(metrics['test_images'], 'test image')} that took no part in the training.",
        created=info.get("created"),
        sections=[
            HeadlineSection(numbers),
            shared.notes(info),
            TableSection("All scores", ("Score", "Value"), scores),
            *sections,
            _course(history),
            _facts(info),
            shared.skipped(info.get("skipped") or (), "sample"),
            shared.use(_steps(shlex.quote(str(folder)))),
            shared.licences(info),
        ],
        versions=info.get("versions") or {},
        place=f"Run folder {folder}. The whole recipe, the split and the seed are in its run.json.",
    )


def _course(history: Sequence[Mapping[str, float]]) -> CurveSection | None:
    """The loss over the steps."""
    if len(history) < 2:
        return None
    losses = ([row["step"] for row in history], [row["loss"] for row in history])
    return CurveSection("How the training went", {"loss": losses}, "step", "loss", unit=False)


def _facts(info: Mapping[str, Any]):
    shots, names = info.get("shots"), info["class_names"]
    counted = ", ".join(f"{len(ids)} {split}" for split, ids in (info.get("splits") or {}).items() if ids)
    own = {
        "Classes": [len(names), ", ".join(names)],
        "Images": [counted, shots and f"up to {shots} examples per class in training"],
        "Model": [((info.get("plan") or {}).get("model") or {}).get("type")],
        "Backbone": shared.backbone_lines(info.get("backbone")),
    }
    return shared.facts("What was trained, and on what", info, own)


def _steps(folder: str) -> list[tuple[str, str]]:
    predict = f"vladapt predict {folder} new_images/"
    return [
        ("Draw what it finds in new images, and write it as files:", f"{predict} --out found/"),
        ("Look for other things, by their names:", f'{predict} --classes "a, b, c" --out found/'),
        ("Score it again, on its own test images or on others (--data):", f"vladapt eval {folder}"),
    ]
