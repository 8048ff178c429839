"""What methods share that read all test images together: where they start, what they keep, how they answer."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...core.contracts import Adapter, Batch, FitReport
from ...core.data import nearest_rows
from ...core.errors import CapabilityError
from ._neighbours import Links, row_prints

SAME = 1e-5  # largest difference of two unit features that are of one image
TOGETHER = frozenset({"features", "unlabeled"})
"""What a method needs that reads all unlabelled images at once."""
ANSWERS = ("queries", "prints", "log_assignments")
"""What `remember` leaves in the state of a method."""


def check_together(method: Any, support, classifier, backbone, unlabeled) -> None:
    """The `_check_support` of methods that read all unlabelled images at once, with one label per image: a `label_free`
    one needs no labels; all need images to classify, of the width of the text."""
    if not method.label_free:
        Adapter._check_support(method, support, classifier, backbone, unlabeled)
    several = support.multilabel or classifier.negative is not None
    method.check_kind(several_labels=several, text_encoder=backbone is not None)
    method.multilabel_ = False
    if unlabeled is None or not len(unlabeled):
        raise CapabilityError(f"adapter '{method.name}' classifies unlabelled images together; pass some as unlabeled=")
    widths = {support.dim, unlabeled.dim, classifier.weights.shape[1]}
    if len(widths) > 1:
        raise CapabilityError(
            f"support, unlabelled images and text have features of width {sorted(widths)}; "
            "all must come from one backbone"
        )


def remember(method: Any, queries: Tensor, answers: Tensor) -> Tensor:
    """Keep an answer for each of the unlabelled images: set `ANSWERS` of a method, and return the last of them.

    Images are kept once each, in the order of prints; copies of one image share the mean of their answers.

    Args:
        queries: (Q, D) unit rows.
        answers: (Q, C) logits.
    """
    prints = row_prints(queries)
    method.prints, place, copies = torch.unique(prints, return_inverse=True, return_counts=True)
    rows = torch.arange(len(prints), device=prints.device)
    merged = Links.of(place, rows, 1 / copies[place], len(copies))
    method.log_assignments = merged.spread(answers)
    method.queries = queries[merged.columns[merged.starts]]
    return method.log_assignments


def answered(method: Any, batch: Batch, outside: Callable[[Batch], Tensor]) -> Tensor:
    """(B, C) logits: an image of the unlabelled set (the same feature) gets the answer that the fit gave it, any other
    one what the fit kept says of it, so that no answer depends on the batch.

    Args:
        method: with `ANSWERS`.
        outside: a batch of images that were not in the unlabelled set, with unit features, and with images and base
            logits where the whole batch has them -> their logits.
    """
    unit = batch.unit
    place = torch.searchsorted(method.prints, row_prints(unit)).clamp_max(len(method.prints) - 1)
    logits = method.log_assignments[place]
    others = (~_same(unit, method.queries[place])).nonzero().flatten()
    if len(others):  # features of an image of the set may differ in the last bits
        place = nearest_rows(unit[others], method.queries, 1)[1][:, 0]
        inside = _same(unit[others], method.queries[place])
        logits[others] = method.log_assignments[place]
        rest = others[~inside]
        if len(rest):
            logits[rest] = outside(_rows_of(batch, unit, rest))
    return logits


def one_update(method: Any, unit: Tensor, base: Tensor, likelihood: Tensor, weight: float = 1.0) -> Tensor:
    """(B, C) log z of other images: one update of each with the joint solution kept.

    Args:
        method: with `ANSWERS`, `lambda_` and the option `n_neighbors`.
        unit: (B, D) unit rows.
        base: (B, C) logits whose softmax is y.
        likelihood: (B, C) what the solution's mixture adds to log z.
        weight: what the sum over neighbours is multiplied by.
    """
    cosines, index = nearest_rows(unit, method.queries, method.n_neighbors)
    update = likelihood + method.lambda_ * base.log_softmax(dim=1)
    for k in range(cosines.shape[1]):
        share = weight * cosines[:, k, None].clamp_min(0) / cosines.shape[1]
        update += share * method.log_assignments[index[:, k]].exp()
    return update.log_softmax(dim=1)


class ClassifiedTogether(Adapter):
    """Base of the methods that give each unlabelled image its log-assignment z in one joint solution.

    An image of the unlabelled set gets its z of that solution; copies of one image share the mean of their log z. Any
    other image gets one update of its own with the solution kept: its predictions y, its likelihood, and its nearest
    unlabelled images, counted both ways: sum_j w_ij z_j / n.

    The predictions y that all start from are those of the text or, with `resources["base"]`, those of another fitted
    adapter. Then a batch with images outside the unlabelled set must bring that adapter's logits too (`Batch.base`).

    A method has the option `n_neighbors` and implements `_joint` and `_log_likelihood`.
    """

    needs: ClassVar[frozenset[str]] = TOGETHER
    optional: ClassVar[frozenset[str]] = frozenset({"base"})
    transductive: ClassVar[bool] = True
    state: ClassVar[tuple[str, ...]] = (*ANSWERS, "text", "logit_scale", "lambda_", "base_")
    later_state: ClassVar[dict[str, Any]] = {"base_": ""}

    n_neighbors: int
    _check_support = check_together

    @property
    def base_(self) -> str:
        """The adapter whose predictions the fit started from, "" for the text. Its logits are then read later too."""
        return self._base

    @base_.setter
    def base_(self, name: str) -> None:
        self._base = name
        self.at_predict = type(self).at_predict | ({"base"} if name else frozenset())

    def _fit(self, support, classifier, *, val, unlabeled, backbone, resources, seed) -> FitReport:
        self.text, self.logit_scale = classifier.weights, classifier.logit_scale
        self.queries = unlabeled.unit
        base = resources.get("base")
        self.base_ = "" if base is None else base.adapter
        logits = classifier.logits(self.queries) if base is None else base.logits.to(self.queries.device)  # (Q, C)
        report, log_assignments = self._joint(logits, support, val, seed)
        moved = int((log_assignments.argmax(dim=1) != logits.argmax(dim=1)).sum())
        gave = f"that '{self.base_}'" if self.base_ else "their text logits"
        report.notes.append(f"{len(logits)} unlabelled images classified together; {moved} left the class {gave} gave")
        self.log_assignments = remember(self, self.queries, log_assignments).log_softmax(dim=1)
        return report

    @abstractmethod
    def _joint(self, logits: Tensor, support, val, seed: int) -> tuple[FitReport, Tensor]:
        """Solve for all of `queries` and set what is kept of the solution besides; a report, and (Q, C) log z.

        Args:
            logits: (Q, C) whose softmax is y.
        """

    @abstractmethod
    def _log_likelihood(self, unit: Tensor) -> Tensor:
        """(B, C) what the solution's mixture adds to log z of other images."""

    @property
    def _neighbour_weight(self) -> float:
        """What the sum over neighbours is multiplied by."""
        return 1.0

    def _logits(self, batch: Batch) -> Tensor:
        return answered(self, batch, self._outside)

    def _outside(self, batch: Batch) -> Tensor:
        """(B, C) one update of each row."""
        unit, base = batch.features, batch.base
        if self.base_ and base is None:
            raise CapabilityError(
                f"adapter '{self.name}' started from the predictions of '{self.base_}' and needs them for images that "
                "were not in its unlabelled set; pass Batch(base=...), or give --resource base=RUN"
            )
        if not self.base_:
            base = self.logit_scale * unit @ self.text.T  # (B, C); a bias, the same for all classes, changes nothing
        return one_update(self, unit, base, self._log_likelihood(unit), self._neighbour_weight)


def _same(unit: Tensor, queries: Tensor) -> Tensor:
    """(B,) whether each row is the query beside it."""
    return (queries - unit).abs().amax(dim=1) <= SAME


def _rows_of(batch: Batch, unit: Tensor, rows: Tensor) -> Batch:
    """Some rows of a batch, with unit features."""
    return Batch(
        features=unit[rows],
        base=None if batch.base is None else batch.base[rows],
        images=None if batch.images is None else [batch.images[row] for row in rows.tolist()],
        transform=batch.transform,
    )
