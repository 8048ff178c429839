"""The pairs of a pre-training, in their splits."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ...contracts.backbone import Backbone
from ...contracts.domain import Domain
from ...contracts.families import BOTH
from ...contracts.images import LogPlace
from ...contracts.items import DomainData, Item
from ...contracts.options import TOLERATED
from ...contracts.recipe import SAMPLE, Recipe
from ...data.file_hashes import FileHashes
from ...data.pairs.captions import CaptionSampler
from ...data.pairs.columns import lengths
from ...data.pairs.pair_set import PairSet
from ...data.pairs.pair_splits import without_divided_copies
from ...data.pairs.reading import IN_A_ROW, PairReading, read_pairs
from ...data.pairs.shard_list import check_alike, reads_in_a_row
from ...data.pairs.shard_set import HeldOut, ShardPairs, read_shard_set
from ...data.pairs.text_pairs import TextPairs
from ...data.unlabelled import images_of, read_unlabelled
from ...data.verify import check_skipped
from ...errors import ConfigError, DataError
from ...prompts.classifier import fill
from ...recipes.asked_for import read_data
from ...runs.sections import plural
from ...runtime.remote import printed_name
from ...training.log import FILE
from ...training.parts import TrainingResult, TrainingTask
from ...training.settings import TrainingSettings
from ...training.sources import ImageSource, LabelledSource, PairSource, StreamedSource, TextSource
from ...training.train import train
from ..retrieval.fitting import divided_pairs
from ..retrieval.scoring import DomainPairs

CLASSIFIED = "classification"
"""The task of a domain whose data are labelled images."""
TABLES = (".csv", ".tsv", ".jsonl", ".json")
T = TypeVar("T", PairSet, DomainPairs, TextPairs)


@dataclass(frozen=True)
class ImageSet:
    """Images without texts, all of which are trained on.

    Args:
        data: as a domain reads them.
    """

    data: DomainData

    def __len__(self) -> int:
        return len(self.data.items)

    def __getitem__(self, row: int) -> Item:
        return self.data.items[row]


@dataclass(frozen=True)
class ClassImages(ImageSet):
    """Images with one label each, all of which are trained on.

    Args:
        data: as a domain reads them.
        prompts: C lists of texts, what is said of each class.
    """

    prompts: Sequence[Sequence[str]]


@dataclass(frozen=True)
class PairSplits:
    """Pairs to train on, and those held out.

    Args:
        name: of the set.
        licence: of the data, where known.
        train: to train on.
        val: to choose the epoch on; None where there is none.
        test: to report on; None where there is none.
        order: a sentence on the order in which `train` is read; "" where the training says it.
        images, texts: of all that was read; texts None where they were not counted.
        skipped: (file or line, reason) of everything left out while reading.
        notes: sentences for the user.
        number_names: of what the numbers of a domain's targets are, as of `DomainData`.
        transform: (backbone, train) -> how an image becomes pixels; None: by the backbone's own preprocessing, a crop
            and a flip in training.
    """

    name: str
    licence: str
    train: PairSet | ShardPairs | DomainPairs | ImageSet | TextPairs
    val: PairSet | DomainPairs | TextPairs | None
    test: PairSet | DomainPairs | TextPairs | None
    order: str
    images: int
    texts: int | None = None
    skipped: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    transform: Callable[[Backbone, bool], Callable] | None = None
    number_names: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def class_prompts(self) -> Sequence[Sequence[str]] | None:
        """Texts of the classes, where the images are labelled ones."""
        return self.train.prompts if isinstance(self.train, ClassImages) else None

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint must share."""
        if isinstance(self.train, ShardPairs):
            return {"pairs": self.name, "shards": self.train.digest}
        if isinstance(self.train, TextPairs):
            return {"pairs": self.name, "texts": self.train.digest}
        identity = {"pairs": self.name, "first": self.train[0].id}
        if isinstance(self.train, PairSet) and (weights := self.train.weights) is not None:
            identity["weights"] = hashlib.sha256(weights.tobytes()).hexdigest()[:16]
        return identity

    def source(self, choose: CaptionSampler) -> PairSource | LabelledSource | ImageSource | TextSource:
        """To train from."""
        if isinstance(self.train, TextPairs):
            return TextSource(self.train)
        if isinstance(self.train, ClassImages):
            return LabelledSource(self.train.data.items, self.train.data.load, self.train.prompts)
        if isinstance(self.train, ImageSet):
            return ImageSource(self.train.data.items, self.train.data.load)
        return (StreamedSource if isinstance(self.train, ShardPairs) else PairSource)(self.train, choose)

    def view(self, backbone: Backbone, train: bool) -> Callable | None:
        """How an image becomes pixels, where that is not the backbone's own."""
        return None if self.transform is None else self.transform(backbone, train)

    def val_part(self, most: int) -> PairSet | DomainPairs | TextPairs:
        """Val, or so many of its pairs spread evenly."""
        assert self.val is not None
        return spread(self.val, most)

    def facts(self, path: str) -> dict[str, Any]:
        """For run.json and the report."""
        parts = {"train": self.train, "val": self.val, "test": self.test}
        return {
            "name": self.name,
            "path": printed_name(path),
            "licence": self.licence,
            "images": self.images,
            **({} if self.texts is None else {"texts": self.texts}),
            "splits": {name: len(part) for name, part in parts.items() if part is not None},
        }


