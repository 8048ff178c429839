"""ReCLIP: pseudo-labels by propagation in a projected space; both towers are trained where their labels agree.

Take it without labels, with a GPU, where zero-shot is weak but above chance and both towers may change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.contracts import Backbone, Batch, FitReport, Loss, option
from ...core.errors import CapabilityError
from ...core.prompts import encoded_classes
from ..transductive._together import ANSWERS, answered, check_together, remember
from ._projected import Propagation, projection_of
from ._towers import SelfTrained, as_tested, train_norms

MOST_EPOCHS, IMAGES_AN_EPOCH = 100, 5000
MANY_CLASSES, CUT, CUT_OF_MANY = 500, 768, 250
PLAIN = frozenset({"features"})
MEAN, RELEASED = IMAGE_LOSSES = ("mean", "released")


@dataclass(eq=False, kw_only=True)
class Reclip(SelfTrained):
    """ReCLIP: Refine Contrastive Language Image Pre-Training with Source Free Domain Adaptation (Hu et al., 2023,
    arXiv 2308.03793).

    Two models are made of the towers: T reads images by the frozen image tower and classes by a text tower whose layer
    norms train; V reads images by an image tower whose norms train, and its classes are centroids of images. Before
    each epoch both give pseudo-labels to all unlabelled images. With U the left singular vectors of the (D, C) class
    texts and P = U_1 U_1^T + U_2 U_2^T + ... (without U_0, what all classes share), texts and images are projected by P
    to unit length and are the nodes of a graph: (cosine + 1) / 2 to each one's k nearest, W the mean of that matrix
    and its transpose, S = D^-1/2 W D^-1/2. The scores are the first C columns of

        (I - alpha S)^-1

    and an image's label is its largest one. V's classes are then the unit means of the (not projected) features of each
    label; T's projection is made anew from its texts. In the epoch both are trained by cross-entropy on the images
    whose two labels agree, T with the first prompt of each class: SGD at 1e-3, momentum 0.9, weight decay 1e-4, batches
    of 64, no augmentation, N / 5000 + 2 epochs, 100 at most. The prediction is the mean of the logits of both.

    With `train=False` no tower is trained or needed: there is one propagation. An unlabelled image gets the logarithm
    of its scores; any other image the mean of the logits by the texts and by the centroids.

    Without labels nothing is chosen. It assumes that images of a class lie near each other once what all classes share
    is removed, and that all the classes occur among the unlabelled images: absent classes attract images of others.

    Where it differs from the released code: float32; the loss of V is the mean over the images that agree, like that of
    T (released: also divided by the batch size, `image_loss="released"`); the last weights are kept (released: the
    epoch that is best on the test labels, the last training excluded); a step in which no two labels agree applies only
    weight decay (released: none).

    Raises:
        ConfigError: an option is out of range.
        CapabilityError: no unlabelled images, the towers have no norms, or several labels per image.

    Example:
        >>> adapter = build_adapter("reclip", train=False)
        >>> report = adapter.fit(None, classifier, unlabeled=test.without_labels())
        >>> adapter.logits(test).shape
        torch.Size([12, 3])
    """

    assumes: ClassVar[str] = "every class occurs, with more images than an image has neighbours in the graph"
    differs: ClassVar[str] = (
        "the fixture covers the propagation; the training is checked against an explicit loop. The image model's loss "
        "is a mean over the images that agree (released: also divided by the batch size, `image_loss`); the last "
        "weights are kept (released: the epoch that is best on test labels)"
    )
    transductive: ClassVar[bool] = True
    at_predict: ClassVar[frozenset[str]] = frozenset({"features", "pixels"})
    state: ClassVar[tuple[str, ...]] = (*SelfTrained.state, *ANSWERS, "centroids")
    crop_scale: ClassVar[None] = None
    clip_grad: ClassVar[None] = None

    train: bool = option(True, "train the towers; no: propagate labels once, on features alone")
    n_neighbors: int = option(20, "k, nodes that each text and each image has edges to", low=1, high=100_000)
    alpha: float = option(0.99, "how far labels spread along edges", low=0, below=1)
    cut: int | None = option(
        None, "first singular vector of the texts to drop; none: 768, or 250 with over 500 classes", low=2, high=10**6
    )
    iterations: int = option(20, "limit on the steps of the solver", low=1, high=100_000)
    image_loss: str = option(
        MEAN, "loss of the image model; released: divided by the batch size as well", choices=IMAGE_LOSSES
    )
    batch_size: int = 64
    lr: float = option(1e-3, "learning rate of both models", above=0)
    weight_decay: float = option(1e-4, "weight decay on all that trains", low=0)

    def __post_init__(self):
        super().__post_init__()
        if not self.train:
            self.needs, self.at_predict = frozenset({"features", "unlabeled"}), PLAIN

    _check_support = check_together

    def _settings_of_method(self, epochs: int) -> dict[str, Any]:
        own = {"optimizer": "sgd", "decayed": "all", "schedule": "constant"}
        return {**super()._settings_of_method(epochs), **own}

    def _choose(self, backbone: Backbone) -> list[str]:
        return train_norms(backbone, ("text", "image"))

    def _cut(self, classes: int) -> int:
        return self.cut or (CUT if classes <= MANY_CLASSES else CUT_OF_MANY)

    def _fit(self, support, classifier, *, val, unlabeled, backbone, resources, seed) -> FitReport:
        spread = Propagation(self.n_neighbors, self.alpha, self.iterations)
        cut = self._cut(len(classifier))
        if not self.train:
            return self._propagate(classifier, unlabeled, spread, cut)
        images, count = resources["unlabeled_images"], len(unlabeled)
        loss = _Agreement(classifier.weights, unlabeled.unit, images.prompts, spread, cut, self.image_loss == RELEASED)
        report = self._self_train(
            loss,
            images,
            backbone,
            epochs=self.epochs or min(MOST_EPOCHS, count // IMAGES_AN_EPOCH + 2),
            place=resources.get("place"),
            seed=seed,
            view=as_tested(images),
            prompts=[texts[:1] for texts in images.prompts],
            identity={"prompts": [list(texts) for texts in images.prompts]},
        )
        self.weights = encoded_classes(self._made, [texts[:1] for texts in images.prompts])
        self.centroids = loss.centroids.clone()
        self.queries = self.prints = self.log_assignments = None
        agreed = int((loss.of_text == loss.of_image).sum())
        report.notes.append(f"both models gave {agreed} of {count} unlabelled images the same label in the last epoch")
        return report

    def _propagate(self, classifier, unlabeled, spread: Propagation, cut: int) -> FitReport:
        self.backbone_, self.templates, self.changed = unlabeled.backbone, [], {}
        self.prefix = self.negative = self.logit_bias = None
        self.weights, self.logit_scale = classifier.weights, classifier.logit_scale
        done = spread(self.weights, unlabeled.unit, projection_of(self.weights, cut))
        self.centroids = done.centroids
        scores = done.scores[len(classifier) :].clamp_min(torch.finfo(torch.float32).tiny)
        remember(self, unlabeled.unit, scores.log())
        moved = int((done.labels != classifier.logits(unlabeled.unit).argmax(dim=1)).sum())
        note = f"{len(unlabeled)} unlabelled images in one graph; {moved} left the class their texts gave"
        return FitReport(self.name, notes=[note])

    def adapted(self, backbone: Backbone) -> Backbone:
        return super().adapted(backbone) if self.train else backbone

    def _logits(self, batch: Batch) -> Tensor:
        if not self.train:
            return answered(self, batch, self._outside)
        if batch.pixels is None:
            raise CapabilityError(f"adapter '{self.name}' looks at images by two towers; pass Batch(pixels=...)")
        towers = self.towers
        with torch.no_grad():
            before = towers.encode_image(batch.pixels.to(towers.device))
        by_text = self.logit_scale * before @ self.weights.to(before.device).T
        return 0.5 * (by_text + self._rows(batch, self.centroids).to(by_text.device))

    def _outside(self, batch: Batch) -> Tensor:
        return 0.5 * self.logit_scale * batch.features @ (self.weights + self.centroids).T


class _Agreement(Loss):
    """Cross-entropy of the text model and of the image model on the images to which both give the same label.

    Args:
        text: (C, D) unit class texts of the frozen towers.
        features: (N, D) unit image features of the frozen towers.
        prompts: C lists of texts, of which projections and nodes are made.
        spread: the propagation.
        cut: as of `projection_of`.
        released: whether the image model's loss is divided by the size of the batch.
    """

    needs: ClassVar = frozenset({"image_features", "class_features", "index", "logit_scale"})

    def __init__(self, text: Tensor, features: Tensor, prompts, spread: Propagation, cut: int, released: bool):
        super().__init__()
        self.prompts, self.spread, self.cut, self.released = prompts, spread, cut, released
        self.register_buffer("text", text.clone(), persistent=False)
        self.register_buffer("features", features, persistent=False)
        self.register_buffer("of_text", torch.zeros(len(features), dtype=torch.int64, device=features.device))
        self.register_buffer("of_image", torch.zeros_like(self.of_text))
        self.register_buffer("centroids", text.clone())

    def prepare(self, backbone: Backbone) -> None:
        self._held = [backbone]  # in a list: no submodule

    def before_epoch(self, extract) -> None:
        """New labels by both models, and new classes of the image model."""
        text = encoded_classes(self._held[0], self.prompts).to(self.text)
        of_text = self.spread(text, self.features, projection_of(text, self.cut))
        images = extract(["image_features"])["image_features"].to(self.text)
        of_image = self.spread(self.text, images, projection_of(self.text, self.cut))
        self.of_text.copy_(of_text.labels)
        self.of_image.copy_(of_image.labels)
        self.centroids.copy_(of_image.centroids)

    def compute(self, out, progress: float) -> dict[str, Tensor]:
        rows, scale = out["index"], out["logit_scale"].detach()
        labels = self.of_text[rows]
        agreed = (labels == self.of_image[rows]).float()
        count = agreed.sum().clamp_min(1)
        of_text = F.cross_entropy(scale * self.features[rows] @ out["class_features"].T, labels, reduction="none")
        of_image = F.cross_entropy(scale * out["image_features"] @ self.centroids.T, labels, reduction="none")
        text, image = (of_text * agreed).sum() / count, (of_image * agreed).sum() / count
        image = image / len(rows) if self.released else image
        return {"loss": text + image, "text": text, "image": image, "agreed": agreed.mean()}
