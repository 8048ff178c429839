"""Try the smallest packaged config of each folder of mmdet and mmsegmentation: a step of training, a prediction."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ....core.commands import Debug, Json, echo, print_json
from ....core.errors import ConfigError
from ....core.runtime import Reporter

GROUP = "check"


def stock_configs(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FOLDER]...", help="Folders such as mmseg, mmdet/dino or fcn; by default all."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File for one line of JSON per folder, written as it is tried.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the file of --out: try only what is not in it.")
    ] = False,
    memory: Annotated[float, typer.Option(min=0.5, help="Memory in GiB that each config may take.")] = 10.0,
    seconds: Annotated[int, typer.Option(min=1, help="Seconds of CPU time that each config may take.")] = 120,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the page of the documentation on stdout.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Try the smallest packaged config of each folder of mmdet and mmsegmentation: a step of training, a prediction.

    Each is built with random weights, and nothing is downloaded. It runs on small drawn images in a process of its own,
    and works, fails, or is too large for the limits. Smallest is what its name tells: the size of the backbone, and of
    equals the shortest name.

    Example: vladapt check stock-configs mmdet/faster_rcnn mmseg/fcn
    """
    if resume and out is None:
        raise ConfigError("--resume: continues the file of --out; give --out too")
    if out is not None and out.exists() and not resume:
        raise ConfigError(f"--out {out}: already exists; add --resume, or give another")
    from ..stock.choice import chosen_folders
    from ..stock.limited import Limits
    from ..stock.outcomes import as_line, page, read_outcomes, summary, told
    from ..stock.trying import tried

    folders = chosen_folders(names or [])
    known = read_outcomes(out) if out is not None and out.exists() else {}
    outcomes = {folder: known[folder] for folder in folders if folder in known}
    reporter, width = Reporter(), max(map(len, folders))
    for outcome in tried([folder for folder in folders if folder not in known], Limits(memory, seconds)):
        outcomes[outcome.folder] = outcome
        if out is not None:
            with out.open("a", encoding="utf-8") as file:
                file.write(as_line(outcome) + "\n")
        reporter.info(f"{outcome.folder:<{width}}  {outcome.config:<{width}}  {told(outcome)}")
    listed = [outcomes[folder] for folder in folders]
    if as_json:
        print_json({"folders": [vars(outcome) for outcome in listed], "summary": summary(listed)})
    elif markdown:
        echo(page(listed))
    else:
        echo(summary(listed))
