"""`compare`: methods x shots x seeds on shared features; a table, a CSV and the curve of accuracy over shots."""

from __future__ import annotations

import csv
import datetime
import io
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine import Config

from ..contracts.errors import ConfigError, VladaptError
from ..registry import adapter_class, build_adapter, catalogue
from ..registry.catalogue import find
from ..runs.folder import write_whole
from ..runs.plots import accuracy_over_shots
from ..training.distributed import is_main
from .evaluate import fitted_zero_shot, score_on
from .fit import fit_adapter
from .fit_retrieval import is_retrieval
from .outputs import all_or_none
from .prepare import fewer_views, parts_wanted, views_wanted
from .progress import Reporter
from .ranks import together
from .recipe import adapter_options, check_named
from .resources import check_needs, check_resources
from .retrieval_run import compare_on_pairs, deciding
from .source import prepared_of

TABLE = "compare.csv"
DEFAULT_SHOTS = (1, 2, 4, 8, 16)


@dataclass
class Comparison:
    """What `compare` measured.

    Attributes:
        rows: one dict a fit: adapter, shots, seed, accuracy and the other metrics.
        csv: file of the rows.
        plot: PNG of accuracy over shots; an SVG lies beside it.
        refused: adapter -> why it could not run on this data.
    """

    rows: list[dict[str, Any]]
    csv: Path
    plot: Path
    refused: dict[str, str]
    notes: list[str]

    def summary(self) -> list[dict[str, Any]]:
        """One dict an adapter, shots and data set: mean and population standard deviation of the deciding metric over
        seeds, and the mean seconds of a fit. `data` is "" where there is one set."""
        metric = deciding_metric(self.rows)
        groups: dict[tuple[str, int, str], list[dict[str, Any]]] = {}
        for row in self.rows:
            if row[metric] is not None:
                groups.setdefault((row["adapter"], row["shots"], row.get("data", "")), []).append(row)
        return [
            {
                "adapter": adapter,
                "shots": shots,
                "data": data,
                "metric": metric,
                "mean": statistics.fmean(row[metric] for row in rows),
                "std": statistics.pstdev(row[metric] for row in rows),
                "seeds": len(rows),
                "seconds": statistics.fmean(row["seconds"] for row in rows),
            }
            for (adapter, shots, data), rows in groups.items()
        ]


def compare(
    recipe: Config,
    adapters: Sequence[str],
    shots: Sequence[int],
    seeds: Sequence[int],
    *,
    sources: Sequence[dict[str, Any]] = (),
    out: str | Path | None = None,
    reporter: Reporter | None = None,
) -> Comparison:
    """Fit every adapter at every number of shots and seed, on the same splits and features.

    Args:
        recipe: the data, backbone and domain; `adapter` options apply to the adapter the recipe names, `adapters` holds
            options of any by name.
        adapters: names; zero-shot is added, once, as the base line.
        shots: numbers of labelled images a class.
        seeds: seeds of the draws.
        sources: several data sets in place of the recipe's, as recipe flags: {"data": path} or {"features": file}.
        out: folder for the CSV and the plot; by default `runs/<time>-compare`.

    Raises:
        UnknownNameError: an adapter's name. DataError, ConfigError: as in `fit`.
    """
    names = list(dict.fromkeys(["zero-shot", *adapters]))
    _check(names, shots, seeds)
    check_named(recipe, names)
    reporter = reporter or Reporter(quiet=True)
    return together(lambda: _compare(recipe, names, shots, seeds, sources, out, reporter))


def _compare(recipe, names, shots, seeds, sources, out, reporter) -> Comparison:
    rows, refused, notes, plots = [], {}, [], {}
    for own in [_with_source(recipe, source) for source in sources] or [recipe]:
        found, said, name, told = _on_one_set(own, names, shots, seeds, reporter)
        refused.update(said)
        notes += [note for note in told if note not in notes]
        while f"accuracy_over_shots-{name}" in plots:  # two folders of one name
            name += "+"
        rows += [{**row, "data": name} for row in found] if len(sources) > 1 else found
        plots[f"accuracy_over_shots-{name}" if len(sources) > 1 else "accuracy_over_shots"] = found
    if at_once := [name for name in names if adapter_class(name).transductive]:
        who = ", ".join(at_once)
        notes.append(f"{who} read all test images at once, without their labels; the others see one at a time")
    folder = Path(out) if out else Path("runs") / f"{datetime.datetime.now():%Y%m%d-%H%M%S}-compare"
    if is_main():
        _write(folder, rows, plots)
    return Comparison(rows, folder / TABLE, folder / f"{next(iter(plots))}.png", refused, notes)


