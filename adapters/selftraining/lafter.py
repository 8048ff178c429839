"""LaFTer: a classifier trained on texts alone labels images, and the image tower is trained on views of these.

Take it without labels, with a GPU, where a language model has described the classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.contracts import (
    Backbone,
    Batch,
    CropTransform,
    FitReport,
    Loss,
    Output,
    RandomCrops,
    TextClassifier,
    has,
    option,
)
from ...core.prompts import build_classifier
from ...core.training import Views
from ..published_sets import SETS, VARIANTS, preset_option
from ._towers import SelfTrained, as_tested, train_norms

SMOOTHING = 0.1
NOISE = 0.1
"""Standard deviation of what is added to each number of a text feature."""
STEPS = 400
PUBLISHED_STEPS = {
    **dict.fromkeys(("caltech101", "fgvc_aircraft", "imagenet", *VARIANTS, "sun397"), 500),
    "oxford_flowers": 600,
}
"""Of the text classifier, where they are not 400. For ImageNetV2 none are published; its texts are ImageNet's."""
PATCH = 16
"""By which the tokens' start is drawn, whatever the tower's patches are."""
TOKENS = "prompts.image.tokens"


@dataclass(eq=False, kw_only=True)
class Lafter(SelfTrained):
    """LaFTer: Label-Free Tuning of Zero-shot Classifier using Language and Unlabeled Image Collections (Mirza et al.,
    2023, arXiv 2305.18287).

    (1) A linear classifier without bias is trained on the unit features of all texts of the classes (prompts, and
    sentences that describe them, where there are some) as if they were images: Gaussian noise of 0.1 is added to them
    anew in each of 400 steps on all of them, the loss is cross-entropy with labels smoothed by 0.1. A copy of it, which
    stays fixed, labels every unlabelled image as it is tested, by the frozen tower. (2) The classifier, 50 tokens in
    the image tower and its norms are trained on strongly augmented views of the images with these labels, by the same
    loss. The student's features are not normalised.

    Both use AdamW at a constant rate of 5e-4, with decay 0.01 on all but biases; the second takes 50 epochs in batches
    of 50. `preset` takes the published steps of the text classifier of a set (400 to 600). Views: a crop of 20 to 100 %
    of the area, a flip, jittered colours, sometimes grey, blurred; where a domain has a crop that it knows to be safe,
    it replaces the published one.

    Assumption: the texts tell the classes apart. Each image is labelled by itself, so that nothing is assumed about how
    many of the classes occur, and nothing keeps the labels balanced.

    Where it differs from the released code: the last weights are kept (released: the epoch that is best on the test
    labels is reported); float32; the domain's prompts.

    Resources:
        images, unlabeled_images, place: as for all that train on images without labels.
        attributes: sentences that describe each class, as published from a language model.

    Raises:
        ConfigError: an option is out of range.
        CapabilityError: no unlabelled images, an image tower that takes no tokens or has no norms, several labels per
            image, or images of other than three channels.

    Example:
        >>> adapter = build_adapter("lafter", epochs=1, batch_size=4)
        >>> report = adapter.fit(None, classifier, unlabeled=test, backbone=backbone, resources=unlabelled)
        >>> adapter.logits(Batch(pixels=pixels)).shape
        torch.Size([12, 3])
    """

    differs: ClassVar[str] = (
        "no fixture: the text classifier and the training are checked against explicit loops. The last weights are "
        "kept (released: the epoch that is best on test labels)"
    )
    optional: ClassVar[frozenset[str]] = frozenset({"attributes"})
    backbone_needs: ClassVar[frozenset[str]] = frozenset({"image_blocks"})
    default_epochs: ClassVar[int] = 50
    clip_grad: ClassVar[None] = None

    crops = has(RandomCrops, published_crop=(0.2, 1.0))
    presets: ClassVar[tuple[str, ...]] = (*SETS, *VARIANTS)
    preset: str | None = preset_option(*SETS, *VARIANTS)
    batch_size: int = 50
    lr: float = 5e-4
    weight_decay: float = option(0.01, "weight decay on all that trains but biases", low=0)
    n_ctx: int = option(50, "tokens in the image tower", low=1, high=1024)
    text_steps: int | None = option(
        None, "steps of the text classifier; none: 400, or the preset's", low=1, high=1_000_000
    )

    def _settings_of_method(self, epochs: int) -> dict[str, Any]:
        return {**super()._settings_of_method(epochs), "schedule": "constant", "decayed": "weights"}

    def _choose(self, backbone: Backbone) -> list[str]:
        notes = train_norms(backbone, ("image",))
        width = backbone.width("image")
        bound = (6 / (3 * PATCH**2 + width)) ** 0.5
        backbone.attach_prompts(image=torch.empty(1, self.n_ctx, width).uniform_(-bound, bound))
        return notes

    def _put(self, backbone: Backbone) -> None:
        backbone.attach_prompts(image=self.changed[TOKENS]).requires_grad_(False)
        super()._put(backbone)

    def _fit(self, support, classifier, *, val, unlabeled, backbone, resources, seed) -> FitReport:
        images = resources["unlabeled_images"]
        steps = self.text_steps or PUBLISHED_STEPS.get(self.preset, STEPS)
        texts = _texts(classifier, resources.get("attributes"), backbone)
        head, reached = text_classifier(texts, steps, self.lr, self.weight_decay, seed)
        labels = (unlabeled.unit.to(head.device) @ head.T).argmax(dim=1)
        loss = OfTextLabels(head, labels)
        safe = images.train_transform.safe_crop if isinstance(images.train_transform, CropTransform) else None
        crop = self.crops.crop_scale or safe or self.crops.published_crop
        how = {"view": as_tested(images), "strong_view": Views(backbone).strong(crop, blur=1.0)}
        how |= {"place": resources.get("place"), "seed": seed, "epochs": self.epochs or self.default_epochs}
        report = self._self_train(loss, images, backbone, **how)
        self.weights = loss.rows.detach()
        report.trained_parameters += loss.rows.numel()
        report.chosen |= {"trained parameters": report.trained_parameters, "text steps": steps}
        held = int((labels.bincount(minlength=len(classifier)) > 0).sum())
        report.notes.append(
            f"a classifier learned on texts alone ({reached:.0%} of them right) gave {len(unlabeled)} unlabelled "
            f"images {held} of {len(classifier)} classes"
        )
        return report

    def _logits(self, batch: Batch) -> Tensor:
        features = self._raw(batch)
        return F.linear(features, self.weights.to(features.device))

    def _towers_of_fit(self) -> Backbone:
        return self.adapted(self.towers) if self._made is None else self._made

    def _absent_classes(self, classifier: TextClassifier, unlabeled, base) -> list[str]:
        """How many classes seem to occur; nothing is assumed of that."""
        told = super()._absent_classes(classifier, unlabeled, base)
        each = f"'{self.name}' labels each image by itself and assumes nothing about how many classes occur"
        return [f"{note.split(';')[0]}; {each}" for note in told]


