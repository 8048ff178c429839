"""DPA: text and image prototypes label images together, and the text prototypes are kept near those of images.

Take it without labels, with a GPU, where images differ from what the towers know.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.contracts import Backbone, Batch, FitReport, Loss, Output, RandomCrops, has, option
from ...core.training import image_features
from ..published_sets import SETS, preset_option
from ._projected import prototypes
from ._towers import SelfTrained, as_tested, train_norms

REMEMBERED = 32
"""Batches whose mean predictions are remembered."""
TINY = 1e-7
DEFAULTS = {"lr": 1e-5, "epochs": 15, "share": 0.5, "fairness": 1.0, "alignment": 1.0, "sharpness": 100.0}
PUBLISHED: dict[str, dict[str, float]] = {
    "caltech101": {"lr": 1e-4},
    "dtd": {"lr": 5e-5, "share": 0.2},
    "eurosat": {"lr": 3e-5, "epochs": 10, "alignment": 0.01, "sharpness": 1.0},
    "fgvc_aircraft": {"lr": 3e-6, "epochs": 10},
    "food101": {"lr": 1e-6, "share": 0.2},
    "imagenet": {"lr": 1e-6},
    "oxford_flowers": {"lr": 1e-4, "sharpness": 1.0},
    "oxford_pets": {"lr": 7e-5, "share": 0.01},
    "stanford_cars": {"lr": 5e-6},
    "sun397": {"lr": 1e-6, "fairness": 0.2},
    "ucf101": {"lr": 1e-5},
}
"""Where they differ from the others."""


@dataclass(eq=False, kw_only=True)
class Dpa(SelfTrained):
    """DPA: Dual Prototypes Alignment for Unsupervised Adaptation of Vision-Language Models (Ali, Gholipour Picha, Ahmad
    and Naseem, 2024, arXiv 2408.08855).

    The norms of the image tower and C text prototypes t, which start as the class texts, train on unlabelled images.
    Image prototypes c are the unit means of the images of each label (the text prototype where there is none), made
    anew after each epoch. Of an image x as it is tested, with s the logit scale,

        p_t = softmax(s x t),  p_c = softmax(s x c),  q = p_t / mean of the last 32 batches' means of p_t, to sum 1
        y = argmax of share * p_c + (1 - share) * q
        w = p_t(y) / max p_t * p_c(y) / max p_c

    and of its strongly augmented view, with logits l = s x' t, the loss is

        mean of w * cross-entropy(l, y) - fairness * mean over classes of log(mean softmax(l))
        + alignment * mean over classes of cross-entropy(sharpness * c_k t, k)

    It is trained by AdamW with decay 0.1 on all but biases, a cosine from `lr` down to 2e-6, batches of 64, 15 epochs.
    The prediction is s x t by the trained image tower. `preset` takes the published numbers of a set; without one the
    rate is 1e-5, our choice, in the middle of theirs.

    Without labels nothing is chosen. It assumes that all classes occur, about equally often: the mean of predictions is
    divided out, and the fairness term keeps it near uniform.

    Where it differs from the released code: float32; pseudo-labels come from the image as it is tested (released:
    cropped at random along its longer side); RandAugment is torchvision's (released: timm's) and is left out where it
    would spoil a domain's images; the last weights are kept (released: the epoch that is best on the test labels); the
    text tower, whose norms the released code leaves trainable but which it never runs, stays frozen.

    Raises:
        ConfigError: an option is out of range.
        CapabilityError: no unlabelled images, an image tower without norms, or several labels per image.

    Example:
        >>> adapter = build_adapter("dpa", epochs=1, batch_size=4)
        >>> report = adapter.fit(None, classifier, unlabeled=test, backbone=backbone, resources=unlabelled)
        >>> adapter.logits(Batch(pixels=pixels)).shape
        torch.Size([12, 3])
    """

    differs: ClassVar[str] = (
        "pseudo-labels are computed from the image as in tests (released: from a random crop along its longer side); "
        "torchvision's RandAugment (released: timm's); the last weights are kept (released: the epoch that is best on "
        "test labels). The similarity-weighted prototypes, which the released code defines but does not use, are not "
        "included"
    )
    end_lr: ClassVar[float] = 2e-6

    crops = has(RandomCrops, published_crop=(0.3, 1.0), published_randaugment=True)
    presets: ClassVar[tuple[str, ...]] = SETS
    preset: str | None = preset_option()
    batch_size: int = 64
    lr: float | None = option(None, "peak learning rate; none: 1e-5, or the preset's", above=0)
    share: float | None = option(
        None, "share of the image prototypes in labels; none: 0.5, or the preset's", low=0, high=1
    )
    fairness: float | None = option(None, "weight of the term for even predictions; none: 1, or the preset's", low=0)
    alignment: float | None = option(
        None, "weight of the term that holds text prototypes near the images'; none: 1, or the preset's", low=0
    )
    sharpness: float | None = option(
        None, "what cosines of prototypes are multiplied by in that term; none: 100, or the preset's", above=0
    )

    def setting(self, name: str) -> float:
        """An option, the preset's value where it is not given, or the general one."""
        given = getattr(self, name)
        return given if given is not None else PUBLISHED.get(self.preset, {}).get(name, DEFAULTS[name])

    def _settings_of_method(self, epochs: int) -> dict[str, Any]:
        return {**super()._settings_of_method(epochs), "lr": self.setting("lr"), "decayed": "weights"}

    def _choose(self, backbone: Backbone) -> list[str]:
        return train_norms(backbone, ("image",))

    def _fit(self, support, classifier, *, val, unlabeled, backbone, resources, seed) -> FitReport:
        images = resources["unlabeled_images"]
        terms = {name: self.setting(name) for name in ("share", "fairness", "alignment", "sharpness")}
        loss = DualPrototypes(classifier.weights, unlabeled.unit, float(backbone.logit_scale), terms)
        how = {"view": as_tested(images), "strong_view": self._view(images.train_transform, backbone)}
        how |= {"place": resources.get("place"), "seed": seed, "epochs": int(self.setting("epochs"))}
        report = self._self_train(loss, images, backbone, **how)
        self.weights = F.normalize(loss.rows.detach(), dim=1)
        report.trained_parameters += loss.rows.numel()
        report.chosen |= {"trained parameters": report.trained_parameters, **terms}
        held = int((loss.labels.bincount(minlength=len(classifier)) > 0).sum())
        report.notes.append(
            f"in the end the {len(unlabeled)} unlabelled images were given {held} of {len(classifier)} classes"
        )
        return report

    def _logits(self, batch: Batch) -> Tensor:
        return self._rows(batch, self.weights)


