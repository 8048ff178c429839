"""Zero-shot: the text classifier alone, the baseline of every adaptation.

Take it as the baseline, or where there is no label at all and the class names say it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...core.contracts import Adapter, Backbone, Batch, FitReport, TextClassifier, option
from ...core.errors import CapabilityError

RELEASED_FLOOR = 1e-4
"""What the released code adds to each class's probability on content-free images."""


@dataclass(eq=False, kw_only=True)
class ZeroShot(Adapter):
    """Learning Transferable Visual Models From Natural Language Supervision (Radford et al., 2021, arXiv 2103.00020).

    logits = s x W^T (+ bias where the model has one). With several labels per image and negative prompts, the logit of
    the positive against the negative prompt of each label. Nothing is learned; the support is not used.

    `debias=content-free` is the post-hoc debias of Zhang et al., Debiasing Large Visual Language Models, 2024, arXiv
    2403.05262. Probabilities p become A p, divided by their sum, with A = diag(1 / q), where q are the probabilities of
    images that show nothing: pixels of zeros, of ones, and of Gaussian noise, as the image tower takes them. On these
    the mean score of all classes is then the same; a constant that is added to the score of a class changes nothing.
    Nothing is assumed about the classes present.

    It was published for the answers of a language model, with a q per question; here one q serves all images, since
    only the image changes. By default q is the geometric mean over the three images, with which a constant cancels
    exactly: at CLIP's scale the arithmetic mean is ruled by whichever image is most confident. `debias_mean=arithmetic`
    is as released: the arithmetic mean, and 1e-4 added to each probability.

    Raises:
        CapabilityError: `debias` with several labels per image, or without a backbone.

    Example:
        >>> adapter = build_adapter("zero-shot")
        >>> report = adapter.fit(support, classifier)
        >>> adapter.logits(test).shape
        torch.Size([12, 3])
    """

    differs: ClassVar[str] = (
        "none; with `debias` the probabilities of content-free images are averaged geometrically "
        "(`debias_mean=arithmetic` as released)"
    )
    multilabel: ClassVar[bool] = True
    label_free: ClassVar[bool] = True
    state: ClassVar[tuple[str, ...]] = ("text", "negative", "logit_scale", "logit_bias", "offsets")
    later_state: ClassVar[dict[str, Any]] = {"offsets": None}

    debias: str | None = option(
        None, "shift scores until images that show nothing score all classes alike", choices=("content-free",)
    )
    debias_mean: str = option(
        "geometric", "mean over the images that show nothing", choices=("geometric", "arithmetic")
    )

    def check_kind(self, *, several_labels: bool, text_encoder: bool) -> None:
        super().check_kind(several_labels=several_labels, text_encoder=text_encoder)
        if self.debias is None:
            return
        asked = f"option debias={self.debias} of adapter '{self.name}'"
        if several_labels:
            raise CapabilityError(
                f"{asked} weighs classes against each other, but these images have several labels; omit it"
            )
        if not text_encoder:
            cure = "give --data and --backbone, or omit it"
            raise CapabilityError(f"{asked} encodes blank images, and a features file has no backbone for that; {cure}")

    def _fit(self, support, classifier, *, val, unlabeled, backbone, resources, seed) -> FitReport:
        self.multilabel_ = self.multilabel_ or classifier.negative is not None
        self.text, self.negative = classifier.weights, classifier.negative
        self.logit_scale, self.logit_bias = classifier.logit_scale, classifier.logit_bias
        self.offsets = None
        if self.debias is None:
            return FitReport(self.name)
        self.check_kind(several_labels=self.multilabel_, text_encoder=True)
        logits = classifier.logits(content_free_features(backbone, seed).to(self.text.device))  # (3, C)
        self.offsets = content_free_offsets(logits, self.debias_mean)
        shift = float(self.offsets.max() - self.offsets.min())
        note = (
            f"images that show nothing score one class up to {shift:.1f} above another; this is subtracted from all "
            "scores"
        )
        return FitReport(self.name, chosen={"debias": self.debias}, chosen_on="options", notes=[note])

    def _logits(self, batch: Batch) -> Tensor:
        classifier = TextClassifier(
            self.text, logit_scale=self.logit_scale, logit_bias=self.logit_bias, negative=self.negative
        )
        logits = classifier.logits(batch.unit)
        return logits if self.offsets is None else logits - self.offsets


@torch.no_grad()
def content_free_features(backbone: Backbone, seed: int) -> Tensor:
    """(3, D) unit features of images that show nothing: zeros, ones and Gaussian noise for pixels."""
    zeros = backbone.blank_image()
    noise = torch.randn(zeros.shape, generator=torch.Generator().manual_seed(seed))
    return backbone.encode_image(torch.cat([zeros, zeros + 1, noise]).to(backbone.device))


def content_free_offsets(logits: Tensor, mean: str) -> Tensor:
    """(C,) log q, which is taken from the logits of an image: softmax(s - log q) is A softmax(s), divided by its sum.

    Args:
        logits: (I, C) of images that show nothing.
        mean: "geometric", or "arithmetic" as released.
    """
    if mean == "geometric":
        return logits.log_softmax(dim=1).mean(dim=0)
    return (logits.softmax(dim=1).mean(dim=0) + RELEASED_FLOOR).log()
