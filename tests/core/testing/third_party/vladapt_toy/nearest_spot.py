"""The nearest class mean, a baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F

from vladapt import Adapter, FitReport, option


@dataclass(eq=False, kw_only=True)
class NearestSpot(Adapter):
    """Each class is the mean of its unit features, mixed with the features of its name."""

    state: ClassVar = ("means", "scale")

    text: float = option(0.5, "how much of the class text vector is mixed into the mean", low=0, high=1)

    def _fit(self, support, classifier, *, val, unlabeled, backbone, resources, seed):
        one_hot = F.one_hot(support.labels, len(classifier)).float()  # (N, C)
        means = F.normalize(one_hot.T @ support.unit, dim=1)  # (C, D)
        self.means = F.normalize(torch.lerp(means, classifier.weights, self.text), dim=1)
        self.scale = float(classifier.logit_scale)
        return FitReport("nearest-spot", chosen={"text": self.text})

    def _logits(self, batch):
        return self.scale * batch.unit @ self.means.T  # (B, C)
