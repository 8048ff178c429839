"""SS-Text: class weights in closed form, the text plus the sum of the shots; nothing is trained or chosen.

Take it without validation images and for any number of images per class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.contracts import Adapter, Batch, FeatureSet, FitReport, TextClassifier, option
from ._text_rows import has_lengths, normalised_rows
from .clap import class_confidence

VARIANTS = ("ss-text", "plus", "confidence", "fixed", "images")


@dataclass(eq=False, kw_only=True)
class SSText(Adapter):
    """SS-Text and SS-Text+, of Few-Shot, Now for Real: Medical VLMs Adaptation without Balanced Sets or Validation
    (Silva-Rodriguez, Shakeri, Bahig, Dolz and Ben Ayed, 2025, arXiv 2506.17500).

    w_c = t_c + s S_c / (N lambda_c), with t_c the mean text feature of class c and S_c the sum of the features of its
    n_c of the N shots, both as the towers give them, and s the logit scale. logits = s cos(x, w_c), so that only the
    direction of w_c counts. By `variant` lambda_c is

    * "ss-text": 1/N for every class, so that w_c = t_c + s S_c;
    * "plus", SS-Text+: 1/n_c, so that rare classes stay nearer to their text, and class weights are then pushed apart:
      w_c - u_c, with u_c the unit vector of 2 w_c - m and m the mean of all w_c (`repel`);
    * "confidence": the mean zero-shot probability of class c over its shots, the mean of the others where it has none;
    * "fixed": `fixed_lambda`.

    "images" is the paper's baseline without text, w_c = S_c / n_c. A class without shots has w_c = t_c in all of them.

    What `repel` does is not what its name says where classes are unequal: |w_c| grows with n_c and u_c has length 1,
    so classes with many shots stay where they are, and one without any, whose u_c is about -m/|m|, is drawn towards the
    mean. It is part of SS-Text+ as published; `repel=False` leaves it out.

    Where the lengths of images or texts are gone (a file of unit features) both have unit length. There is no
    `class_weight`: a cosine does not depend on the number of images, and how much its own images count in a class is
    what the variants differ in.

    Raises:
        ConfigError: an option is out of range.

    Example:
        >>> adapter = build_adapter("ss-text", variant="plus")
        >>> report = adapter.fit(support, classifier)
        >>> adapter.logits(test).shape
        torch.Size([12, 3])
    """

    differs: ClassVar[str] = (
        "lambda follows the paper for any number of shots (released: at least 0.001, and another rule from 1,000 shots "
        "on, as with `least_lambda=0.001`); any number of classes (released: 127); for a class without shots the "
        "baseline `images` uses its text (released: NaN)"
    )
    state: ClassVar[tuple[str, ...]] = ("weights", "logit_scale", "logit_bias")

    variant: str = option("ss-text", "how lambda is set; images: a baseline without text", choices=VARIANTS)
    repel: bool | None = option(None, "push class weights away from their mean; none: only in variant plus")
    fixed_lambda: float = option(0.1, "lambda of the variant fixed", above=0)
    least_lambda: float = option(0.0, "smallest lambda; 0.001 in the released code", low=0)

    @torch.no_grad()
    def _fit(self, support, classifier, *, val, unlabeled, backbone, resources, seed) -> FitReport:
        self.logit_scale, self.logit_bias = classifier.logit_scale, classifier.logit_bias or 0.0
        text, images, notes = _of_one_length(classifier, support)
        member = F.one_hot(support.labels, len(text)).to(images)  # (N, C)
        sums, counts = member.T @ images, member.sum(dim=0)  # (C, D), (C,)
        if self.variant == "images":
            self.weights = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], text)
        else:
            share = self._share(text, images, support.labels, counts)
            self.weights = text + (self.logit_scale * share)[:, None] * sums
        if self.variant == "plus" if self.repel is None else self.repel:
            self.weights = self.weights - normalised_rows(2 * self.weights - self.weights.mean(dim=0))
            notes += _of_few(counts)
        return FitReport(self.name, {"variant": self.variant}, "nothing to choose", notes=notes)

    def _share(self, text: Tensor, images: Tensor, labels: Tensor, counts: Tensor) -> Tensor:
        """(C,) 1 / (N lambda_c)."""
        total = len(labels)
        if self.variant == "confidence":
            cosines = normalised_rows(images) @ normalised_rows(text).T
            inverse = 1 / class_confidence(self.logit_scale * cosines, labels).clamp(min=torch.finfo(text.dtype).tiny)
        elif self.variant == "plus":
            inverse = counts
        else:
            inverse = torch.full_like(counts, total if self.variant == "ss-text" else 1 / self.fixed_lambda)
        return (inverse.clamp(max=1 / self.least_lambda) if self.least_lambda else inverse) / total

    def _logits(self, batch: Batch) -> Tensor:
        return self.logit_scale * batch.unit @ normalised_rows(self.weights).T + self.logit_bias


def _of_one_length(classifier: TextClassifier, support: FeatureSet) -> tuple[Tensor, Tensor, list[str]]:
    """(C, D) texts and (N, D) images as the towers give them; both unit, and a sentence, where lengths are gone."""
    if support.raw_norms and has_lengths(classifier):
        return classifier.unnormalized.float(), support.features, []
    which = "images" if has_lengths(classifier) else "texts"
    return (
        classifier.weights,
        support.unit,
        [f"features of {which} come without their lengths: all were scaled to unit length"],
    )


def _of_few(counts: Tensor) -> list[str]:
    """What `repel` does with unequal classes."""
    if len(counts.unique()) < 2:
        return []
    fewest, most = int(counts.min()), int(counts.max())
    return [
        f"`repel` draws classes of few images ({fewest}; the largest has {most}) towards the mean class weight, "
        "as published; repel=False leaves it out"
    ]