class DualPrototypes(Loss):
    """The loss above. It owns the text prototypes and a memory of all images.

    Args:
        text: (C, D) unit rows to start from.
        features: (N, D) unit features of the images by the frozen tower.
        scale: what cosines are multiplied by.
        terms: "share", "fairness", "alignment", "sharpness".
    """

    needs: ClassVar = frozenset({"weak", "strong", "index"})
    outputs: ClassVar[Mapping[str, Output]] = {
        "weak": Output("features of the image as it is tested", fields=("pixels",)),
        "strong": Output("features of a strongly augmented view", fields=("pixels_strong1",)),
    }

    def __init__(self, text: Tensor, features: Tensor, scale: float, terms: Mapping[str, float]):
        super().__init__()
        self.scale, self.terms = scale, terms
        self.rows = nn.Parameter(text.clone())
        self.register_buffer("features", features.clone())
        self.register_buffer("labels", (features @ text.T).argmax(dim=1))
        self.register_buffer("centres", prototypes(features, self.labels, text))
        self.register_buffer("means", torch.zeros(REMEMBERED, len(text), device=text.device))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64, device=text.device))
        self._noted = None

    def further_outputs(self, batch, backbone) -> dict[str, Tensor]:
        with torch.no_grad():
            weak = image_features(backbone, batch["pixels"])
        return {"weak": weak, "strong": image_features(backbone, batch["pixels_strong1"])}

    def before_epoch(self, extract) -> None:
        """Image prototypes of the memory as it is."""
        self.centres.copy_(prototypes(self.features, self.labels, self.rows.detach()))

    def compute(self, out, progress: float) -> dict[str, Tensor]:
        weak, strong, text = out["weak"].detach(), out["strong"], F.normalize(self.rows, dim=1)
        with torch.no_grad():
            by_text = (self.scale * weak @ text.T).softmax(dim=1)  # (B, C)
            by_images = (self.scale * weak @ self.centres.T).softmax(dim=1)
            now = by_text.mean(dim=0)
            labels = pseudo_labels(by_text, by_images, self._mean_with(now), self.terms["share"])
            weights = label_share(by_text, labels) * label_share(by_images, labels)
        self._noted = out["index"], weak, labels, now
        parts = loss_terms(self.scale * strong @ text.T, labels, weights, self.centres, text, self.terms)
        return {"loss": sum(parts.values()), **parts, "weight": weights.mean()}

    def after_step(self, model) -> None:
        rows, weak, labels, now = self._noted
        self.features[rows], self.labels[rows] = weak, labels
        self.means[self.steps % REMEMBERED] = now
        self.steps += 1

    def _mean_with(self, now: Tensor) -> Tensor:
        """(C,) mean of this batch's mean prediction and of those of up to 31 before it."""
        kept = self.means.clone()
        kept[self.steps % REMEMBERED] = now
        return kept.sum(dim=0) / (self.steps + 1).clamp_max(REMEMBERED)


def pseudo_labels(by_text: Tensor, by_images: Tensor, mean: Tensor, share: float) -> Tensor:
    """(B,) of the mixture of both predictions, that of the texts with the mean prediction divided out."""
    return prediction_mixture(by_text, by_images, mean, share)[0].argmax(dim=1)


def prediction_mixture(by_text: Tensor, by_images: Tensor, mean: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """(B, C) the mixture, and (B, C) what is left of the texts' predictions."""
    aligned = by_text / mean.clamp_min(torch.finfo(mean.dtype).tiny)
    aligned = aligned / aligned.sum(dim=1, keepdim=True)
    return share * by_images + (1 - share) * aligned, aligned


def label_share(predictions: Tensor, labels: Tensor) -> Tensor:
    """(B,) what each prediction gives to its label, as a share of the most it gives."""
    return predictions.gather(1, labels[:, None])[:, 0] / (predictions.amax(dim=1) + TINY)


def loss_terms(
    logits: Tensor, labels: Tensor, weights: Tensor, centres: Tensor, text: Tensor, terms: Mapping[str, float]
) -> dict[str, Tensor]:
    """The three terms, each with its weight.

    Args:
        logits: (B, C) of the strong views. labels, weights: (B,).
        centres, text: (C, D) unit rows.
    """
    labelled = (weights * F.cross_entropy(logits, labels, reduction="none")).mean()
    mean = logits.log_softmax(dim=1).logsumexp(dim=0) - math.log(len(logits))  # (C,) log of the mean
    classes = torch.arange(len(text), device=text.device)
    aligned = F.cross_entropy(terms["sharpness"] * centres @ text.T, classes)
    return {
        "labels": labelled,
        "fairness": -terms["fairness"] * mean.mean(),
        "alignment": terms["alignment"] * aligned,
    }