def read_pair_splits(
    path: str,
    seed: int,
    options: Mapping[str, Any],
    columns: Mapping[str, str] | None = None,
    say: Callable[[str], None] = lambda line: None,
    tolerate: float = TOLERATED,
) -> PairSplits:
    """Read pairs and split them by image, unless the data says how; copies of test images are in test alone. Of shards
    in object storage, and of many, only as much is read as is held out.

    Args:
        path: a file, folder or URL, or "sample".
        seed: of the split.
        options: fields of `Reading`.
        columns: that losses ask for, see `read_pairs`.
        say: told what takes a while.
        tolerate: share of the images that may be unreadable.

    Raises:
        DataError: nothing usable there, too much of it broken, no pairs to train on, or ranks see different data.
    """
    options = {"seed": seed, **options}
    if reads_in_a_row(path, PairReading(**options).order):
        return _read_in_a_row(path, options, columns, say)
    return _read_by_index(path, options, columns, tolerate)


def read_domain_splits(
    domain: Domain, task: str, path: str, seed: int, options: Mapping[str, Any], tolerate: float = TOLERATED
) -> PairSplits:
    """The same of a domain's captioned samples; what their targets say in numbers are columns.

    Args:
        task: for which the domain reads captions.
        options: fields of the domain's `Reading`.

    Raises:
        DataError: nothing usable there, or no pairs to train on. ConfigError: an option does not apply.
    """
    recipe = Recipe(data={"path": path, **options}, tolerate=tolerate)
    data = read_data(recipe, domain, task)
    read = divided_pairs(data, domain, task, seed)
    train, val, test = (read.pairs.split(name) for name in Item.SPLITS)
    check_enough(path, len(train), held_out=len(read.pairs) - len(train))
    texts = sum(len(item.captions()) for item in read.pairs.items)
    return PairSplits(
        read.name,
        read.licence,
        train,
        some(val),
        some(test),
        global_order(len(train)),
        len(read.pairs),
        texts,
        read.skipped,
        read.notes,
        read.transform,
        data.number_names,
    )


def has_images_alone(domain: Domain | None, path: str) -> bool:
    """Whether data that no caption is wanted of is read as images: a folder, or any file but a table."""
    place = Path(path)
    return place.is_dir() or (domain is not None and place.suffix.lower() not in TABLES)


