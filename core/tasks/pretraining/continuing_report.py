"""The report of a training on one set after the other."""

from __future__ import annotations

import shlex
from pathlib import Path

from ...contracts.run_info import RunInfo
from ...runs import run_sections as shared
from ...runs.run_sections import Report
from ...runs.sections import TableSection, plural
from .remembered import SetsRemembered


def continuing_report(folder: str | Path, info: RunInfo, remembered: SetsRemembered) -> Report:
    """What each set scores after each stage, what was kept, and how it was trained."""
    sets = plural(len(remembered.sets), "set")
    method = info["continual"]["method"]
    how = "nothing but the losses" if method == "none" else method
    return Report.of_run(
        info,
        kind="Report of a training on several sets in turn",
        title=f"Trained on {info.data.name}",
        lead=f"{info.backbone.spec} was trained on {sets} of image-text pairs in turn, with {how} against forgetting.",
        sections=[
            *remembered.sections(),
            shared.notes(info),
            _facts(info),
            shared.skipped(info.skipped, "sample"),
            shared.use(_steps(info), "pairs"),
            shared.licences(info, unknown="not known"),
        ],
        place=f"Folder {folder}. The model after each set, with a report of its own, is in the folder of the set.",
    )


def _facts(info: RunInfo) -> TableSection | None:
    losses = [", ".join(filter(None, (name, shared.options(info.loss_options.get(name))))) for name in info.losses]
    of_task = {
        "Sets": [f"{stage['set']}: {stage['folder']}" for stage in info["stages"]],
        "Pairs": [" · ".join(f"{name} {count:,}" for name, count in info.data.splits.items())],
        "Started from": shared.backbone_lines(info.backbone),
        "Against forgetting": [shared.options(info["continual"])],
        "Losses": losses,
        "Steps": [f"{info.steps:,}"],
        "Settings": [shared.options(info.settings)],
        "Model": [info.model],
    }
    return shared.facts("What was trained, and on what", info, of_task)


def _steps(info: RunInfo) -> list[tuple[str, str]]:
    path = shlex.quote(info.model)
    return [
        ("The model is a backbone like any other:", f"vladapt fit --domain NAME --data FOLDER --backbone {path}"),
        ("Train it on the next set:", f"vladapt pretrain --data PAIRS --backbone {path} --out FOLDER"),
    ]