def _on_one_set(recipe, names, shots, seeds, reporter):
    """(rows, refused adapters, name of the data, notes)."""
    if is_retrieval(recipe, None):
        if list(shots) != list(DEFAULT_SHOTS):
            raise ConfigError("--shots counts images a class; --task retrieval trains on all pairs, leave it out")
        return compare_on_pairs(recipe, names, seeds, reporter)
    prepared = prepared_of(recipe, reporter)
    rows, refused = _all_fits(recipe, prepared, names, shots, seeds, reporter)
    return rows, refused, prepared.data.name, prepared.notes


def _check(names: Sequence[str], shots: Sequence[int], seeds: Sequence[int]) -> None:
    if names == ["zero-shot"]:
        raise ConfigError("--adapters: none given; give methods, comma-separated, for instance tip-adapter,ape")
    for name in names:
        find(name, catalogue.adapters(), "adapter")
    for option, values, least in (("--shots", shots, 1), ("--seeds", seeds, 0)):
        if not values or min(values) < least:
            given = ",".join(map(str, values)) or "(none)"
            raise ConfigError(f"{option} {given}: give whole numbers of {least} or more, comma-separated")


def _write(folder: Path, rows: Sequence[dict[str, Any]], plots: dict[str, list[dict[str, Any]]]) -> None:
    with all_or_none(folder, [TABLE, *(f"{stem}{suffix}" for stem in plots for suffix in (".png", ".svg"))]):
        write_csv(rows, folder / TABLE)
        for stem, found in plots.items():
            accuracy_over_shots(found, folder / stem, deciding_metric(found))


def _with_source(recipe: Config, source: dict[str, Any]) -> Config:
    """The recipe on another data set."""
    own = Config(recipe.to_dict())
    own.features = source.get("features")
    if "data" in source:
        own.data.path = source["data"]
    return own


def deciding_metric(rows: Sequence[dict[str, Any]]) -> str:
    """Accuracy; macro AUROC where images have several labels; of retrieval R@1 from text to image."""
    if found := deciding(rows):
        return found
    return "auroc" if rows and any(key.startswith("auroc/") for key in rows[0]) else "accuracy"


def write_csv(rows: Sequence[dict[str, Any]], path: Path) -> Path:
    """One row a fit: adapter, shots, seed, accuracy, the other metrics; the data set last where there are several."""
    columns = list(dict.fromkeys(["adapter", "shots", "seed", "accuracy", *(key for row in rows for key in row)]))
    columns.sort(key="data".__eq__)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, text.getvalue())
    return path


def _all_fits(recipe, prepared, names, shots, seeds, reporter):
    recipes = {name: _recipe_for(recipe, name) for name in names}
    planned = [build_adapter(name, **adapter_options(recipes[name])) for name in names]
    check_resources(recipe, planned)
    views = {adapter.name: views_wanted(adapter) for adapter in planned}
    parts = any(parts_wanted(adapter) for adapter in planned)
    rows: list[dict[str, Any]] = []
    refused: dict[str, str] = {}
    total = len(names) * len(shots) * len(seeds)
    with reporter.task("Comparing", unit="fits") as progress:
        for seed in seeds:
            for count in shots:
                drawn = prepared.draw(count, seed, views=max(views.values()), parts=parts)
                for name in names:
                    if name not in refused:
                        row = _one_fit(recipes[name], prepared, drawn, views[name], seed, refused)
                        rows += [{"adapter": name, "shots": count, "seed": seed, **row}] if row else []
                    progress(len(rows) + len(refused), total)
    order = {name: i for i, name in enumerate(names)}
    return sorted(rows, key=lambda r: (order[r["adapter"]], r["shots"], r["seed"])), refused


def _one_fit(recipe, prepared, drawn, views: int, seed: int, refused: dict[str, str]) -> dict[str, Any] | None:
    """Metrics of one fit, or None where the method refuses the data (said once)."""
    from dataclasses import replace

    shots = replace(drawn, support=fewer_views(drawn.support, views))
    name = recipe.adapter.name
    started = time.perf_counter()
    try:
        if name == "zero-shot":
            adapter = fitted_zero_shot(shots.support, prepared.classifier)
        else:
            check_needs(recipe, build_adapter(name, **adapter_options(recipe)), prepared.backbone)
            adapter, _ = fit_adapter(recipe, prepared, shots, seed, Reporter(quiet=True))
    except VladaptError as error:
        refused[name] = str(error)
        return None
    seconds = time.perf_counter() - started
    scores = score_on(prepared, adapter, shots.test, prepared.class_names, None, Reporter(quiet=True))
    return {**scores.metrics["adapted"], "seconds": round(seconds, 3)}


def _recipe_for(recipe: Config, name: str) -> Config:
    own = Config(recipe.to_dict())
    if recipe.adapter.name != name:
        own.adapter = {"name": name}
    return own
