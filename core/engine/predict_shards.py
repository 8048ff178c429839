"""`predict --as parquet`: a run's answers as shards, for sets that no single machine holds.

A row of a shard is an image, with the columns that `predictions.csv` has; lists are lists, and numbers are not rounded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..contracts.domain import Domain
from ..contracts.families import OFFERED
from ..contracts.items import DomainData
from ..contracts.serving import NoneReadable
from ..contracts.task import Task
from ..contracts.use import USE, Use
from ..errors import CacheError, CapabilityError, ConfigError, DataError, SourceError, one_line
from ..features.store import FeatureStore
from ..features.table import transform_spec
from ..recipes.resolve import task_of_run
from ..runs.folder import open_run
from ..runtime.progress import Reporter
from ..runtime.remote import is_url
from ..shards import Manifest, ShardPlace, Stage, Unreadable
from ..shards.sources import OpenedParquet, ShardRow
from ..shards.stage import arrow_type
from .options import ShardOptions
from .shard_jobs import BATCH, MOST_SKIPPED, job_of, manifest_of, place_of_shards, run_job
from .shard_rows import RowReader, domain_of, images_listed, is_read_by, manifest_of_items

if TYPE_CHECKING:
    import pyarrow

BATCHES_AT_ONCE = 4
"""Of rows that are decoded while others pass through the towers."""
REFUSED = {
    "stream": "shards know nothing of each other",
    "per_patient": "the images of a patient may be in several shards",
    "explain": "explanations are written to a page",
    "top": "each class has a column",
}
"""Wishes that shards do not fulfil -> why."""
OF_NO_ANSWER = ("device", "workers", "batch_size", "tolerate")
"""Options of a use that change no answer, or stand in the plan."""
TYPES = {bool: "bool", int: "int64", float: "double", str: "string"}
OF_LISTS = {"confidences": "list<double>"}
"""Columns whose lists may be empty in the row that types are taken from."""


@dataclass
class PredictedShards:
    """What was written as shards: the folder, how many images, how many shards, how many of them were there before, and
    how many images could not be read, of which `skipped` names the first."""

    folder: str
    images: int
    shards: int
    shards_before: int
    unreadable: int
    skipped: list[tuple[str, str]]

    @property
    def files(self) -> list[Path]:
        """The shards, where they are files of this machine."""
        return [] if is_url(self.folder) else sorted(Path(self.folder).glob("part-*.parquet"))

    def rows(self) -> list[dict[str, Any]]:
        """One dict per image, read from the shards."""
        place = ShardPlace(self.folder)
        names = sorted(name for name in place.listed("") if name.endswith(".parquet"))
        return [row for name in names for row in _rows_in(place.path(name))]


def _rows_in(name: str) -> list[dict[str, Any]]:
    with closing(OpenedParquet(name)) as opened:
        return opened.file.read().to_pylist()


@dataclass(frozen=True)
class PredictStage(Stage):
    """Answers of a run.

    Args:
        folder: of the run.
        backbone: where its backbone lies here, or None.
        wishes: options of the use, by name.
        judging: options of judgements.
        model: digest of the run and its backbone.
        transform: how an image becomes pixels, as text.
        types: column -> type, as pyarrow calls it, besides the id and those of classes.
        classes: column of each class, in their order.
        listed: paths that the domain reads in files of its own; None where images are read as they come.
        domain: one that is not installed, or None.
    """

    folder: str
    backbone: str | None
    wishes: Mapping[str, Any]
    judging: Mapping[str, Any]
    model: str
    transform: str = ""
    types: Mapping[str, str] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    listed: tuple[str, ...] | None = None
    domain: Domain | None = None
    name: str = field(default="predict", init=False)

    @property
    def settings(self) -> Mapping[str, Any]:
        return {
            "model": self.model,
            "wishes": {name: value for name, value in self.wishes.items() if name not in OF_NO_ANSWER},
            "judging": dict(self.judging),
            "transform": self.transform,
            "types": dict(self.types),
            "classes": list(self.classes),
        }

    @property
    def columns(self) -> tuple[str, ...]:
        return () if self.listed is None else ("decode",)

    @property
    def schema(self) -> pyarrow.Schema:
        import pyarrow as pa

        types = {"id": "string", **self.types, **dict.fromkeys(self.classes, "double")}
        return pa.schema({name: arrow_type(kind) for name, kind in types.items()})

    def start(self, threads: int | None) -> _Model:
        opened = open_run(self.folder, self.backbone)
        task = task_of_run(opened, self.domain)
        predictor = task.predictor(Use(opened, ("",), **self.wishes, judging=self.judging))
        if predictor.fingerprint != self.model:
            raise ConfigError(f"{self.folder}: has changed since the plan was made; start again")
        return _Model(self, task, predictor, threads or torch.get_num_threads())

    def run(self, state: _Model, rows: Iterator[ShardRow], batch_size: int) -> Iterator[Any]:
        while some := list(islice(rows, BATCHES_AT_ONCE * batch_size)):
            yield from state.answers(some, batch_size)


class _Model:
    """What a worker holds."""

    def __init__(self, stage: PredictStage, task: Task, predictor: Any, threads: int):
        self.stage, self.predictor = stage, predictor
        reading, data = predictor.recipe.reading, None
        if stage.listed is not None:
            data = images_listed(domain_of(task), stage.listed, reading)
        self.reader = RowReader(domain_of(task, data), reading, data)
        self.store = FeatureStore(keep=False, alone=threads)
        wishes = {**stage.wishes, "workers": threads}
        self.use = Use(predictor.run, ("",), **wishes, judging=stage.judging)
        self.on_cpu = predictor.backbone.device.type == "cpu"

    def answers(self, rows: Sequence[ShardRow], batch_size: int) -> Iterator[Any]:
        """A table of the rows that can be answered, and what is wrong with the others."""
        try:
            made = self._predicted(rows, batch_size)
        except NoneReadable as error:
            yield from (Unreadable(*each) for each in error.skipped)
        except (CacheError, SourceError):
            raise
        except DataError as error:  # as of scores that are NaN
            if len(rows) == 1:
                yield Unreadable(rows[0].id, one_line(error))
                return
            for row in rows:  # which of them is it?
                yield from self.answers([row], batch_size)
        else:
            yield self._table(made)
            yield from (Unreadable(*each) for each in made.skipped)

    def _predicted(self, rows: Sequence[ShardRow], batch_size: int) -> Any:
        use, data = replace(self.use, batch_size=batch_size), self.reader.samples(rows)
        before = torch.get_num_threads()
        torch.set_num_threads(1 if self.on_cpu else before)  # the same numbers from any number of cores
        try:
            return self.predictor.predict_data(use, data, Reporter(quiet=True), self.store)
        finally:
            torch.set_num_threads(before)

    def _table(self, made: Any) -> pyarrow.Table:
        import pyarrow as pa

        rows, schema = made.rows(), self.stage.schema
        columns = {name: [row.get(name) for row in rows] for name in ("id", *self.stage.types)}
        columns |= dict(zip(self.stage.classes, made.probabilities.T.tolist()))
        return pa.table(columns, schema)


def predict_shards(
    use: Use,
    task: Task,
    out: str,
    asked: ShardOptions,
    reporter: Reporter,
    backbone: str | None = None,
    domain: Domain | None = None,
) -> PredictedShards:
    """Write answers as shards, under torchrun with the other ranks.

    Args:
        use: the run, the images and what is wished.
        task: of the run.
        out: a folder, or a URL of one.
        asked: how work is cut, and who runs it.
        backbone: where the run's backbone lies here, or None.
        domain: one that is not installed, or None.

    Raises:
        DataError: nothing readable, more unreadable than are tolerated, or shards that could not be made.
        ConfigError, CapabilityError: what is asked for does not go together, or a method that reads all images at once.
    """
    for name, why in REFUSED.items():
        if getattr(use, name):
            raise ConfigError(f"--{name.replace('_', '-')}: {why}; omit it, or --as parquet")
    executor, place = asked.executor(use.device, reporter.info), place_of_shards(out)
    predictor = task.predictor(use)
    predictor.check_one_by_one("an answer would depend on the shard; omit --as parquet")
    if asked.is_elsewhere and predictor.backbone.spec in OFFERED:
        raise CapabilityError("a backbone made of a module lives in this process; omit --processes and --engine")
    stage, manifest = _planned(use, task, predictor, place, backbone, domain)
    job = job_of(stage, manifest, place, asked, use.batch_size or BATCH, use.workers)
    made = run_job(job, executor, use.tolerate, reporter, "Predicting")
    skipped = [*manifest.skipped[:MOST_SKIPPED], *made.examples]
    return PredictedShards(str(job.work.place), made.rows, made.shards, made.before, made.unreadable, skipped)


def _planned(
    use: Use, task: Task, predictor: Any, place: ShardPlace, backbone: str | None, domain: Domain | None
) -> tuple[PredictStage, Manifest]:
    own, data, reading = domain_of(task), None, predictor.recipe.reading
    if is_read_by(own, use.images):
        data = images_listed(own, use.images, reading)
        manifest = manifest_of_items(data, place)
    else:
        manifest = manifest_of([str(each) for each in use.images], place)
    if not any(source.has_images for source in manifest.sources):
        raise DataError(f"{use.images[0]}: no source has images; give images, or tables with a column of them")
    types = _types(use, predictor, data)
    wishes = {name: getattr(use, name) for name, each in USE.items() if getattr(use, name) != each.default}
    stage = PredictStage(
        folder=str(use.run.path.absolute()),
        backbone=backbone,
        wishes=wishes,
        judging=use.judging,
        model=predictor.fingerprint,
        transform=transform_spec(domain_of(task, data).transforms(predictor.backbone, False, task.name)),
        types=types,
        classes=tuple(_column(name, types) for name in predictor.adapter.class_names_),
        listed=None if data is None else tuple(map(str, use.images)),
        domain=domain,
    )
    return stage, manifest


def _types(use: Use, predictor: Any, data: DomainData | None) -> dict[str, str]:
    """Column -> type, from what is said of an image of which nothing is known."""
    names, dims = predictor.adapter.class_names_, predictor.backbone.embed_dim
    placed = {} if data is None else predictor.domain.placed(data.items[0])
    one = predictor.predictions(use, ["x"], torch.zeros(1, len(names)), torch.ones(1, dims), [], [placed])
    row = {name: value for name, value in one.rows()[0].items() if name not in ("id", "top")}
    types = {name: OF_LISTS.get(name) or _type_of(value) for name, value in row.items()}
    return types | ({} if data is None else dict.fromkeys(predictor.columns_of_parts(data), "string"))


def _type_of(value: Any) -> str:
    if isinstance(value, list):
        return f"list<{_type_of(value[0]) if value else 'string'}>"
    return TYPES[type(value)]


def _column(name: str, taken: Mapping[str, str]) -> str:
    return f"{name} (probability)" if name in {"id", *taken} else name
