"""What methods share that read all test images together: where they start, what they keep, how they answer."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...core.contracts import Adapter, Batch, FitReport
from ...core.data import nearest_rows
from ...core.errors import CapabilityError
from ._neighbours import Links, row_prints

SAME = 1e-5  # largest difference of two unit features that are of one image


class ReadTogether(Adapter):
    """Base of the methods that read all unlabelled images at once, with one label per image."""

    needs: ClassVar[frozenset[str]] = frozenset({"features", "unlabeled"})
    transductive: ClassVar[bool] = True

    def _check_support(self, support, classifier, backbone, unlabeled) -> None:
        """A `label_free` method needs no labels; all need images to classify, of the width of the text."""
        if not self.label_free:
            super()._check_support(support, classifier, backbone, unlabeled)
        self.check_kind(
            several_labels=support.multilabel or classifier.negative is not None, text_encoder=backbone is not None
        )
        self.multilabel_ = False
        if unlabeled is None or not len(unlabeled):
            raise CapabilityError(
                f"adapter '{self.name}' classifies unlabelled images together; pass some as unlabeled="
            )
        widths = {support.dim, unlabeled.dim, classifier.weights.shape[1]}
        if len(widths) > 1:
            raise CapabilityError(
                f"support, unlabelled images and text have features of width {sorted(widths)}; "
                "all must come from one backbone"
            )


class AnsweredTogether(ReadTogether):
    """Base of those that keep an answer for each of the unlabelled images.

    An image of the unlabelled set (the same feature) gets the answer that the fit gave it; copies of one image share
    the mean of theirs. Any other image is answered by what the fit kept, so that no answer depends on the batch.

    A method calls `_remember` in its `_fit` and implements `_outside`.
    """

    state: ClassVar[tuple[str, ...]] = ("queries", "prints", "log_assignments")

    def _remember(self, queries: Tensor, answers: Tensor) -> None:
        """Keep `queries`, each image once, in the order of prints, and an answer for each.

        Args:
            queries: (Q, D) unit rows.
            answers: (Q, C) logits.
        """
        prints = row_prints(queries)
        self.prints, place, copies = torch.unique(prints, return_inverse=True, return_counts=True)
        rows = torch.arange(len(prints), device=prints.device)
        merged = Links.of(place, rows, 1 / copies[place], len(copies))
        self.log_assignments = merged.spread(answers)
        self.queries = queries[merged.columns[merged.starts]]

    def _logits(self, batch: Batch) -> Tensor:
        unit = batch.unit
        place = torch.searchsorted(self.prints, row_prints(unit)).clamp_max(len(self.prints) - 1)
        logits = self.log_assignments[place]
        others = (~self._same(unit, place)).nonzero().flatten()
        if len(others):  # features of a known image may differ in the last bits
            place = nearest_rows(unit[others], self.queries, 1)[1][:, 0]
            known = self._same(unit[others], place)
            logits[others] = self.log_assignments[place]
            unknown = others[~known]
            if len(unknown):
                logits[unknown] = self._outside(_rows_of(batch, unit, unknown))
        return logits

    @abstractmethod
    def _outside(self, batch: Batch) -> Tensor:
        """(B, C) logits of images that were not in the unlabelled set.

        Args:
            batch: with unit features, and with images and base logits where the whole batch has them.
        """

    def _same(self, unit: Tensor, place: Tensor) -> Tensor:
        """(B,) whether each row is the query at its place."""
        return (self.queries[place] - unit).abs().amax(dim=1) <= SAME


class ClassifiedTogether(AnsweredTogether):
    """Base of the methods that give each unlabelled image its log-assignment z in one joint solution.

    An image of the unlabelled set gets its z of that solution; copies of one image share the mean of their log z. Any
    other image gets one update of its own with the solution kept: its predictions y, its likelihood, and its nearest
    unlabelled images, counted both ways: sum_j w_ij z_j / n.

    The predictions y that all start from are those of the text or, with `resources["base"]`, those of another fitted
    adapter. Then a batch with images outside the unlabelled set must bring that adapter's logits too (`Batch.base`).

    A method has the option `n_neighbors` and implements `_joint` and `_log_likelihood`.
    """

    optional: ClassVar[frozenset[str]] = frozenset({"base"})
    state: ClassVar[tuple[str, ...]] = (*AnsweredTogether.state, "text", "logit_scale", "lambda_", "base_")
    later_state: ClassVar[dict[str, Any]] = {"base_": ""}

    n_neighbors: int

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
        self._remember(self.queries, log_assignments)
        self.log_assignments = self.log_assignments.log_softmax(dim=1)
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
        cosines, index = nearest_rows(unit, self.queries, self.n_neighbors)
        update = self._log_likelihood(unit)
        update += self.lambda_ * base.log_softmax(dim=1)
        for k in range(cosines.shape[1]):
            weight = self._neighbour_weight * cosines[:, k, None].clamp_min(0) / cosines.shape[1]
            update += weight * self.log_assignments[index[:, k]].exp()
        return update.log_softmax(dim=1)


def _rows_of(batch: Batch, unit: Tensor, rows: Tensor) -> Batch:
    """Some rows of a batch, with unit features."""
    return Batch(
        features=unit[rows],
        base=None if batch.base is None else batch.base[rows],
        images=None if batch.images is None else [batch.images[row] for row in rows.tolist()],
        transform=batch.transform,
    )
