"""`export`: the task that made a run writes it as graphs that need neither vladapt nor torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..contracts.domain import Domain
from ..contracts.options import keywords
from ..contracts.use import Exported, ExportWishes, UseOptions
from ..errors import ConfigError
from ..recipes.resolve import task_of_run
from ..runs.folder import open_run
from ..runtime.progress import Reporter
from .fit import use_of

ONNX = "onnx"


@keywords(UseOptions, command="export")
def export(
    run: str | Path,
    out: str | Path,
    *,
    format: str = ONNX,
    int8: bool = False,
    opset: int | None = None,
    backbone: str | None = None,
    domain: Domain | None = None,
    reporter: Reporter | None = None,
    **given: Any,
) -> Exported:
    """Write a run as ONNX, compared with the run before the folder appears.

    Args:
        run: a run folder, or hf:OWNER/NAME of the Hugging Face hub.
        out: a new folder for the graphs, export.json, and predict.py if it can prepare the domain's images.
        format: "onnx".
        int8: also write a graph in 8 bits, which predict.py then uses.
        opset: version of ONNX's operators; by default 18.
        backbone: where the run's backbone is here, if not where the run says.
        domain: a domain of your own that is not installed as a plug-in.
        given: options of `UseOptions`; the graphs are compared with the run on the data they name.

    Raises:
        ConfigError: no such format or opset. CapabilityError: the run's answer is not a function of one image, onnx or
            onnxruntime is not installed, or the graph does not answer as the model does. DataError: the run or its data
            cannot be read, or `out` is there already.
    """
    if format != ONNX:
        raise ConfigError(f"--format {format}: give {ONNX}")
    use = use_of(open_run(run, backbone), "export", given)
    task = task_of_run(use.run, domain)
    return task.export(use, ExportWishes(Path(out), opset, int8), reporter or Reporter(quiet=True))