def read_image_set(domain: Domain | None, path: str, options: Mapping[str, Any], tolerate: float) -> PairSplits:
    """Images without captions, at any depth of a folder; labels are not read.

    Args:
        domain: that reads them; None: plain image files.
        options: fields of the domain's `Reading`.

    Raises:
        DataError: no readable images there, or too many of them broken. ConfigError: an option does not apply.
    """
    if domain is None and options:
        raise ConfigError(
            f"--set data.{min(options)}: does not apply to images without captions; give --domain, or omit"
        )
    if path == SAMPLE and domain is not None:
        data = domain.sample(next(task for task in domain.tasks if isinstance(task, str)))
    else:
        data = read_unlabelled([path]) if domain is None else images_of(domain, [path], options)
    check_skipped(data.skipped, len(data.items) + len(data.skipped), tolerate)
    check_enough(path, len(data.items), "images")
    notes = ["All images are trained on: none of them is held out, and nothing is measured on them.", *data.notes]
    order = global_order(len(data.items), "images")
    name = Path(path).name or data.name
    whole, skipped = ImageSet(data), list(data.skipped)
    return PairSplits(name, data.licence, whole, None, None, order, len(whole), 0, skipped, notes)


def read_class_images(domain: Domain, path: str, options: Mapping[str, Any], tolerate: float) -> PairSplits:
    """Labelled images that are not marked as val or test, with what the domain says of their classes.

    Args:
        options: fields of the domain's `Reading`.

    Raises:
        DataError: nothing usable there, or images without one label each. ConfigError: an option does not apply.
    """
    data = read_data(Recipe(data={"path": path, **options}, tolerate=tolerate), domain, domain.check_task(CLASSIFIED))
    check_skipped(data.skipped, len(data.items) + len(data.skipped), tolerate)
    items = [item for item in data.items if item.split not in ("val", "test")]
    if any(not isinstance(item.class_label(), int) for item in items):
        raise DataError(f"--data {path}: images with one label each are needed; give class folders, or a table of them")
    check_enough(path, len(items), "labelled images")
    domain = domain.of(data)
    prompts = []
    for name in data.class_names:
        sentences = domain.sentences(name, CLASSIFIED)
        prompts.append(fill(domain.templates(CLASSIFIED), name) if sentences is None else sentences[0])
    rest = (
        f"; {len(data.items) - len(items):,} marked as val or test are left out" if len(items) < len(data.items) else ""
    )
    notes = [f"All {len(items):,} labelled images are trained on, and nothing is measured on them{rest}.", *data.notes]
    return PairSplits(
        Path(path).name or data.name,
        data.licence,
        ClassImages(data.with_items(items), prompts),
        None,
        None,
        global_order(len(items), "images"),
        len(data.items),
        0,
        list(data.skipped),
        notes,
        lambda backbone, train: domain.transforms(backbone, train, CLASSIFIED),
    )


def _read_by_index(
    path: str, options: Mapping[str, Any], columns: Mapping[str, str] | None, tolerate: float
) -> PairSplits:
    hashes = FileHashes()
    whole = read_pairs(path, hashes=hashes, columns=columns, **options)
    check_skipped(whole.skipped, whole.total, tolerate)
    whole = without_divided_copies(whole, hashes)
    train = whole.split("train")
    check_enough(path, len(train), held_out=len(whole) - len(train))
    check_alike([len(train), train.id(0), train.id(len(train) - 1)], "pairs to train on")
    return PairSplits(
        whole.name,
        whole.licence,
        train,
        some(whole.split("val")),
        some(whole.split("test")),
        order="" if train.weights is not None else global_order(len(train)),
        images=len(whole),
        texts=int(lengths(whole.columns.captions)[whole.rows].sum()),
        skipped=list(whole.skipped),
        notes=list(whole.notes),
    )


