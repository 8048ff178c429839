"""`curate run`: all stages of a recipe, from images to a list, tars, a page, and a record of what ran."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..contracts.options import keywords, options_from
from ..contracts.recipe import Recipe
from ..contracts.shown import in_short
from ..curation import CurationRecipe, PairFacts, PeerFiles, curation_recipe
from ..curation.facts import FEATURES
from ..curation.recipes import DECONTAMINATE
from ..errors import ConfigError
from ..registry import build_curator
from ..runtime.files import write_whole
from ..runtime.progress import Reporter
from .curate import Curated, check_curators, check_ready, curate
from .curate_write import write_kept
from .curation_report import report_on_curation
from .embed import EmbeddedShards, embed
from .options import PARQUET, CurationRunOptions
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
    chosen = (curation_recipe(recipe) if isinstance(recipe, str) else recipe).with_options(options or {})
    notes = []
    if asked.tests:
        chosen = chosen.with_options({f"{DECONTAMINATE}.tests": list(asked.tests)})
    elif any(stage.curator == DECONTAMINATE and not stage.options.get("tests") for stage in chosen.stages):
        chosen = chosen.without(DECONTAMINATE)
        notes.append("No test set was given (--tests), so nothing was compared with one.")
    if not chosen.stages:
        raise ConfigError(f"--recipe {chosen.name}: no stage to run; give --tests, or another recipe")
    built = [build_curator(stage.curator, **stage.options) for stage in chosen.stages]
    reads, may_read = ({name for each in built for name in getattr(each, kind)} for kind in ("reads", "may_read"))
    out, shards = Path(out), {name: getattr(asked, name) for name in SHARED}
    features = asked.features
    if features is None and reads & set(FEATURES):
        if not sources:
            raise ConfigError("give the pairs by --data, or their features by --features")
        peers = [each for source in sources if (each := PeerFiles.of(source, asked.encoder or "")) is not None]
        if not peers:
            check_curators(built, PairFacts.of(manifest_of(sources, place_of_shards(out)), reads, may_read))
        if not any(each.features for each in peers):
            features = _embedded(sources, out / "features", encoding or {}, shards, reporter)
    stages: list[Curated] = []
    for stage in chosen.stages:
        after = [str(stages[-1].folder)] if stages else None
        how = {**shards, "features": features, "encoder": asked.encoder, "after": after, "tolerate": asked.tolerate}
        columns = {"reads": reads, "may_read": may_read}
        made = curate(stage.curator, sources, out, options=stage.options, reporter=reporter, **columns, **how)
        stages.append(made)
    last = stages[-1].folder
    run = CurationRun(out, stages, stages[0].pairs, stages[-1].kept, notes=notes)
    run.written = write_kept(last, out, sources=sources, write=asked.write, reporter=reporter).written
    run.written["report"] = report_on_curation(last, faces=asked.faces, out=out)
    record = {
        "recipe": chosen.name,
        "stages": [{"curator": each.curator, "decisions": str(each.folder), "kept": each.kept} for each in stages],
        "sources": [str(each) for each in sources],
        "features": features,
        "written": {name: str(path) for name, path in run.written.items()},
        "notes": notes,
    }
    write_whole(out / RUN, json.dumps(record, indent=2) + "\n")
    return run


SHARED = ("engine", "processes", "address", "worker_cpus", "worker_gpus", "shard_size")


def _embedded(
    sources: Sequence[str | Path],
    out: Path,
    encoding: Mapping[str, Any],
    shards: Mapping[str, Any],
    reporter: Reporter,
) -> str:
    """The folder of features, made unless it is there."""
    made = embed(Recipe(**encoding), out, images=sources, as_=PARQUET, captions=True, reporter=reporter, **shards)
    assert isinstance(made, EmbeddedShards), "as Parquet they are shards"
    return made.folder
