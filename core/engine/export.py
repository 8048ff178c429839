"""`export`: the task that made a run writes it as graphs that need neither vladapt nor torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ..contracts.backbone import Backbone
from ..contracts.domain import Domain
from ..contracts.options import keywords
from ..contracts.use import EXPORT, Exported, ExportWishes, UseOptions
from ..errors import ConfigError
from ..recipes.resolve import task_of_run
from ..runs.sections import errors_in_words, worded, words_of_task
from ..runtime.progress import Reporter
from .fit import use_of
from .models import opened_run

ONNX = "onnx"


@keywords(UseOptions, ExportWishes, command="export")
def export(
    run: str | Path,
    out: str | Path,
    *,
    backbone: str | Backbone | None = None,
    domain: Domain | None = None,
    reporter: Reporter | None = None,
    **given: Any,
) -> Exported:
    """Write a run as ONNX, compared with the run, on the data that are named, before the folder appears.

    Args:
        run: a run folder, or hf:OWNER/NAME of the Hugging Face hub.
        out: a new folder for the graphs, export.json, and predict.py if it can prepare the domain's images.
        backbone: where the run's backbone is here, if not where the run says; or a module's, given again.
        domain: a domain of your own that is not installed as a plug-in.
        given: options of `UseOptions` and `ExportWishes`.

    Raises:
        ConfigError: no such format or opset. CapabilityError: the run's answer is not a function of one image, onnx or
            onnxruntime is not installed, or the graph does not answer as the model does. DataError: the run or its data
            cannot be read, or `out` is there already.
    """
    graph = {name: value for name in EXPORT.keys() & given.keys() if (value := given.pop(name)) is not None}
    wishes = ExportWishes(Path(out), **graph)
    if wishes.format != ONNX:
        raise ConfigError(f"--format {wishes.format}: give {ONNX}")
    use = use_of(opened_run(run, backbone), "export", given)
    task = task_of_run(use.run, domain)
    if use.per_patient is not None and "per_patient" not in task.at_prediction:
        raise ConfigError(f"--per-patient: a run of {task.name} has no answers per patient; omit it")
    reading = use.run.info.recipe.get("data") or {}
    with errors_in_words(task, reading):
        made = task.export(use, wishes, reporter or Reporter(quiet=True))
    words = words_of_task(task, reading)
    notes, lines = ([worded(line, words) for line in each] for each in (made.notes, made.lines))
    return replace(made, notes=notes, lines=lines)
