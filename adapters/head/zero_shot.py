"""Zero-shot: the text classifier alone, what every adaptation is measured against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ...core.contracts.adapter import Adapter, FitReport
from ...core.contracts.features import Batch, TextClassifier


@dataclass(eq=False, kw_only=True)
class ZeroShot(Adapter):
    """Learning Transferable Visual Models From Natural Language Supervision (Radford et al., 2021, arXiv 2103.00020).

    logits = s x W^T (+ bias where the model has one). With several labels per image and negative prompts, the logit of
    the positive against the negative prompt of each label. Nothing is learned; the support is not looked at.

    Example:
        >>> adapter = build_adapter("zero-shot")
        >>> report = adapter.fit(support, classifier)
        >>> adapter.logits(test).shape
        torch.Size([12, 3])
    """

    differs: ClassVar[str] = "none"
    multilabel: ClassVar[bool] = True
    label_free: ClassVar[bool] = True
    state: ClassVar[tuple[str, ...]] = ("text", "negative", "logit_scale", "logit_bias")

    def _fit(self, support, classifier, *, val, unlabeled, backbone, resources, seed) -> FitReport:
        self.multilabel_ = self.multilabel_ or classifier.negative is not None
        self.text, self.negative = classifier.weights, classifier.negative
        self.logit_scale, self.logit_bias = classifier.logit_scale, classifier.logit_bias
        return FitReport(self.name)

    def _logits(self, batch: Batch) -> Tensor:
        classifier = TextClassifier(
            self.text, logit_scale=self.logit_scale, logit_bias=self.logit_bias, negative=self.negative
        )
        return classifier.logits(batch.unit)
