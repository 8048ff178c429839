"""Draws from prepared data, of images and of rows of a features file alike."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch

from ...contracts.features import PROJECTED, FeatureSet
from ...contracts.items import DomainData, Item
from ...contracts.prepared import Shots, val_images
from ...data.sampling import draw_shots, sample_shots
from .base_run import BaseRun
from .resources import Resources


class Drawn(ABC):
    """Base of both kinds of prepared data: what is drawn of them, given how their features are made.

    Attributes:
        data: the items, each with its split.
        device: where features lie.
    """

    data: DomainData
    device: torch.device

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.data.class_names

    @property
    @abstractmethod
    def test(self) -> FeatureSet:
        """Features of the test split."""

    @abstractmethod
    def test_set(self, parts: bool = False) -> FeatureSet:
        """Features of the test split, with parts if wanted."""

    @abstractmethod
    def features(
        self,
        items: Sequence[Item],
        title: str,
        views: int = 0,
        seed: int = 0,
        tap: str = PROJECTED,
        parts: bool = False,
        augment: Callable[..., Any] | None = None,
    ) -> FeatureSet:
        """Features of some items.

        Args:
            title: what they are, for the line that shows progress.
            views: augmented views of each.
            augment: decoded image -> augmented pixels, by default the domain's.
        """

    @abstractmethod
    def encode_items(self, items: Sequence[Item], tap: str, parts: bool = False) -> FeatureSet:
        """Features of some items by this backbone."""

    @abstractmethod
    def _no_support(self) -> FeatureSet:
        """For methods that learn from no labelled image."""

    def draw(
        self,
        shots: int | None,
        seed: int,
        views: int = 0,
        augment: Callable[..., Any] | None = None,
        parts: bool = False,
        check: Callable[[FeatureSet], None] | None = None,
        val_shots: int | str | None = None,
        scenario: str | None = None,
        searches: bool = True,
    ) -> Shots:
        """Support, val and test features of one seed.

        Args:
            shots: images per class to learn from; None for all there are.
            views: augmented views of each support image.
            augment: decoded image -> augmented pixels, by default the domain's.
            parts: whether all three sets are to have parts; where the support has none, nor have they.
            check: called with the support before more is encoded; raises if that would be in vain.
            val_shots: as for `val_images`.
            scenario: how unequal the shots are, as `draw_shots` takes it.
            searches: whether settings may be chosen at all.
        """
        classes = len(self.class_names)
        wanted, parts = parts, parts or self.data.part_views is not None
        chosen = draw_shots(self.data.split("train"), shots, seed, num_classes=classes, scenario=scenario)
        pool = self.data.split("val")
        val = sample_shots(pool, val_images(shots, val_shots), seed, num_classes=classes) if pool else []
        if chosen:
            support = self.features(chosen, "support images", views, seed, parts=parts, augment=augment)
        else:
            support = self._no_support()
        if check is not None:
            check(support)
        parts = support.parts is not None
        held = self.features(val, "validation images", parts=parts) if val else None
        held = held.with_parts() if parts and val else held
        test = self.test_set(parts) if parts and wanted else self.test
        samples = behind(support, chosen), behind(held, val) if val else ()
        return Shots(support, held, test, *samples, seed, searches, augment)

    def with_val(self, shots: Shots) -> Shots:
        """The draw whose support has the images of val too, so that none are left to choose on."""
        if shots.val is None:
            return shots
        views = 0 if shots.support.views is None else shots.support.views.shape[1]
        items, parts = [*shots.items, *shots.val_items], shots.support.parts is not None
        title = "support and validation images"
        both = self.features(items, title, views, shots.seed, parts=parts, augment=shots.augment)
        both = both.with_parts() if parts else both
        return replace(shots, support=both, val=None, items=behind(both, items), val_items=())

    def of_ids(self, ids: Sequence[str], parts: bool = False) -> FeatureSet:
        """Features of some items by their ids, in that order."""
        by_id = {item.id: item for item in self.data.items}
        return self.encode_items([by_id[i] for i in ids], PROJECTED, parts)

    @cached_property
    def resources(self) -> Resources:
        """What the recipe names besides data and backbone."""
        return Resources(self)

    @cached_property
    def base(self) -> BaseRun | None:
        """The run that the recipe starts from."""
        return BaseRun.of_data(self, self.device)


def behind(features: FeatureSet, items: Sequence[Item]) -> tuple[Item, ...]:
    """The samples that could be read, in the order of their features."""
    by_id = {item.id: item for item in items}
    return tuple(by_id[i] for i in features.ids)
