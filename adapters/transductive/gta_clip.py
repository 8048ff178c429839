"""GTA-CLIP: classifies all test images together by attributes of the classes, in turn with tuning the towers.

Take it without labels, with a GPU, where all classes occur and sentences tell them apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...core.contracts import (
    Backbone,
    Batch,
    FitReport,
    Item,
    Loss,
    RandomCrops,
    TrainingImages,
    TrainingPlace,
    has,
    option,
)
from ...core.training import (
    GlobalBatches,
    ImageSource,
    Remembered,
    TowerLayers,
    TrainingTask,
    copy_of,
    image_features,
)
from ..selftraining._towers import SelfTrained
from ._mixture import GaussianMixture, QueryImages, Solution, first_mixture, solve
from ._neighbours import mutual_links
from ._together import ANSWERS, answered, check_together, one_update, remember

ALL, RELEASED = TUNED = ("all", "released")


@dataclass(eq=False, kw_only=True)
class GtaClip(SelfTrained):
    """Generate, Transduct, Adapt: Iterative Transduction with VLMs (Saha, Lawrence and Maji, 2025, arXiv 2501.06031).

    A class's logit is the mean over its attribute texts of the scaled cosine to each. In each of 30 rounds

    1. all unlabelled images are classified together, as TransCLIP does without shots (`transclip`): assignments z;
    2. images whose two largest z differ by less than 0.1 show which pairs of classes are confused. Pairs that are
       confused by more than a given number of images are compared: sentences that tell each class from the other join
       its attributes, and step 1 is repeated. About 5 % of the pairs of the first round exceed that number; a pair is
       compared once;
    3. the 8 images of largest z of each class are its pseudo-labels. Each such image is paired with an attribute of
       its classes, drawn by chance, and both towers train on them for one epoch: for every image the mean of
       -log p over the texts of the batch that are of a class of its own, p the softmax over the texts, and for every
       text the same over images; both means are added. A new AdamW in each round, at 2e-7 and for the two projections
       1e-6, decay 1e-4, betas 0.9 and 0.98, eps 1e-6, batches of 32.

    At the end all are classified once more. An unlabelled image has its z. Any other image gets one update of its own
    with the solution kept, as in `transclip`.

    Attributes are given by `--resource attributes=FILE` (JSON, {class: [sentences]}), what tells two classes apart by
    `--resource pair-attributes=FILE` (JSON, {class: {other class: [sentences]}}). Without the first the class prompts
    stand for attributes, without the second step 2 is left out; the run says so.

    Without labels nothing is chosen. It assumes that all the classes occur among the unlabelled images: each class
    takes 8 of them as its own, even an absent one.

    Where it differs from the released code: sentences are read, not asked of a language model during the run; the whole
    towers are trained, as in the paper (released: whatever has "proj" in its name stays frozen, but for the two
    projections; that is most of the attention and half of the feed-forward layers: `tune="released"`); crops and flips
    are the domain's, without jittered colours; the last round's z is that of its trained towers (released: the best of
    all rounds on the test labels). No checkpoints are kept: an interrupted fit starts anew.

    Resources:
        attributes, pair_attributes: as in `core/contracts/resources.py`.

    Raises:
        ConfigError: an option is out of range.
        CapabilityError: no unlabelled images, or several labels per image.

    Example:
        >>> adapter = build_adapter("gta-clip", epochs=1, batch_size=4)
        >>> report = adapter.fit(None, classifier, unlabeled=test, backbone=backbone, resources=unlabelled)
        >>> adapter.logits(Batch(pixels=pixels)).shape
        torch.Size([12, 3])
    """

    assumes: ClassVar[str] = "every class occurs"
    differs: ClassVar[str] = (
        "sentences are read from files (released: asked of a language model); the whole towers train (released: "
        'all except parameters with "proj" in their names, `tune`); colours are not jittered; the last round is '
        "kept (released: the best on test labels). The training is checked against an explicit loop"
    )
    transductive: ClassVar[bool] = True
    optional: ClassVar[frozenset[str]] = frozenset({"attributes", "pair_attributes"})
    state: ClassVar[tuple[str, ...]] = (
        *SelfTrained.state,
        *ANSWERS,
        *("text", "lambda_", "base_", "means", "variance"),
    )
    later_state: ClassVar = {**SelfTrained.later_state, "base_": ""}
    default_epochs: ClassVar[int] = 30
    clip_grad: ClassVar[None] = None

    crops = has(RandomCrops, published_crop=(0.08, 1.0))
    lr: float = option(2e-7, "learning rate of all but the projections", above=0)
    projection_lr: float = option(1e-6, "learning rate of the projections into the shared space", above=0)
    weight_decay: float = option(1e-4, "weight decay on all that trains", low=0)
    tune: str = option(ALL, "what trains; released: what has no proj in its name, and the projections", choices=TUNED)
    n_neighbors: int = option(3, "nearest images that an image is linked to; 0 for none", low=0, high=100_000)
    iterations: int = option(10, "updates of assignments, means and variance", low=1, high=100_000)
    inner_iterations: int = option(5, "updates of the assignments in each of them", low=1, high=100_000)
    temperature: float = option(50.0, "what the log-likelihood is divided by", above=0)
    confident_images: int = option(
        8, "images per class that a mean starts from, and that are trained on", low=1, high=10**6
    )
    margin: float = option(
        0.1, "difference of the two largest z below which an image counts as confused", above=0, high=1
    )
    compared: float = option(0.05, "share of the first round's confused pairs to compare", low=0, high=1)

    _check_support = check_together

    def _settings_of_method(self, epochs: int) -> dict[str, Any]:
        own = {"betas": (0.9, 0.98), "eps": 1e-6, "decayed": "all", "schedule": "constant"}
        return {**super()._settings_of_method(epochs), **own, "projection_rate": self.projection_lr / self.lr}

    def _choose(self, backbone: Backbone) -> list[str]:
        TowerLayers(backbone).set_trainable()
        for name, parameter in backbone.model.named_parameters():
            if self.tune == RELEASED and "proj" in name and not TowerLayers.is_projection(name):
                parameter.requires_grad_(False)
        return []

    def _fit(self, support, classifier, *, val, unlabeled, backbone, resources, seed) -> FitReport:
        images: TrainingImages = resources["unlabeled_images"]
        texts = [list(each) for each in resources.get("attributes") or images.prompts]
        comparing = Comparisons(self.margin, self.compared, resources.get("pair_attributes"), self.class_names_)
        self._begin(backbone)
        towers, features, history = copy_of(backbone), unlabeled.unit, []
        load, done = Remembered(images.load), None
        for round_ in range(self.epochs or self.default_epochs):
            z = self._transduct(towers, features, texts).log_assignments
            if comparing.extend(texts, z.exp()):
                z = self._transduct(towers, features, texts).log_assignments
            source, loss = _drawn_pairs(images.items, load, texts, z, self.confident_images, (seed, round_))
            done = self._tune(towers, source, loss, images, seed + round_, resources.get("place"), round_)
            history += [{**row, "epoch": float(round_ + 1)} for row in done.history]
            features = _encoded(towers, images, load, self.batch_size)
        self.changed = self._learned(towers, backbone)
        self._made = self._named(towers)
        self.text, self.logit_scale = mean_texts(towers, texts), float(towers.logit_scale)
        solution = self._solved(features, self.logit_scale * features @ self.text.T)
        self.means, self.variance = solution.mixture.means, solution.mixture.variance
        log_assignments = solution.log_assignments
        self.log_assignments = remember(self, features, log_assignments).log_softmax(dim=1)
        report = FitReport(self.name, chosen_on="published settings")
        moved = int((log_assignments.argmax(dim=1) != classifier.logits(unlabeled.unit).argmax(dim=1)).sum())
        report.notes += [
            f"{len(features)} unlabelled images classified together; {moved} left the class of their prompts"
        ]
        report.notes += (
            [] if resources.get("attributes") else ["no --resource attributes: class prompts stand for them"]
        )
        report.notes += comparing.notes + done.notes
        rounds = self.epochs or self.default_epochs
        report.chosen |= {"epochs": rounds, "lr": self.lr, "trained parameters": done.trained_parameters}
        report.history, report.trained_parameters = history, done.trained_parameters
        return report

    def _begin(self, backbone: Backbone) -> None:
        self.backbone_, self.templates, self.lambda_, self.base_ = backbone.fingerprint, [], 1.0, ""
        self.prefix = self.finder = self.weights = self.negative = None
        self._note_scale(backbone)

    def _transduct(self, towers: Backbone, features: Tensor, texts: Sequence[Sequence[str]]) -> Solution:
        return self._solved(features, float(towers.logit_scale) * features @ mean_texts(towers, texts).T)

    def _solved(self, features: Tensor, logits: Tensor) -> Solution:
        """All images classified together.

        Args:
            features: (Q, D) unit rows.
            logits: (Q, C) of the attributes.
        """
        start = Solution(logits.softmax(dim=1), first_mixture(features, logits, self.confident_images))
        queries = QueryImages(features, logits.log_softmax(dim=1), mutual_links(features, self.n_neighbors))
        how = {"iterations": self.iterations, "inner_iterations": self.inner_iterations}
        return solve(queries, start, None, temperature=self.temperature, **how)

    def _tune(
        self,
        towers: Backbone,
        source: ImageSource,
        loss: MultiPositive,
        images: TrainingImages,
        seed: int,
        place: TrainingPlace | None,
        round_: int,
    ):
        """One epoch on the pairs."""
        steps = len(GlobalBatches(len(source), self.batch_size, seed, drop_last=False))
        view = self._view(images.train_transform, towers)
        task = TrainingTask(source, losses={}, own={self.name: loss.to(towers.device)}, view=view, select=self._choose)
        rounds = self.epochs or self.default_epochs

        def on_step(step: int, total: int, values: dict[str, Any]) -> None:
            if place is not None:
                place.on_step(round_ * total + step, rounds * total, values)

        hooks = () if place is None else place.hooks
        progress = TrainingPlace(None, on_step=on_step, hooks=hooks)
        return self._train_in_place(towers, task, progress, epochs=1, steps=steps, seed=seed)[0]

    def _logits(self, batch: Batch) -> Tensor:
        return answered(self, Batch(self._unit(batch)), self._outside)

    def _outside(self, batch: Batch) -> Tensor:
        unit, centre = batch.features, self.means.mean(dim=0)
        likelihood = GaussianMixture(self.means, self.variance).log_likelihood(unit - centre, centre) / self.temperature
        return one_update(self, unit, self.logit_scale * unit @ self.text.T, likelihood)


class Comparisons:
    """Which pairs of classes were compared, and what was said of them.

    Args:
        margin, share: options of `gta-clip`.
        sentences: class -> other class -> sentences; None: nothing is compared.
        names: of the classes.
    """

    def __init__(self, margin: float, share: float, sentences: Mapping | None, names: Sequence[str]):
        self.margin, self.share, self.sentences, self.names = margin, share, sentences, names
        self.threshold: int | None = None
        self.done: set[tuple[int, int]] = set()
        self.said = 0

    def extend(self, texts: list[list[str]], z: Tensor) -> bool:
        """Add to the texts of classes what tells them from those they are confused with; whether any was added."""
        if self.sentences is None:
            return False
        pairs, counts = confused_pairs(z, self.margin)
        if self.threshold is None and len(pairs):
            self.threshold = count_threshold(counts, self.share)
        some = 0 if self.threshold is None else self.threshold
        new = [pair for pair in map(tuple, pairs[counts > some].tolist()) if pair not in self.done]
        self.done.update(new)
        before = self.said
        for one, other in [*new, *((b, a) for a, b in new)]:
            sentences = self.sentences.get(self.names[one], {}).get(self.names[other], ())
            texts[one].extend(sentences)
            self.said += len(sentences)
        return self.said > before

    @property
    def notes(self) -> list[str]:
        if self.sentences is None:
            return ["no --resource pair-attributes: confused pairs of classes are not compared"]
        return [f"{len(self.done)} confused pairs of classes compared, by {self.said} sentences"]


def confused_pairs(z: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    """(P, 2) pairs of classes, the smaller index first, between which images hang, and (P,) how many each.

    Args:
        z: (Q, C) assignments.
        margin: the two largest z of such an image differ by less.
    """
    top = z.topk(2, dim=1)
    hanging = top.indices[top.values[:, 0] - top.values[:, 1] < margin]
    return hanging.sort(dim=1).values.unique(dim=0, return_counts=True)


def count_threshold(counts: Tensor, share: float) -> int:
    """The smallest number that so large a share of the counts exceeds as nearly as any other does."""
    exceeding = [int((counts > number).sum()) for number in range(int(counts.max()) + 1)]
    return min(range(len(exceeding)), key=lambda number: abs(exceeding[number] - share * len(counts)))


def mean_texts(towers: Backbone, texts: Sequence[Sequence[str]]) -> Tensor:
    """(C, D) means of the unit text features of each class, not brought to unit length: a mean of cosines is a product
    with them."""
    with torch.no_grad():
        return towers.text_means(texts)


@torch.no_grad()
def _encoded(towers: Backbone, images: TrainingImages, load: Remembered, size: int) -> Tensor:
    """(N, D) unit features of images as they are tested."""
    parts = []
    for start in range(0, len(images.items), size):
        pixels = [images.eval_transform(load(item)) for item in images.items[start : start + size]]
        parts.append(image_features(towers, torch.stack(pixels).to(towers.device)))
    return torch.cat(parts).float()


def _drawn_pairs(
    items: Sequence[Item], load, texts: Sequence[Sequence[str]], z: Tensor, count: int, seed: tuple[int, int]
) -> tuple[ImageSource, MultiPositive]:
    """The `count` images of largest z of each class, each with one of all attributes of its classes, and their loss.

    Args:
        z: (Q, C) assignments, or what ranks like them.
    """
    chosen = torch.zeros(z.shape, dtype=torch.bool)
    chosen.scatter_(0, z.topk(min(count, len(z)), dim=0).indices.cpu(), True)
    rows = chosen.any(dim=1).nonzero().flatten()
    generator = torch.Generator().manual_seed(seed[0] * 1_000_003 + seed[1])
    sentences, owners = [], []
    for row in rows.tolist():
        of_row = [(c, text) for c in chosen[row].nonzero().flatten().tolist() for text in texts[c]]
        owner, text = of_row[int(torch.randint(len(of_row), (), generator=generator))]
        sentences.append(text)
        owners.append(owner)
    source = ImageSource([items[row] for row in rows.tolist()], load, sentences)
    return source, MultiPositive(chosen[rows], torch.tensor(owners))


class MultiPositive(Loss):
    """Contrastive loss of images and texts in which each may have several positives.

    Args:
        image_classes: (I, C) bool of the rows of the training set.
        text_class: (I,) the class of each row's text.
    """

    needs: ClassVar = frozenset({"image_features", "text_features", "logit_scale", "index"})

    def __init__(self, image_classes: Tensor, text_class: Tensor):
        super().__init__()
        self.register_buffer("image_classes", image_classes, persistent=False)
        self.register_buffer("text_class", text_class, persistent=False)

    def compute(self, out, progress: float) -> dict[str, Tensor]:
        rows = out["index"]
        linked = self.image_classes[rows][:, self.text_class[rows]]  # (B, B)
        return {"loss": multi_positive(out["logit_scale"] * out["image_features"] @ out["text_features"].T, linked)}


def multi_positive(logits: Tensor, linked: Tensor) -> Tensor:
    """The mean over images of the mean -log p of their positive texts, plus the same of texts.

    Args:
        logits: (B, B) of images by texts.
        linked: (B, B) bool, which are positives; one at least in every row and column.
    """
    of_images = (logits.log_softmax(dim=1) * linked).sum(dim=1) / linked.sum(dim=1)
    of_texts = (logits.log_softmax(dim=0) * linked).sum(dim=0) / linked.sum(dim=0)
    return -(of_images.mean() + of_texts.mean())