def _texts(classifier: TextClassifier, attributes: Sequence[Sequence[str]] | None, backbone: Backbone) -> list[Tensor]:
    """Of each class (T_c, D) unit features of all its texts."""
    if attributes is None:
        return list(classifier.prototypes)
    named = {str(number): texts for number, texts in enumerate(attributes)}
    further = build_classifier(backbone, list(named), [], descriptions=named).prototypes
    return [torch.cat([of, more.to(of.device)]) for of, more in zip(classifier.prototypes, further)]


def text_classifier(
    of_classes: Sequence[Tensor], steps: int, lr: float, weight_decay: float, seed: int
) -> tuple[Tensor, float]:
    """(C, D) weights that tell the classes' texts apart, and the share of the texts that they do.

    Args:
        of_classes: C tensors (T_c, D) of unit rows.
    """
    texts = torch.cat(list(of_classes)).float()  # (T, D)
    counts = torch.tensor([len(of) for of in of_classes])
    labels = torch.arange(len(counts)).repeat_interleave(counts).to(texts.device)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = nn.Linear(texts.shape[1], len(counts), bias=False).to(texts.device)
    optimizer = torch.optim.AdamW(head.parameters(), lr=lr, weight_decay=weight_decay)
    for _ in range(steps):
        noisy = texts + NOISE * torch.randn(texts.shape, generator=generator).to(texts.device)
        loss = F.cross_entropy(head(noisy), labels, label_smoothing=SMOOTHING)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        right = float((head(texts).argmax(dim=1) == labels).double().mean())
    return head.weight.detach(), right


class OfTextLabels(Loss):
    """Smoothed cross-entropy of strong views under labels that stay. Owns the student's classifier.

    Args:
        rows: (C, D) to start from.
        labels: (N,) of the images.
    """

    needs: ClassVar = frozenset({"strong", "index"})
    outputs: ClassVar[Mapping[str, Output]] = {
        "strong": Output("features of a strongly augmented view", kind="raw", fields=("pixels_strong1",)),
    }

    def __init__(self, rows: Tensor, labels: Tensor):
        super().__init__()
        self.rows = nn.Parameter(rows.clone())
        self.register_buffer("labels", labels)

    def further_outputs(self, batch, backbone) -> dict[str, Tensor]:
        return {"strong": backbone.encode_image(batch["pixels_strong1"], normalize=False)}

    def compute(self, out, progress: float) -> dict[str, Tensor]:
        logits = F.linear(out["strong"], self.rows)
        return {"loss": F.cross_entropy(logits, self.labels[out["index"]], label_smoothing=SMOOTHING)}
