"""What a trained model finds in images that come one by one, for a server: the rows of `predict`, and other names for
some requests while others go on with the model's own."""

from __future__ import annotations

import tempfile
from abc import abstractmethod
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import numpy as np
from torch import nn

from ....core.contracts import DomainData, Item
from ....core.errors import CapabilityError, ConfigError, DataError
from ....core.export import boxes, maps
from ....core.tasks import Finder
from ..data.prompts import OBJECT, PROMPTS, boxes_of, shown_objects
from ..vocabulary import Vocabulary, texts_kept_in
from .detection import believed_from, notes_on_names, predict_detection, rivals
from .predictions import PredictedBoxes, PredictedMap, chosen_boxes, without_unsure
from .running import (
    Looking,
    ask_for,
    check_shown,
    finds_itself,
    known_names,
    model_takes_names,
    names_given_regions,
    names_with_background,
    outlines_alone,
    takes_prompts,
)
from .segmentation import predict_segmentation


class ModelFinder(Finder):
    """A detector or a segmentor.

    Args:
        model: with `cfg`, as `outcomes` takes it.

    Raises:
        CapabilityError: it finds nothing by itself.
    """

    def __init__(self, model: nn.Module):
        if names_given_regions(model) and not takes_prompts(model):
            raise CapabilityError(
                "this model looks at regions that are given with an image and finds none itself, so it is not served; "
                "use vladapt predict"
            )
        self.model, self._looking = model, Looking(model, None)
        self.names, self.any_names = known_names(model), model_takes_names(model)

    def ready(self, item: Item) -> Any:
        return self._looking.ready(item)

    def find(self, images: Sequence[tuple[Item, Any]]) -> list[dict[str, Any]]:
        return [self._row(sample) for group in self._looking.tested(list(images)) for _, sample in group]

    def check_names(self, names: Sequence[str]) -> None:
        Vocabulary.of(list(names), "name")

    def named(self, names: Sequence[str]) -> ModelFinder:
        """A copy of the model whose parameters are this one's: what it makes of the names is its own. Texts that a
        client sends are encoded and not kept in the cache of features."""
        model = deepcopy(self.model, {id(weight): weight for weight in self.model.parameters()})
        with tempfile.TemporaryDirectory(prefix="vladapt-") as folder, texts_kept_in(folder):
            ask_for(model, names_with_background(model, list(names)))
        return type(self)(model)

    def chosen(self, row: dict[str, Any], names: Sequence[str] | None, score: float | None) -> dict[str, Any]:
        names = None if self.any_names else names
        return row if names is None and score is None else self._chosen(row, names, score)

    @abstractmethod
    def _row(self, sample: Any) -> dict[str, Any]:
        """Of a data sample that the model made."""

    @abstractmethod
    def _chosen(self, row: dict[str, Any], names: Sequence[str] | None, score: float | None) -> dict[str, Any]:
        """As `chosen`, where there is anything to choose."""


class BoxFinder(ModelFinder):
    """A detector."""

    options: Sequence[str] = ("score", "classes")
    score: float | None

    def __init__(self, model: nn.Module):
        super().__init__(model)
        self._rivals = rivals(model)
        self.score = believed_from(model)

    def find_in_windows(self, data: DomainData) -> dict[str, Any]:
        (row,) = predict_detection(self.model, data, lambda done, total: None)
        return {key: value for key, value in row.items() if key != "id"}

    def notes(self) -> list[str]:
        return notes_on_names(self.model)

    def _row(self, sample: Any) -> dict[str, Any]:
        return PredictedBoxes.of(sample).without_rivals(self._rivals).row(self.names, outlines_alone(self.model))

    def _chosen(self, row: dict[str, Any], names: Sequence[str] | None, score: float | None) -> dict[str, Any]:
        if names is not None:
            places = [place for place, name in enumerate(row["labels"]) if name in names]
            row = chosen_boxes(row, places)
            labels = np.array([self.names.index(name) for name in row["labels"]], dtype=int)
            row["summary"] = boxes.summary_of(np.array(row["scores"]), labels, self.names)
        return row if score is None else without_unsure(row, score)


class PromptedFinder(BoxFinder):
    """A model of the Segment Anything family, on whose images boxes and points are shown."""

    shows: Sequence[str] = ("box", "points")

    def __init__(self, model: nn.Module):
        if finds_itself(model):
            model.prompted = True
        super().__init__(model)
        self.options = ("prompts",)
        if finds_itself(model):
            self.options, self.shows = (*super().options, "prompts"), ("box",)
        else:
            self.score = None

    def check_prompts(self, prompts: Sequence[Any] | None) -> None:
        if not prompts and not finds_itself(self.model):
            raise ConfigError(f"this model outlines what it is shown; give prompts=[...], {OBJECT}")
        try:
            check_shown(self.model, shown_objects(prompts or (), PROMPTS))
        except DataError as error:
            raise ConfigError(str(error)) from error

    def asked_for(self, classes, prompts):
        shown = [each.name for each in shown_objects(prompts or (), PROMPTS)]
        return tuple(dict.fromkeys([*(classes or ()), *shown])) or None

    def with_prompts(self, item: Item, names: Sequence[str] | None, prompts: Sequence[Any] | None) -> Item:
        return item.with_(target=boxes_of(shown_objects(prompts or (), PROMPTS), names or ()))


class MapFinder(ModelFinder):
    """A segmentor."""

    options = ("classes",)
    score = None

    def find_in_windows(self, data: DomainData) -> dict[str, Any]:
        (row,) = predict_segmentation(self.model, data, lambda done, total: None)
        return {key: value for key, value in row.items() if key != "id"}

    def notes(self) -> list[str]:
        return []

    def _row(self, sample: Any) -> dict[str, Any]:
        return PredictedMap.of(sample).row(self.names)

    def _chosen(self, row: dict[str, Any], names: Sequence[str] | None, score: float | None) -> dict[str, Any]:
        shares = {name: share for name, share in row["shares"].items() if names is None or name in names}
        masks = {name: mask for name, mask in row["masks"].items() if name in shares}
        return {**row, "shares": shares, "masks": masks, "summary": maps.summary_of(shares)}
