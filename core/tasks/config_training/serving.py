"""A run of an mmengine config that answers requests: images of many go through the model at once, with `predict`'s
answers."""

from __future__ import annotations

import tempfile
import time
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from ...backbones.load import load_backbone
from ...contracts.domain import Domain
from ...contracts.items import DomainData, Item
from ...contracts.serving import (
    FinderFacts,
    Refused,
    Sample,
    Served,
    Serving,
    Wishes,
    check_finding,
    only_answered,
)
from ...contracts.use import Use
from ...data.unlabelled import images_of, readable
from ...errors import CapabilityError, ConfigError, LimitError
from .kept_model import KeptModel
from .registered import registered_only
from .runner import quiet_mm

SIZES, GPU_SIZES = (1, 2, 4), (1, 2, 4, 8)
KEPT = 8
"""Sets of names, of requests, whose models are kept: weights are shared, what texts make of the names is not."""
EXAMPLE = (640, 480)


class Finder(ABC):
    """What a task finds in images by a trained model. `ready` and `chosen` are called in several threads at once, all
    others in one.

    Attributes:
        names: its classes.
        any_names: whether others may be asked for.
        options: names of the `Wishes` that its rows follow.
        score: from which on what it finds is to be believed; None where it scores nothing.
        shows: what may be shown on an image: "box", "points".
    """

    names: Sequence[str]
    any_names: bool
    options: Sequence[str]
    score: float | None
    shows: Sequence[str] = ()

    def check_prompts(self, prompts: Sequence[Any] | None) -> None:
        """Raise the ConfigError of what cannot be shown, or is missing; quick."""

    def asked_for(self, classes: tuple[str, ...] | None, prompts: Sequence[Any] | None) -> tuple[str, ...] | None:
        """The names that a request looks for, by those that it says and what it shows; None for the model's own."""
        return classes

    def with_prompts(self, item: Item, names: Sequence[str] | None, prompts: Sequence[Any] | None) -> Item:
        """An image with what a request that looks for some names shows on it."""
        return item

    @abstractmethod
    def ready(self, item: Item) -> Any:
        """An image as the model takes it; any error says why it cannot be."""

    @abstractmethod
    def find(self, images: Sequence[tuple[Item, Any]]) -> list[dict[str, Any]]:
        """The row of each of some prepared images, without its id."""

    @abstractmethod
    def find_in_windows(self, data: DomainData) -> dict[str, Any]:
        """The row of a picture, of its windows."""

    @abstractmethod
    def check_names(self, names: Sequence[str]) -> None:
        """Raise the ConfigError of names that cannot be asked for, where any may be; quick."""

    @abstractmethod
    def named(self, names: Sequence[str]) -> Finder:
        """One that looks for these names, with the same weights; this one stays as it is.

        Raises:
            ConfigError, CapabilityError: the model cannot be asked for them.
        """

    @abstractmethod
    def chosen(self, row: dict[str, Any], names: Sequence[str] | None, score: float | None) -> dict[str, Any]:
        """Of a row what has one of some names and scores at least so much; None for all."""

    @abstractmethod
    def notes(self) -> list[str]:
        """Sentences for who asks."""


@dataclass
class _Source:
    """Of a sample: its image, or the windows of its picture."""

    items: Sequence[Item]
    data: DomainData | None = None


