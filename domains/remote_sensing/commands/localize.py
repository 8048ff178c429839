"""Write a map of where in a raster a sentence is true, and score such maps."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ....core.commands import (
    FromEncoding,
    FromOptions,
    Json,
    echo,
    print_json,
    reporter,
)
from ..localization.heat import HeatMapOptions


def localize(
    source: Annotated[
        str,
        typer.Argument(metavar="RASTER|INDEX", help="A raster, an image, or an index of windows; or a folder of them."),
    ],
    out: Annotated[str, typer.Option(metavar="PLACE", help="The map, .tif or .png; a folder if there are several.")],
    encoding: Annotated[dict[str, Any], FromEncoding()],
    how: Annotated[dict[str, Any], FromOptions(HeatMapOptions)],
    bands: Annotated[str | None, typer.Option(metavar="R,G,B", help="Bands of rasters, as for fit.")] = None,
    sensor: Annotated[str | None, typer.Option(metavar="NAME", help="Sensor of the rasters, as for fit.")] = None,
    stretch: Annotated[str | None, typer.Option(help="Stretch of rasters of over 8 bits, as for fit.")] = None,
    as_json: Json = False,
) -> None:
    """Write a map of where in a raster a sentence is true.

    Example: vladapt localize scene.tif --text "a harbour with boats" --out harbour.tif
    """
    from ..localization.run import localize as run
    from ..localization.scores import mean_sentence_scores

    reading = {"bands": bands, "sensor": sensor, "stretch": stretch}
    result = run(
        source,
        out,
        HeatMapOptions(**how),
        reading={name: value for name, value in reading.items() if value is not None},
        reporter=reporter(),
        **encoding,
    )
    scored = [each.scores for each in result.found if each.scores is not None]
    if as_json:
        rows, skipped = [each.row() for each in result.found], [list(pair) for pair in result.skipped]
        print_json({"maps": rows, "mean": mean_sentence_scores(scored) if scored else None, "skipped": skipped})
        return
    if scored:
        echo(_table(result.found))
    if result.skipped:
        echo(f"Windows left out: {len(result.skipped)}, the first: {result.skipped[0][1]}")
    written = result.found[0].map if len(result.found) == 1 else f"{len(result.found)} maps in {out}"
    echo(f"Written: {written}")


def _table(found):
    """Scores of each sentence and their mean."""
    from rich.table import Table

    from ..localization.scores import mean_sentence_scores

    table = Table(caption="a uniform map has Rsu 0.507", caption_justify="left")
    for name in ("picture", "sentence", "Rsu ↑", "Ras ↓", "Rda ↑", "Rmi ↑"):
        table.add_column(name, overflow="fold", justify="right" if name[0] == "R" else "left")
    for each in found:
        table.add_row(each.image.name, each.text, *(f"{value:.4f}" for value in each.scores.metrics().values()))
    if len(found) > 1:
        mean = mean_sentence_scores([each.scores for each in found])
        table.add_section()
        table.add_row("mean", "", *(f"{value:.4f}" for value in mean.values()))
    return table
