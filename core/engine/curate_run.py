"""`curate run`: all stages of a recipe, from images to a list, tars, a page, and a record of what ran."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..contracts.curator import Curator
from ..contracts.options import keywords, options_from, options_of
from ..contracts.recipe import Recipe
from ..contracts.shown import in_short
from ..curation import CurationRecipe, PeerFiles, curation_recipe
from ..curation.facts import FEATURES
from ..curation.recipes import DECONTAMINATE
from ..errors import ConfigError
from ..registry import build_curator
from ..runtime.files import write_whole
from ..runtime.progress import Reporter
from .curate import Curated, NeededColumns, check_ready, curate
from .curate_write import write_kept
from .curation_report import report_on_curation
from .embed import EmbeddedShards, embed
from .options import PARQUET, CurationRunOptions, CutOptions
from .shard_jobs import manifest_of, place_of_shards

RUN = "run.json"


@dataclass
class CurationRun:
    """What a recipe has made.

    Attributes:
        out: folder of all that it wrote.
        stages: in order.
        pairs, kept: before the first, after the last.
        written: what -> file or folder.
        notes: what to know of it.
    """

    __repr__ = in_short

    out: Path
    stages: list[Curated]
    pairs: int
    kept: int
    written: dict[str, Path] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@keywords(CurationRunOptions)
def run_curation(
    recipe: str | CurationRecipe,
    sources: Sequence[str | Path],
    out: str | Path,
    *,
    options: Mapping[str, Any] | None = None,
    encoding: Mapping[str, Any] | None = None,
    reporter: Reporter | None = None,
    **given: Any,
) -> CurationRun:
    """Run a recipe. The same call goes on where it was stopped.

    Args:
        recipe: name, or one of your own.
        sources: tars, Parquet files, folders and images, or URLs of these.
        out: a folder.
        options: "curator.option" -> value.
        encoding: `backbone`, `device`, `batch_size`, `workers`, of the features where none are given.
        given: options of `CurationRunOptions`.

    Raises:
        UnknownNameError: no recipe has that name. ConfigError: an option is not usable. DataError: as `curate`.
    """
    check_ready(out)
    asked, reporter = options_from(CurationRunOptions, given, "run_curation"), reporter or Reporter(quiet=True)
    chosen, notes = _chosen(recipe, options or {}, asked)
    built = [build_curator(stage.curator, **stage.options) for stage in chosen.stages]
    needed = NeededColumns.of(built, asked.columns or ())
    out = Path(out)
    features = asked.features
    if features is None and needed.reads & set(FEATURES):
        features = _embedded(sources, out, built, needed, asked, encoding or {}, reporter)
    stages: list[Curated] = []
    for stage in chosen.stages:
        after = [str(stages[-1].folder)] if stages else None
        how = {**_shared(asked), "features": features, "after": after}
        how |= {name: getattr(asked, name) for name in ("encoder", "columns", "tolerate")}
        how |= {"options": stage.options, "reads": needed.reads, "may_read": needed.may_read}
        stages.append(curate(stage.curator, sources, out, reporter=reporter, **how))
    run = CurationRun(out, stages, stages[0].pairs, stages[-1].kept, notes=notes)
    last = stages[-1].folder
    run.written = write_kept(last, out, sources=sources, write=asked.write, reporter=reporter).written
    run.written["report"] = report_on_curation(last, faces=asked.faces, out=out)
    write_whole(out / RUN, json.dumps(_record(run, chosen, sources, features), indent=2) + "\n")
    return run


def _chosen(
    recipe: str | CurationRecipe, options: Mapping[str, Any], asked: CurationRunOptions
) -> tuple[CurationRecipe, list[str]]:
    """A recipe with options and test sets, and what to know of it."""
    chosen, notes = (curation_recipe(recipe) if isinstance(recipe, str) else recipe).with_options(options), []
    if asked.tests:
        chosen = chosen.with_options({f"{DECONTAMINATE}.tests": list(asked.tests)})
    elif any(stage.curator == DECONTAMINATE and not stage.options.get("tests") for stage in chosen.stages):
        chosen = chosen.without(DECONTAMINATE)
        notes.append("No test set was given (--tests), so nothing was compared with one.")
    if not chosen.stages:
        raise ConfigError(f"--recipe {chosen.name}: no stage to run; give --tests, or another recipe")
    return chosen, notes


def _embedded(
    sources: Sequence[str | Path],
    out: Path,
    built: Sequence[Curator],
    needed: NeededColumns,
    asked: CurationRunOptions,
    encoding: Mapping[str, Any],
    reporter: Reporter,
) -> str | None:
    """The folder of features of the pairs, made unless it is there; None where the sources bring their own."""
    if not sources:
        raise ConfigError("give the pairs by --data, or their features by --features")
    backbone, encoder = asked.encoder_names
    peers = PeerFiles.among(sources, encoder or backbone)
    if any(each.features for each in peers):
        return None
    if not peers:
        needed.check(built, needed.facts(manifest_of(sources, place_of_shards(out))).written)
    how = {"images": sources, "as_": PARQUET, "captions": True, "reporter": reporter, **_shared(asked)}
    made = embed(Recipe(**encoding), out / "features", **how)
    assert isinstance(made, EmbeddedShards), "as Parquet they are shards"
    return made.folder


def _shared(asked: CurationRunOptions) -> dict[str, Any]:
    """Options that all steps have."""
    return {each.name: getattr(asked, each.name) for each in options_of(CutOptions)}


def _record(
    run: CurationRun, chosen: CurationRecipe, sources: Sequence[str | Path], features: str | None
) -> dict[str, Any]:
    """What ran, as JSON."""
    stages = [{"curator": each.curator, "decisions": str(each.folder), "kept": each.kept} for each in run.stages]
    return {
        "recipe": chosen.name,
        "stages": stages,
        "sources": [str(each) for each in sources],
        "features": features,
        "written": {name: str(path) for name, path in run.written.items()},
        "notes": run.notes,
    }