def _read_in_a_row(
    path: str, options: Mapping[str, Any], columns: Mapping[str, str] | None, say: Callable[[str], None]
) -> PairSplits:
    for name in set(options) - IN_A_ROW - {"seed", "order", "max_pixels"}:
        cure = f"; give {name}_samples or {name}_shards" if name in ("val", "test") else "; omit it"
        raise ConfigError(f"option {name} does not apply to shards that are read in sequence{cure}")
    reading = PairReading(**options)
    train, val, test = read_shard_set(
        path,
        HeldOut(reading.val_samples, reading.test_samples, reading.val_shards, reading.test_shards),
        seed=reading.seed,
        cache=Path(FileHashes().root),
        columns=columns,
        say=say,
        max_pixels=reading.max_pixels,
        block=reading.block,
        streams=reading.streams,
    )
    images = len(train) + sum(len(part) for part in (val, test) if part is not None)
    return PairSplits(train.name, train.licence, train, val, test, "", images, notes=list(train.notes))


def check_enough(path: str, count: int, what: str = "pairs", held_out: int = 0) -> None:
    if count < 2:
        cure = "give more, or mark more rows as train" if what == "pairs" else "give more"
        rest = f", {held_out:,} to validate and test" if held_out else ""
        raise DataError(f"--data {path}: {count} {what} to train on{rest}; {cure}")


def global_order(count: int, what: str = "pairs") -> str:
    return f"Order: global. Each epoch shuffles all {count:,} {what} to train on"


def spread(pairs: Any, most: int) -> Any:
    """All, or so many spread evenly."""
    rows = np.linspace(0, len(pairs) - 1, most).round().astype(int)
    return pairs if len(pairs) <= most else pairs.select(rows)


def some(pairs: T) -> T | None:
    return pairs if len(pairs) > 1 else None


# Chinese CLIP: Contrastive Vision-Language Pretraining in Chinese, 2022, arXiv 2211.01335.


def train_in_stages(
    backbone: Backbone,
    task: TrainingTask,
    settings: TrainingSettings,
    folder: Path,
    *,
    resume: bool,
    on_step: Callable[[int, int, dict[str, float]], None],
    on_message: Callable[[str], None],
    hooks: Sequence[Mapping[str, Any]] = (),
) -> TrainingResult:
    """Train as the settings say; each stage has its own optimiser, schedule and checkpoints.

    Returns:
        What the last stage did, with the histories of all.
    """
    stages = stage_settings(settings)
    all_epochs, before, steps, history, trained, best = settings.epochs, 0, 0, [], None, None
    for number, stage in enumerate(stages, start=1):
        if len(stages) > 1:
            locked = "both towers" if stage.lock == (BOTH,) else f"{', '.join(stage.lock)} tower"
            what = f"{locked} locked" if stage.lock else "all weights trained"
            on_message(f"Stage {number} of {len(stages)}: {plural(stage.epochs, 'epoch')}, {what}")

        def on_stage_step(done: int, total: int, values: dict, before=before, stage=stage) -> None:
            an_epoch = total // stage.epochs
            on_step(done + before * an_epoch, all_epochs * an_epoch, values)

        place = folder / f"stage-{number}"
        log = LogPlace(folder / FILE, steps, before, number if len(stages) > 1 else None)
        callbacks = {"log": log, "on_step": on_stage_step, "on_message": on_message, "hooks": hooks}
        trained = train(backbone, task, stage, place, resume=resume, **callbacks)
        steps += trained.steps
        best = None if trained.best_epoch is None else trained.best_epoch + before
        history += [{**row, "epoch": row["epoch"] + before, "stage": number} for row in trained.history]
        before += stage.epochs
    return replace(trained, history=history, best_epoch=best, steps=trained.steps // stages[-1].epochs * all_epochs)


def stage_settings(settings: TrainingSettings) -> list[TrainingSettings]:
    """The settings of each stage."""
    if not settings.unlock_after:
        return [settings]
    first = replace(settings, epochs=settings.unlock_after, unlock_after=0)
    return [first, replace(settings, epochs=settings.epochs - settings.unlock_after, lock=(), unlock_after=0)]
