"""`bench`: backbones on published sets, zero-shot, beside what is published of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..backbones.load import announced, load_backbone
from ..bench.places import sets_at
from ..bench.published import published_scores
from ..bench.towers import StoredTowers
from ..contracts.backbone import Backbone
from ..contracts.bench import BenchScore, BenchSet
from ..contracts.recipe import Recipe, check_out_folder, spec_of
from ..contracts.task import IMAGE_KEYS, refuse_unused
from ..data.tables import csv_text
from ..errors import ConfigError, VladaptError, one_line
from ..recipes.resolve import task_of
from ..runtime.distributed import is_main, together
from ..runtime.files import write_whole
from ..runtime.process import keeps
from ..runtime.progress import Reporter
from ..tasks.classification.prepared import Encoding
from ..tasks.classification.task import prepared_images

TABLE = "bench.csv"
OF_DOMAIN = frozenset({"domain", "task", "preset", "protocol", "templates", "descriptions", "language", "classes"})
"""Recipe keys by which a domain reads folders."""
TAKEN = (IMAGE_KEYS - {"backbone", "image_size"}) | {"seed"} | OF_DOMAIN
"""Recipe keys that are used."""
COLUMNS = (
    "set",
    "part",
    "measure",
    "backbone",
    "value",
    "low",
    "high",
    "count",
    "guessing",
    "published",
    "published_in",
)


@dataclass
class Benched:
    """What was scored.

    Attributes:
        rows: one per set, part, measure and backbone, with the columns of the CSV; "published" is source -> value.
        gains: what each further backbone gains over the first on the same images: "difference", "low" and "high".
        failed: set -> why it could not be scored.
        notes: sentences for the user.
        skipped: (image, reason) of what could not be read.
        csv: file of the rows, where a folder was given.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    gains: list[dict[str, Any]] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    csv: Path | None = None


def bench(
    recipe: Recipe,
    backbones: Sequence[str | Backbone],
    data: Sequence[str | Path],
    *,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    out: str | Path | None = None,
    reporter: Reporter | None = None,
) -> Benched:
    """Score backbones on sets. All that is missing is told before anything is computed; nothing is downloaded but what
    a backbone's name asks for.

    Args:
        recipe: how images are encoded, and the domain that reads folders which are no published set.
        backbones: specs, or `Backbone.from_module`; further ones are compared with the first.
        data: folders of sets, or of such folders; "sample:KIND" for a set that is drawn.
        options: kind of set -> option -> value.
        out: folder for `bench.csv`, which is written set by set.

    Raises:
        DataError, ConfigError, CapabilityError, UnknownNameError: one line each. A set that fails while it is scored
        stands in `failed` instead.
    """
    refuse_unused(recipe, TAKEN, lambda key: "bench does not use it; omit it")
    check_out_folder(out, "table")
    specs = [spec for each in backbones if (spec := spec_of(each))]
    if len(set(specs)) < len(specs) or not specs:
        raise ConfigError("BACKBONE: name one or more backbones, each once")
    sets = sets_at([str(place) for place in data], options)
    if not any(each.by_domain for each in sets):
        refuse_unused(recipe, TAKEN - OF_DOMAIN, lambda key: "these sets bring their own classes and texts; omit it")
    reporter = reporter or Reporter(quiet=True)
    return together(lambda: _bench(recipe, specs, sets, None if out is None else Path(out), reporter))


def _bench(recipe: Recipe, specs: Sequence[str], sets: Sequence[BenchSet], out: Path | None, reporter) -> Benched:
    towers = [_towers(recipe, spec, reporter) for spec in specs]
    for benchmark in sets:
        for each in towers:
            benchmark.check(each)
    titles, made = _titles(sets), Benched(csv=None if out is None else out / TABLE)
    for title, benchmark in zip(titles, sets):
        reporter.info(f"{title}: {benchmark.size:,} images, {benchmark.kind}")
        try:
            scores = [_scored(benchmark, each, spec) for each, spec in zip(towers, specs)]
        except VladaptError as error:
            made.failed[title] = one_line(error)
            continue
        for spec, of in zip(specs, scores):
            made.rows += [_row(title, spec, score) for score in of]
        for spec, of in zip(specs[1:], scores[1:]):
            made.gains += [_gain(title, specs[0], spec, *pair) for pair in zip(scores[0], of)]
        if made.csv is not None and is_main():
            made.csv.parent.mkdir(parents=True, exist_ok=True)
            write_whole(made.csv, csv_text(COLUMNS, [_cells(row) for row in made.rows]))
            keeps("scores of the sets before", made.csv)
    made.gains = [gain for gain in made.gains if "difference" in gain]
    for each in towers:
        made.notes += [note for note in each.backbone.notes if note not in made.notes]
        made.skipped += [pair for pair in each.skipped if pair not in made.skipped]
    for benchmark in sets:
        made.notes += [note for note in benchmark.notes if note not in made.notes]
    return made


def _towers(recipe: Recipe, spec: str, reporter: Reporter) -> StoredTowers:
    """A backbone, and what reads plain folders on it."""
    backbone = announced(load_backbone(spec, recipe.device), reporter.info)
    backbone.need_texts("`vladapt bench`")

    def read(folder: Path):
        on = recipe.with_source(data=str(folder)).with_backbone(spec)
        return prepared_images(on, reporter, task_of(on), divided=False)

    encoding = Encoding(recipe.batch_size, recipe.workers, recipe.amp)
    return StoredTowers(backbone, read, reporter, recipe.seed, encoding, recipe.tolerate)


def _titles(sets: Sequence[BenchSet]) -> list[str]:
    """Names of sets, those of two that are called alike with their place."""
    named = [each.title for each in sets]
    return [name if named.count(name) == 1 else f"{name} ({each.folder})" for name, each in zip(named, sets)]


def _scored(benchmark: BenchSet, towers: StoredTowers, spec: str) -> list[BenchScore]:
    """Scores with what is published of them."""
    published = published_scores(spec, benchmark.published_as, benchmark.size)
    return [each.with_published(published.get((each.part, each.measure), {})) for each in benchmark.score(towers)]


def _row(title: str, spec: str, score: BenchScore) -> dict[str, Any]:
    low, high = score.interval or (None, None)
    facts = {"value": score.value, "low": low, "high": high, "count": score.count, "guessing": score.guessing}
    named = {"set": title, "part": score.part, "measure": score.measure, "backbone": spec}
    return {**named, **facts, "published": dict(score.published)}


def _cells(row: Mapping[str, Any]) -> list[Any]:
    """Of the CSV: the first published value and its source."""
    source, value = next(iter(row["published"].items()), ("", ""))
    flat = {**row, "published": value, "published_in": source}
    return ["" if flat[name] is None else flat[name] for name in COLUMNS]


def _gain(title: str, first: str, spec: str, before: BenchScore, after: BenchScore) -> dict[str, Any]:
    """Without "difference" where the scores cannot be paired."""
    named = {"set": title, "part": after.part, "measure": after.measure, "backbone": spec, "over": first}
    same = (before.part, before.measure) == (after.part, after.measure)
    gain = after.gain_over(before) if same else None
    if gain is None:
        return named
    low, high = gain.bounds or (None, None)
    return {**named, "difference": gain.value, "low": low, "high": high}