class ServedConfig(Served):
    """A run.

    Args:
        use: the run, and how it is used.
        domain, reading: what reads its images, and how.
        finder: what finds things by its model.
        serving: of the server.

    Raises:
        CapabilityError: nothing was trained, or the task's models are not served. DataError: the run is damaged.
        ConfigError: labelled images are to be named.
    """

    facts: FinderFacts

    def __init__(
        self,
        use: Use,
        domain: Domain,
        reading: Mapping[str, Any],
        finder: Callable[[nn.Module], Finder],
        serving: Serving,
    ):
        if serving.training_ids:
            raise ConfigError("--training-ids: this run names no images that it learned from; omit it")
        if serving.threads is not None:
            torch.set_num_threads(serving.threads)
        device = load_backbone(use.run.info.backbone.spec, device=use.device).device
        model = KeptModel(use.run).load(device)
        if model is None:
            raise CapabilityError(f"{use.run.shown}: nothing was trained in this run, so there is nothing to serve")
        with registered_only(), quiet_mm():
            self.finder = finder(model)
        self.name, self._domain = use.run.place or use.run.path.name, domain
        self.facts = FinderFacts(
            task=use.run.info.task,
            adapter=type(model).__name__,
            class_names=list(self.finder.names),
            options=self.finder.options,
            any_names=self.finder.any_names,
            score=self.finder.score,
            shows=self.finder.shows,
        )
        limit = vars(domain.reading_of(reading)).get("max_pixels")
        self._max_pixels = serving.max_pixels if limit is None else min(limit, serving.max_pixels)
        self._reading = reading if limit is None else {**reading, "max_pixels": self._max_pixels}
        self._named: OrderedDict[tuple[str, ...], Finder] = OrderedDict()
        self.sizes = SIZES if device.type == "cpu" else GPU_SIZES
        self.clock = time.process_time if device.type == "cpu" else time.perf_counter

    def samples(self, files: Sequence[Path]) -> tuple[list[Sample], list[Refused]]:
        data = readable(images_of(self._domain, files, self._reading))
        pictures = by_picture([_limited(item, self._max_pixels) for item in data.items])
        samples = [Sample(name, _Source(items, data)) for name, items in pictures.items()]
        return samples, [Refused(*pair) for pair in data.skipped]

    def prepare(self, sample: Sample) -> None:
        """`prepared` is what the model takes; None of a picture in windows, which would take too much memory while it
        waits."""
        if not _in_windows(sample):
            item, prompts = sample.source.items[0], sample.wishes.prompts
            sample.prepared = self.finder.ready(self.finder.with_prompts(item, self._names(sample.wishes), prompts))
        elif sample.wishes.prompts:
            raise LimitError(f"{sample.id}: too large to show anything on it; send a smaller picture")

    def answer(self, samples: Sequence[Sample]) -> None:
        by_names: dict[tuple[str, ...] | None, list[Sample]] = {}
        for sample in samples:
            by_names.setdefault(self._names(sample.wishes), []).append(sample)
        with registered_only(), quiet_mm():
            for names, group in by_names.items():
                try:
                    finder = self._asked_for(names) if names is not None and self.facts.any_names else self.finder
                except (CapabilityError, ConfigError) as error:
                    for sample in group:
                        sample.answer = ConfigError(str(error))
                else:
                    _answer(group, finder)

    def _names(self, wishes: Wishes) -> tuple[str, ...] | None:
        return self.finder.asked_for(wishes.classes, wishes.prompts)

    def _asked_for(self, names: tuple[str, ...]) -> Finder:
        finder = self._named.pop(names, None) or self.finder.named(names)
        self._named[names] = finder
        if len(self._named) > KEPT:
            self._named.popitem(last=False)
        return finder

    def check(self, wishes: Wishes) -> None:
        super().check(wishes)
        check_finding(wishes, self.facts)
        self.finder.check_prompts(wishes.prompts)
        names = self._names(wishes)
        if names is not None and self.facts.any_names:
            self.finder.check_names(names)

    def rows(self, samples: Sequence[Sample], skipped: Sequence[Refused], wishes: Wishes) -> dict[str, Any]:
        samples, skipped = only_answered(samples, skipped)
        finder = samples[0].answer[0]
        rows = [{"id": each.id, **finder.chosen(each.answer[1], wishes.classes, wishes.score)} for each in samples]
        notes = finder.notes()
        answer = {"run": self.name, "predictions": rows, "skipped": [[each.id, each.reason] for each in skipped]}
        return {**answer, "notes": notes} if notes else answer

    def examples(self, count: int) -> list[Sample]:
        with tempfile.TemporaryDirectory(prefix="vladapt-") as folder:
            item = Item("example", Path(folder) / "example.png")
            Image.new("RGB", EXAMPLE, (127, 127, 127)).save(item.source)
            return [Sample(f"{item.id} {n}", _Source([item]), self.finder.ready(item)) for n in range(count)]


def by_picture(items: Sequence[Item]) -> dict[str, list[Item]]:
    """Id of each picture -> its windows, or itself."""
    pictures: dict[str, list[Item]] = {}
    for item in items:
        pictures.setdefault(item.id.rpartition("#")[0] if Item.WHOLE in item.decode else item.id, []).append(item)
    return pictures


def _answer(samples: Sequence[Sample], finder: Finder) -> None:
    ready = [sample for sample in samples if not _in_windows(sample)]
    if ready:
        rows = finder.find([(sample.source.items[0], sample.prepared) for sample in ready])
        for sample, row in zip(ready, rows, strict=True):
            sample.answer = finder, row
    for sample in samples:
        if _in_windows(sample):
            source = sample.source
            sample.answer = finder, finder.find_in_windows(replace(source.data, items=list(source.items)))


def _in_windows(sample: Sample) -> bool:
    return Item.WHOLE in sample.source.items[0].decode


def _limited(item: Item, max_pixels: int) -> Item:
    """An item that says how large its picture may be to transforms that decode it."""
    return item.with_(decode={**item.decode, "max_pixels": max_pixels})
