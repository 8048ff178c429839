"""A domain that keeps the contract, and others that break one rule each; `BROKEN` says in which words."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path
from typing import ClassVar

import broken_adapters
import numpy as np

from vladapt import Domain, DomainData, Item, Label, Metric, Target
from vladapt.core.data.detect import read_any

BROKEN: list[tuple[type[Domain], tuple[str, ...]]] = []
COLOURS = {"red": (220, 30, 30), "green": (30, 180, 40), "blue": (40, 60, 220)}


breaks = partial(broken_adapters.breaks, where=BROKEN)
"""Of a class: the lines that its checks say."""


def item_of(index: int, target: Target | None = None, **fields) -> Item:
    digest = hashlib.sha256(f"patch {index}".encode()).hexdigest()
    return Item(f"patch-{index}", Path(__file__), {"index": index, "digest": digest}, target, **fields)


def draw(item: Item) -> np.ndarray:
    index = item.decode["index"]
    noise = np.random.default_rng(index).integers(-20, 20, (20, 24, 3))
    return np.clip(np.array(list(COLOURS.values())[index % 3]) + noise, 0, 255).astype(np.uint8)


class Whole(Domain):
    """Patches of three colours."""

    name = "whole"

    def read(self, path, task, **options):
        return read_any(path, **options)

    def sample(self, task):
        items = [item_of(i, Label(i % 3), group=f"group {i // 3}") for i in range(18)]
        return DomainData(items, tuple(COLOURS), draw, name="patches", licence="CC0-1.0")

    def templates(self, task):
        return ["a {} patch.", "a picture of a {} patch."]


class Changed(Whole):
    """Whole, with each item, or all of a sample, changed."""

    def of_item(self, index, item):
        return item

    def of_sample(self, data):
        return data

    def sample(self, task):
        data = super().sample(task)
        items = [self.of_item(index, item) for index, item in enumerate(data.items)]
        return self.of_sample(data.with_items(items))


# names and words ------------------------------------------------------------------------------------------------------


@breaks("its name is 'Two Words'; give lower-case words joined by hyphens")
class TwoWords(Whole):
    name = "Two Words"


@breaks("names a task twice")
class TaskTwice(Whole):
    tasks = ("classification", "classification")


@breaks("its name is that of vladapt.domains.medical; choose another")
class Rival(Whole):
    name = "medical"


@breaks("names the adapter 'tip-adaptor', which is not installed; did you mean tip-adapter...")
class NoSuchAdapter(Whole):
    default_adapter = "tip-adaptor"


@breaks(
    "names the metric 'kappa', which is not installed; there are: ...",
    "its metrics are numbers: UnknownNameError: ...",
)
class NoSuchMetric(Whole):
    metrics = ("kappa",)


@breaks("names Label as a metric, which is not a Metric", "its metrics are numbers: TypeError: ...")
class NoMetric(Whole):
    metrics = (Label,)


@breaks("has own_files of the task 'mapping', which it does not have")
class FilesOfAnotherTask(Whole):
    own_files: ClassVar = {"mapping": (".map",)}


@breaks("names '.csv' in own_files; give suffixes in lower case, other than .csv, .jsonl, .html")
class FilesOfRows(Whole):
    own_files: ClassVar = {"classification": (".map", ".csv")}


@breaks("names files of its own and has no write_own")
class UnwrittenFiles(Whole):
    own_files: ClassVar = {"classification": (".map",)}


class Kappa(Metric):
    name = "kappa"
    value = float("nan")

    def compute(self, logits, labels, class_names):
        return self.value


@breaks("its metric 'kappa' is nan where images have one label; give a finite number")
class NotANumber(Whole):
    metrics = (Kappa,)


class HiddenAccuracy(Kappa):
    name, value = "accuracy", 0.5


@breaks("its metric 'accuracy' has the name of a usual one; give it another")
class HidesAccuracy(Whole):
    metrics = (HiddenAccuracy,)


class Rounding(Kappa):
    value = 0.5

    def compute(self, logits, labels, class_names):
        logits.round_()
        return self.value


@breaks("its metric 'kappa' changes the logits; work on a copy")
class ChangesLogits(Whole):
    metrics = (Rounding,)


class OfOneLabel(Kappa):
    multilabel = True

    def compute(self, logits, labels, class_names):
        return float("nan") if labels.ndim == 2 else {"left": 0.5}


@breaks("its metric 'kappa' is nan where images have several labels; give a finite number")
class NotOfSeveral(Whole):
    metrics = (OfOneLabel,)


@breaks("its templates of classification: template 'a patch.' has no place for the class name; ...")
class NoPlace(Whole):
    def templates(self, task):
        return ["a patch."]


@breaks("its negative_templates of classification are []; give a list of texts")
class NoNegatives(Whole):
    def negative_templates(self, task):
        return []


@breaks("its templates of classification hold a text twice")
class TextTwice(Whole):
    def templates(self, task):
        return ["a {}.", "a {}."]


# reading --------------------------------------------------------------------------------------------------------------


@breaks("given a missing path, read() raises nothing; raise the DataError of one line")
class ReadsAnything(Whole):
    def read(self, path, task, **options):
        self.reading_of(options)
        return self.sample(task)


@breaks("given an empty folder, read() does not name it; raise the DataError of one line")
class NamesNoFolder(Whole):
    def read(self, path, task, **options):
        from vladapt import DataError

        if Path(path).name == "empty":
            raise DataError("nothing there; give images")
        return super().read(path, task, **options)


@breaks("given a missing path, read_images() raises FileNotFoundError (...); raise the DataError of one line")
class OpensAnything(Whole):
    def read_images(self, paths, **options):
        return [Path(path).read_bytes() for path in paths]


@breaks(
    "given class_namesx=1, read() raises DataError (...); read options by self.reading_of(options) before anything else"
)
class PassesOptionsOver(Whole):
    def read(self, path, task, **options):
        return read_any(path)
