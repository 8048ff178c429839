"""One answer per patient: what the images of a patient say together, calibrated anew.

The mean of a patient's probabilities, and the more so the largest of them, is no probability that the patient has a
class: the largest of twelve is high by chance. So the calibration rows of a run are pooled in the same way, each
patient to one row, and a calibration is made of these rows as of any others.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import DataError
from ..metrics.intervals import units_of
from .calibration import Calibration, Scaling

SMALLEST = 1e-12


@dataclass(frozen=True)
class Pooling:
    """How the probabilities of a patient's images become logits of the patient.

    Attributes:
        how: "mean" or "max".
        multilabel: whether a patient may have several labels.
        finding: of two classes the one whose probability is pooled; None elsewhere.
    """

    how: str
    multilabel: bool
    finding: int | None = None

    def logits(self, probs: Tensor, unit: Tensor, units: int) -> Tensor:
        """(P, C) float64: log odds of labels, or of the finding; of more classes log probabilities.

        Args:
            probs: (N, C) calibrated, of images.
            unit: (N,) which patient each belongs to.
            units: P.
        """
        shares = pooled(probs, unit, units, "amax" if self.how == "max" else "mean")
        if self.multilabel:
            return torch.logit(shares, eps=SMALLEST)
        if self.finding is None:
            return shares.clamp(min=SMALLEST).log()
        logits = torch.zeros_like(shares)
        logits[:, self.finding] = torch.logit(shares[:, self.finding], eps=SMALLEST)
        return logits

    def calibration(self, of_images: Calibration) -> Calibration:
        """That of patients, of the calibration rows of images.

        Raises:
            DataError: the rows name no patients, or a patient has images of different labels.
        """
        if of_images.groups is None:
            raise DataError(
                "the calibration rows of this run are of one image per patient, as far as is known; fit again on data "
                "that say which images belong together (--group-column)"
            )
        unit, units = units_of(of_images.groups, len(of_images.labels))
        labels = labels_of_patients(of_images.labels, unit, units, "calibration rows", "fit again with")
        logits = self.logits(of_images.row_probabilities, unit, units)
        weights, row_weights = (
            None if each is None else pooled(each, unit, units, "mean")
            for each in (of_images.weights, of_images.row_weights)
        )
        names, source = of_images.class_names, f"{units} groups of {of_images.source}"
        if self.finding is None:
            return Calibration.of_rows(logits, labels, names, source, weights, None, row_weights)
        column = [self.finding]
        present = (labels == self.finding).double()[:, None]
        platt = Scaling.fit_if_better(logits[:, column], present, None if weights is None else weights[:, None])
        offset = torch.zeros(2, dtype=torch.float64)
        offset[column] = platt.offset
        return Calibration(logits, labels, weights, names, source, Scaling(platt.temperature, offset))


def pooled(values: Tensor, unit: Tensor, units: int, how: str) -> Tensor:
    """(P, ...) float64 of the (N, ...) values of images: their "mean", "amin" or "amax"."""
    values = values.double()
    index = unit.reshape(-1, *[1] * (values.ndim - 1)).expand_as(values)
    made = torch.zeros(units, *values.shape[1:], dtype=torch.float64)
    return made.scatter_reduce(0, index, values, how, include_self=False)


def labels_of_patients(labels: Tensor, unit: Tensor, units: int, images: str, cure: str) -> Tensor:
    """(P,), or (P, C) with NaN where nothing is known of a patient.

    Args:
        labels: (N,), or (N, C), of images.
        unit: (N,) which patient each belongs to.
        units: P.
        images, cure: what they are, and how to get others, for the message.

    Raises:
        DataError: a patient has two.
    """
    known = labels.double()
    least = pooled(known.nan_to_num(torch.inf), unit, units, "amin")
    most = pooled(known.nan_to_num(-torch.inf), unit, units, "amax")
    differ = least < most
    if several := int((differ if labels.ndim == 1 else differ.any(dim=1)).sum()):
        raise DataError(
            f"{several} of {units} groups of the {images} have images of different labels, so there is no one answer "
            f"per group; {cure} groups of one label each (--group-column)"
        )
    return most.long() if labels.ndim == 1 else most.masked_fill(most.isinf(), torch.nan)
