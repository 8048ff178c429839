"""GIST: towers tuned on each image with the texts of its class that fit it best, then a linear probe.

Take it with a GPU, where each class has many sentences that tell its kinds apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.contracts import (
    Backbone,
    Batch,
    ClassWeighting,
    FeatureSet,
    FitReport,
    Item,
    RandomCrops,
    TrainingImages,
    has,
    option,
    spoken,
)
from ...core.errors import CapabilityError, ConfigError
from ...core.features import cores
from ...core.prompts import build_classifier
from ...core.training import (
    ImageSource,
    Remembered,
    TowerAdapter,
    TowerLayers,
    TrainingTask,
    epoch_batches,
    train_epochs,
)
from ._one_way import ONE_WAY

AT_ONCE = 64
"""Images encoded at once for the probe."""


@dataclass(eq=False, kw_only=True)
class Gist(TowerAdapter):
    """Lewis, Mu, Dalca and Guttag, GIST: Generating Image-Specific Text for Fine-grained Object Classification, 2023,
    arXiv 2307.11315.

    It is meant for fine-grained classes with few labels and texts about each class, which a language model may have
    written. Each labelled image is matched to the k texts of its own class whose features are nearest to its own, which
    gives k pairs of the image and "CLASS: TEXT". On all pairs both towers and the logit scale are trained by the
    contrastive loss of CLIP, among the pairs of a batch. Then the towers are frozen, and a linear probe is trained on
    the image features as the tower gives them, with their norms; it alone classifies. Each class to be learned needs an
    image.

    Published: k = 4, Adam at 1e-6, betas 0.9 and 0.98, eps 1e-6, weight decay 1e-3 in the gradient of all weights, a
    constant rate, batches of 20 pairs (the last one of an epoch may be smaller), crops of 8 to 100 % of the area. The
    released script trains 200 epochs; its example for few shots takes the weights after 40, as here. The probe: plain
    SGD at 0.5 in batches of 64, 1,000 epochs, keeping the weights of the last of the epochs that are best on val;
    without val those of the last epoch. Where classes have unequal numbers of images the log shares of the classes are
    added to the probe's logits in training, and val is scored by balanced accuracy (`class_weight`; published is
    "none").

    Where it differs from the released code: float32 in place of float16; texts are matched by the backbone that is
    tuned (released: another one, of LAION-2B); the logit scale is held at 100 at most; a class with fewer texts than k
    uses all of them.

    Resources:
        images: `TrainingImages`.
        attributes: texts about each class.
        place: `TrainingPlace`; without it no checkpoints are kept.

    Raises:
        ConfigError: an option out of range, or classes without names.
        CapabilityError: several labels per image, pairs, or classes that it never saw.

    Example:
        >>> adapter = build_adapter("gist", epochs=1, probe_epochs=5)
        >>> report = adapter.fit(
        ...     support, classifier, backbone=backbone, resources={"images": training, "attributes": sentences}
        ... )
        >>> adapter.logits(Batch(pixels=pixels)).shape
        torch.Size([12, 3])
    """

    differs: ClassVar[str] = (
        "no fixture: matching, a training step and the probe are checked against explicit loops. Float32 (released: "
        "float16); texts are matched by the backbone that is tuned; the logit scale is 100 at most"
    )
    needs: ClassVar[frozenset[str]] = TowerAdapter.needs | {"attributes"}
    can: ClassVar[frozenset[str]] = frozenset({"channels"})
    multilabel: ClassVar[bool] = False
    state: ClassVar[tuple[str, ...]] = ("changed", "prefix", "head", "head_bias")
    default_epochs: ClassVar[int] = 40

    fixed: ClassVar = ONE_WAY
    crops = has(RandomCrops, published_crop=(0.08, 1.0))
    weighting = has(ClassWeighting)

    # no options: trained at one rate, and the last weights are the towers of the probe
    prompts_a_class: ClassVar[None] = None
    warmup: ClassVar[float] = 0.0
    layer_decay: ClassVar[float] = 1.0
    clip_grad: ClassVar[None] = None

    batch_size: int = option(20, "pairs per step, of all processes together", low=2, high=1_048_576)
    lr: float = 1e-6
    weight_decay: float = option(1e-3, "weight decay on all that trains", low=0)
    texts_per_image: int = option(4, "texts that each image is paired with, the nearest of its class", low=1, high=1000)
    probe_epochs: int = option(1000, "epochs of the linear probe", low=1, high=1_000_000)
    probe_lr: float = option(0.5, "learning rate of the linear probe", above=0)
    probe_batch_size: int = option(64, "images per step of the linear probe", low=1, high=1_048_576)

    def _settings_of_method(self, epochs: int) -> dict[str, Any]:
        adam = {"optimizer": "adam", "betas": (0.9, 0.98), "eps": 1e-6, "decayed": "all"}
        return {**adam, "schedule": "constant", "drop_last": False}

    def _choose(self, backbone: Backbone) -> list[str]:
        TowerLayers(backbone).set_trainable()
        return []

    def _fit(self, support, classifier, *, val, unlabeled, backbone, resources, seed) -> FitReport:
        images: TrainingImages = resources["images"]
        if not self.class_names_:
            raise ConfigError(f"{self.name} writes texts behind class names, and none are given; name the classes")
        matched = matched_texts(support, resources["attributes"], backbone, self.texts_per_image)
        names = [spoken(self.class_names_[label]) for label in support.labels.tolist()]
        rows = [row for row, texts in enumerate(matched) for _ in texts]
        captions = [f"{name}: {text}" for name, texts in zip(names, matched) for text in texts]
        items = [images.items[row] for row in rows]
        task = TrainingTask(
            source=ImageSource(items, Remembered(images.load), captions),
            losses={"clip": 1.0},
            view=self._view(images.train_transform, backbone),
            identity={"pairs": self._digest([(item.id, text) for item, text in zip(items, captions)])},
        )
        self.backbone_ = backbone.fingerprint
        epochs = self.epochs or self.default_epochs
        report = self._train(task, epochs, backbone, None, resources.get("place"), seed)
        return self._with_probe(report, images, captions, seed)

    def _with_probe(self, report: FitReport, images: TrainingImages, captions: Sequence[str], seed: int) -> FitReport:
        """Train the linear probe on the towers as they are now; the report of both."""
        seen = _encoded(self._made, images, images.items)
        val = _encoded(self._made, images, images.val) if images.val else None
        self.head, self.head_bias, epoch, score = trained_probe(
            seen,
            len(self.class_names_),
            epochs=self.probe_epochs,
            lr=self.probe_lr,
            batch_size=self.probe_batch_size,
            seed=seed,
            priors=self.weighting.priors_of(seen.labels, len(self.class_names_)),
            score=None if val is None else partial(self._score_of_probe, val),
        )
        count = report.trained_parameters + self.head.numel() + self.head_bias.numel()
        chosen = {**report.chosen, "trained parameters": count, "probe epoch": epoch}
        words = report.chosen_on if score is None else f"val ({len(images.val)} images)"
        notes = [*report.notes, f"{len(images.items)} images make {len(captions)} pairs with the texts nearest to them"]
        decided = {"chosen": chosen, "chosen_on": words, "val_score": score, "notes": notes}
        return replace(report, **decided, trained_parameters=count)

    def _score_of_probe(self, val: FeatureSet, probe: nn.Linear) -> float:
        return self.weighting.val_score(probe(val.features), val.labels)

    def _logits(self, batch: Batch) -> Tensor:
        features = self._raw(batch)
        return F.linear(features, self.head.to(features.device), self.head_bias.to(features.device))

    def for_classes(self, backbone: Backbone, class_names, classifier=None) -> TowerAdapter:
        raise CapabilityError(f"adapter '{self.name}' learned a probe of its own classes, which cannot name others")

    def fit_pairs(self, source, backbone: Backbone, **options) -> FitReport:
        raise CapabilityError(
            f"adapter '{self.name}' matches texts to labelled images, while pairs already have texts; use full"
        )


def matched_texts(
    support: FeatureSet,
    attributes: Sequence[Sequence[str]],
    backbone: Backbone,
    count: int,
) -> list[list[str]]:
    """For each image the texts of its own class nearest to it, the best first.

    Args:
        support: N labelled images.
        attributes: C sequences of texts; those of classes without an image are not encoded.
        count: of an image; fewer where its class has fewer.
    """
    labels = support.labels.tolist()
    texts = {str(label): list(dict.fromkeys(attributes[label])) for label in sorted(set(labels))}
    prototypes = build_classifier(backbone, list(texts), [], descriptions=texts).prototypes
    features = dict(zip(texts, prototypes))  # of each class (T, D)
    matched = []
    for label, unit in zip(map(str, labels), support.unit.to(backbone.device)):
        nearest = (features[label] @ unit).topk(min(count, len(texts[label]))).indices
        matched.append([texts[label][place] for place in nearest.tolist()])
    return matched


@torch.no_grad()
def _encoded(towers: Backbone, images: TrainingImages, items: Sequence[Item]) -> FeatureSet:
    """Labelled features of images as they are, not normalised."""
    features = []
    with ThreadPoolExecutor(images.workers or cores()) as threads:
        for start in range(0, len(items), AT_ONCE):
            some = items[start : start + AT_ONCE]
            pixels = torch.stack(list(threads.map(lambda item: images.eval_transform(images.load(item)), some)))
            features.append(towers.encode_image(pixels.to(towers.device), normalize=False))
    labels = torch.tensor([item.class_label() for item in items])
    return FeatureSet(torch.cat(features), labels.to(towers.device))


def trained_probe(
    seen: FeatureSet,
    classes: int,
    *,
    epochs: int,
    lr: float,
    batch_size: int,
    seed: int,
    priors: Tensor | None = None,
    score: Callable[[nn.Linear], float] | None = None,
) -> tuple[Tensor, Tensor, int, float | None]:
    """(C, D) weights and (C,) bias of a linear probe, the epoch they are of (from 1), and its score on val.

    Args:
        seen: labelled features, taken as they are.
        priors: (C,) what is added to the logits in training, or None.
        score: on val, of the probe as it is; without val, None, the last epoch counts.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        probe = nn.Linear(seen.dim, classes)
    probe = probe.to(seen.features.device)
    batches = epoch_batches(len(seen), batch_size, seed, device=seen.features.device)
    optimizer, rates = torch.optim.SGD(probe.parameters(), lr=lr), [[lr] * len(batches(0))] * epochs

    def loss_of(epoch: int, index: Tensor) -> Tensor:
        logits = probe(seen.features[index])
        return F.cross_entropy(logits if priors is None else logits + priors, seen.labels[index])

    best = -1.0
    kept: tuple[int, float | None] = (epochs, None)
    for epoch in train_epochs(optimizer, rates, batches, loss_of):
        if score is None:
            continue
        with torch.no_grad():
            reached = score(probe)
        if reached >= best:
            best, kept = reached, (epoch.number + 1, reached)
            weights = [parameter.detach().clone() for parameter in probe.parameters()]
    if score is None:
        weights = [parameter.detach() for parameter in probe.parameters()]
    return (*weights, *kept)
