"""What methods share that take test images one after the other, and learn from each before the next."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.contracts import Adapter, Batch, FeatureSet, FitReport, TrainingImages, has, option
from ...core.errors import CapabilityError
from ..transductive._together import ANSWERS, TOGETHER, answered, check_together, remember
from ._bags import RandomViews


@dataclass(eq=False, kw_only=True)
class Streamed(Adapter):
    """Base of the methods whose test images come as a stream: each is answered with the state that those before it
    left.

    The fit takes the unlabelled images one after the other, in an order drawn by the seed or as they are given. Each of
    them keeps the answer that it got in its turn; copies of one image share the mean of theirs. Any other image is
    answered as if it came next, without changing the state, so that no answer depends on the batch; `stream` makes
    images really come next.

    A set with views of each image (N, V, D) gives a bag of views, the image itself first; otherwise the bag holds only
    the image.

    A method implements `_start` and `_next`, and names in `memory` the tensors that `_next` changes.
    """

    needs: ClassVar[frozenset[str]] = TOGETHER
    transductive: ClassVar[bool] = True
    label_free: ClassVar[bool] = True
    can: ClassVar[frozenset[str]] = frozenset({"streams"})
    state: ClassVar[tuple[str, ...]] = (*ANSWERS, "text", "logit_scale", "logit_bias", "seen", "length")
    memory: ClassVar[tuple[str, ...]] = ()

    shuffle: bool = option(True, "draw the order of the images by the seed; no: take them as they are given")

    _check_support = check_together

    def _fit(self, support, classifier, *, val, unlabeled, backbone, resources, seed) -> FitReport:
        self._begin(classifier, seed)
        self.length = len(unlabeled)
        self._start(support)
        order = torch.arange(self.length)
        if self.shuffle:
            order = torch.randperm(self.length, generator=torch.Generator().manual_seed(seed))
        unit = unlabeled.unit
        bag_of = self._bags_of(unlabeled, resources, "unlabeled_images")
        answers = unit.new_empty(len(unit), len(self.text))
        for row in order.tolist():
            answers[row] = self._answered(bag_of(row))
        moved = int((answers.argmax(dim=1) != classifier.logits(unit).argmax(dim=1)).sum())
        remember(self, unit, answers)
        how = "in an order drawn by the seed" if self.shuffle else "as they were given"
        note = f"{self.length} unlabelled images, one after the other {how}; {moved} left the class their texts gave"
        return FitReport(self.name, notes=[note])

    def _begin(self, classifier, seed: int) -> None:
        """Set what the texts say."""
        self.seed = seed
        self.text, self.logit_scale = classifier.weights, classifier.logit_scale
        self.logit_bias, self.seen = classifier.logit_bias or 0.0, 0

    def stream(self, batch: Batch | FeatureSet | Tensor) -> Tensor:
        return torch.stack([self._answered(bag) for bag in self._bags_at_prediction(self._checked(batch))])

    def _bags_of(self, rows: FeatureSet, resources: Mapping[str, Any], images: str) -> Callable[[int], Tensor]:
        """Row number -> its bag (V, D).

        Args:
            images: the resource that holds the images behind the rows, where the method asks for them.
        """
        bags = rows.unit[:, None] if rows.views is None else F.normalize(rows.views, dim=-1)  # (N, V, D)
        return bags.__getitem__

    def _bags_at_prediction(self, batch: Batch) -> Iterator[Tensor]:
        """(V, D) the bag of each image of a batch."""
        return iter(batch.unit[:, None])

    def _answered(self, bag: Tensor) -> Tensor:
        self.seen += 1
        return self._next(bag)

    def _logits(self, batch: Batch) -> Tensor:
        return answered(self, batch, self._outside)

    def _outside(self, batch: Batch) -> Tensor:
        return torch.stack([self._as_if_next(bag) for bag in self._bags_at_prediction(batch)])

    def _as_if_next(self, bag: Tensor) -> Tensor:
        """(C,) what the image would be answered, with everything as it was before."""
        seen, before = self.seen, {name: getattr(self, name) for name in self.memory}
        for name, value in before.items():
            setattr(self, name, value.clone())
        try:
            return self._answered(bag)
        finally:
            self.seen = seen
            for name, value in before.items():
                setattr(self, name, value)

    @abstractmethod
    def _start(self, support) -> None:
        """Set the tensors that `memory` names as they are before the first image."""

    @abstractmethod
    def _next(self, bag: Tensor) -> Tensor:
        """(C,) logits of the image that comes next; changes the tensors that `memory` names.

        Args:
            bag: (V, D) unit rows, the image itself first.
        """

    def _scores(self, rows: Tensor) -> Tensor:
        """(V, C) what the texts say of rows (V, D)."""
        return self.logit_scale * rows @ self.text.T + self.logit_bias


@dataclass(eq=False, kw_only=True)
class StreamedInViews(Streamed):
    """Base of those that may look at several views of each image, of which the surest ones count; at `n_views=1` at the
    image alone, whose features are stored.

    Raises:
        ConfigError: an option is out of range.
        CapabilityError: several views, and no decoded images.
    """

    state: ClassVar[tuple[str, ...]] = (*Streamed.state, "seed")
    later_state: ClassVar[Mapping[str, Any]] = {"seed": 0}

    test_views = has(RandomViews)
    n_views: int | None = option(
        None, "views per image, itself included; none: 1, or as published with a preset", low=1, high=1000
    )
    selection: float = option(0.1, "share of the views that count, the surest ones, at least one", above=0, high=1)

    def __post_init__(self):
        super().__post_init__()
        if self.n_views is None:
            self.n_views = self.published_views.get(self.options.get("preset"), 1) if self.as_published else 1
        if self.in_views:
            self.needs, self.at_predict = self.needs | {"images"}, self.at_predict | {"images"}

    @property
    def in_views(self) -> bool:
        """Whether an image is looked at more than once."""
        return (self.n_views or 1) > 1

    def _bags_of(self, rows: FeatureSet, resources: Mapping[str, Any], images: str) -> Callable[[int], Tensor]:
        if not self.in_views or rows.views is not None:
            return super()._bags_of(rows, resources, images)
        training: TrainingImages | None = resources.get(images)
        if training is None:
            cure = f"pass resources={{'{images}': TrainingImages(...)}}, or n_views=1"
            raise CapabilityError(f"adapter '{self.name}' looks at {self.n_views} views of each image; {cure}")
        by_id = {item.id: item for item in (*training.items, *training.val)}
        items = training.items if rows.ids is None else [by_id[name] for name in rows.ids]
        unit = rows.unit

        def bag_of(row: int) -> Tensor:
            first = unit[row].to(self.towers.device)
            return self.test_views.bag(self, training.load(items[row]), training.eval_transform, first).to(unit.device)

        return bag_of

    def _logits(self, batch: Batch) -> Tensor:
        if self.in_views:
            self.test_views.check(self, batch)
        return super()._logits(batch)

    def _bags_at_prediction(self, batch: Batch) -> Iterator[Tensor]:
        if not self.in_views:
            return super()._bags_at_prediction(batch)
        return (bag.to(self.text.device) for bag in self.test_views.bags(self, batch))
