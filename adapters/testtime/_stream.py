"""What methods share that take test images one after the other, and learn from each before the next."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.contracts import Batch, FeatureSet, FitReport, option
from ..transductive._together import AnsweredTogether


@dataclass(eq=False, kw_only=True)
class Streamed(AnsweredTogether):
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

    label_free: ClassVar[bool] = True
    can: ClassVar[frozenset[str]] = frozenset({"streams"})
    state: ClassVar[tuple[str, ...]] = (*AnsweredTogether.state, "text", "logit_scale", "logit_bias", "seen", "length")
    memory: ClassVar[tuple[str, ...]] = ()

    shuffle: bool = option(True, "draw the order of the images by the seed; no: take them as they are given")

    def _fit(self, support, classifier, *, val, unlabeled, backbone, resources, seed) -> FitReport:
        self._begin(classifier)
        self.length = len(unlabeled)
        self._start(support)
        order = torch.arange(self.length)
        if self.shuffle:
            order = torch.randperm(self.length, generator=torch.Generator().manual_seed(seed))
        unit = unlabeled.unit
        bags = unit[:, None] if unlabeled.views is None else F.normalize(unlabeled.views, dim=-1)  # (N, V, D)
        answers = unit.new_empty(len(unit), len(self.text))
        for row in order.tolist():
            answers[row] = self._answered(bags[row])
        moved = int((answers.argmax(dim=1) != classifier.logits(unit).argmax(dim=1)).sum())
        self._remember(unit, answers)
        how = "in an order drawn by the seed" if self.shuffle else "as they were given"
        note = f"{self.length} unlabelled images, one after the other {how}; {moved} left the class their texts gave"
        return FitReport(self.name, notes=[note])

    def _begin(self, classifier) -> None:
        """Set what the texts say."""
        self.text, self.logit_scale = classifier.weights, classifier.logit_scale
        self.logit_bias, self.seen = classifier.logit_bias or 0.0, 0

    def stream(self, batch: Batch | FeatureSet | Tensor) -> Tensor:
        return torch.stack([self._answered(row[None]) for row in self._checked(batch).unit])

    def _answered(self, bag: Tensor) -> Tensor:
        self.seen += 1
        return self._next(bag)

    def _outside(self, unit: Tensor, base: Tensor | None) -> Tensor:
        return torch.stack([self._as_if_next(row[None]) for row in unit])

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
