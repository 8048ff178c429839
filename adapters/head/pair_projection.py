"""Linear projections of both sides, learned on stored features of image-text pairs.

Take it for retrieval from stored features, where pairs are at hand and the towers are not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.contracts import (
    Adapter,
    Backbone,
    Batch,
    ClassWeighting,
    FeatureSet,
    FitReport,
    PairHead,
    PairParts,
    TextClassifier,
    has,
    option,
)
from ...core.errors import CapabilityError, DataError
from ...core.training import LearningRates, SimilarityObjective, TrainingSource, epoch_batches, label_loss, train_epochs
from ._text_rows import Frame, frame_of

WARMUP = 0.1
"""Share of the steps in which the rate rises."""
REFERENCE_WIDTH = 512
TEXTS_AT_ONCE = 256
NOTHING, VAL = "nothing to choose", "val"
SCORES_ON_VAL = 10
"""How often the val pairs are scored in a training."""


@dataclass(eq=False, kw_only=True)
class PairProjection(PairHead, Adapter):
    """A baseline for pairs whose features are stored: identity-initialised projections, trained by CLIP's loss.

    The loss is that of Learning Transferable Visual Models From Natural Language Supervision (Radford et al., 2021,
    arXiv 2103.00020).

    f(x) = x + (512 / r) x Q U for unit features x of either side, brought to unit length again. U (r, D) starts at 0,
    so that the training starts at zero-shot; it is all that is trained. By default Q is the identity and r = D; with
    `rank` Q (D, r) are the directions in which the training features of that side vary most. The factor makes a step
    of Adam turn features as far whatever r is. AdamW, the rate rising over a tenth of the steps and then falling along
    a cosine; the towers stay frozen, and their logit scale is kept.

    Of pairs, ten epochs are scored on val and the one of the best R@1 is kept, the later one of equal ones; without val
    it is the last. Of labelled images the loss is the cross-entropy of all classes, whose texts are projected too, and
    the last epoch is kept. The default rate and epochs were chosen on the packaged sample of 500 pairs.

    Several labels per image: binary cross-entropy, each label's logit relative to its negative prompts; without them to
    the backbone's logit bias, or else to the label's mean zero-shot score over the support.

    Classes with unequal numbers of images count alike (`class_weight`), and get offsets
    (`ClassWeighting.cross_fitted_offsets`).

    Attributes:
        image_down, text_down: (D, r) Q of either side; (0, 0) where it is the identity.
        image_up, text_up: (r, D) U of either side.

    Example:
        >>> adapter = build_adapter("pair-projection", epochs=5)
        >>> report = adapter.fit(support, classifier)
        >>> adapter.logits(test).shape
        torch.Size([12, 3])
    """

    differs: ClassVar[str] = (
        "no fixture: a baseline of our own; checked that it starts at zero-shot, and against explicit products"
    )
    can: ClassVar[frozenset[str]] = frozenset({"pairs", "new_classes"})
    multilabel: ClassVar[bool] = True
    state: ClassVar[tuple[str, ...]] = (
        *("image_down", "image_up", "text_down", "text_up"),
        *("text", "negative", "logit_scale", "offset"),
    )
    of_pairs: ClassVar[frozenset[str]] = frozenset({"loss", "loss_options"})
    changed: ClassVar[dict[str, Tensor]] = {}

    weighting = has(ClassWeighting)
    _memory: dict[str, Tensor] | None = field(init=False, default=None, repr=False)
    """Texts that a running fit has read, by their words."""
    _made: tuple[Backbone, Backbone] | None = field(init=False, default=None, repr=False)

    rank: int | None = option(None, "directions of each side that are projected anew; none: all", low=1, high=1_048_576)
    sides: str = option("both", "which side is projected", choices=("both", "image", "text"))
    lr: float = option(1e-4, "peak learning rate", above=0)
    epochs: int = option(50, "epochs", low=1, high=100_000)
    batch_size: int = option(128, "pairs or images per step", low=1, high=1_048_576)
    weight_decay: float = option(0.0, "weight decay of AdamW, which pulls back towards zero-shot", low=0)
    loss: str | None = option(None, "pairs: a loss, or several with weights (clip=1,egonce=0.5); none: clip")
    loss_options: Mapping[str, Mapping[str, Any]] | None = option(None, "pairs: options of each loss, by its name")

    def __post_init__(self):
        super().__post_init__()
        SimilarityObjective.check(self.loss, self.loss_options)

    # labelled images

    def _learn(self, support: FeatureSet, classifier: TextClassifier, seed: int) -> list[dict[str, float]]:
        """Train on labelled images; the history."""
        frame = frame_of(classifier, support)
        self.logit_scale, self.offset, self.negative = frame.logit_scale, frame.offset, frame.negative
        unit, texts = support.unit, classifier.weights
        parameters = self._start(unit, texts)
        criterion = label_loss(support.multilabel, self.weighting.priors_of(support.labels, len(texts)))

        def loss_of(epoch: int, index: Tensor) -> Tensor:
            logits = self._scores(self._of_images(unit[index]), self._of_texts(texts))
            return criterion(logits, support.targets[index])

        batches = epoch_batches(len(support), self.batch_size, seed, drop_last=True, device=unit.device)
        history = [epoch.row() for epoch in self._epochs(parameters, batches, loss_of)]
        self._settle()
        self.text = self._of_texts(texts)
        return history

    def _fit(self, support, classifier, *, val, unlabeled, backbone, resources, seed) -> FitReport:
        history = self._learn(support, classifier, seed)

        def logits_of(rest: FeatureSet, held: FeatureSet) -> Tensor:
            other = type(self)(**self.options)
            other.multilabel_ = False
            other._learn(rest, classifier, seed)
            return other._scores(other._of_images(held.unit), other.text)

        offsets = self.weighting.cross_fitted_offsets(support, len(self.text), seed, logits_of)
        if offsets is not None:
            self.offset = self.offset + offsets
        return self._report(history, self.epochs, NOTHING)

    def _scores(self, images: Tensor, texts: Tensor) -> Tensor:
        """(B, D) and (C, D) unit rows -> (B, C)."""
        negative = None if self.negative is None else self._of_texts(self.negative)
        return Frame(self.logit_scale, self.offset, negative).logits(images, texts)

    def _logits(self, batch: Batch) -> Tensor:
        if not len(self.text):
            raise CapabilityError(f"adapter '{self.name}' was fitted on pairs, which have no classes; use adapted()")
        return self._scores(self._of_images(batch.unit), self.text)

    def for_classes(
        self, backbone: Backbone | None, class_names: Sequence[str], classifier: TextClassifier | None = None
    ) -> Adapter:
        if classifier is None:
            raise CapabilityError(f"adapter '{self.name}' needs the text classifier of the new classes; pass it")
        other = self.copied_for(class_names)
        other.text = self._of_texts(classifier.weights.to(self.text_up.device))
        other.offset, other.negative = other.text.new_full((len(other.text),), classifier.logit_bias or 0.0), None
        return other

    # pairs

    def fit_pairs(
        self,
        source: TrainingSource,
        backbone: Backbone,
        *,
        features: Callable[[Backbone], PairParts] | None = None,
        validate: Callable[[Backbone], float] | None = None,
        seed: int = 0,
        **how: Any,
    ) -> FitReport:
        """Learn from pairs of an image and its texts; `adapted` gives the result, `logits` has no classes.

        Args:
            source: the pairs to train on.
            backbone: whose features are projected.
            features: gives the stored features of the images; by default they are encoded.
            validate: a score of towers on val, or None.
            how: what trainings of towers take besides, which frozen features have no use for.

        Raises:
            DataError: fewer than two pairs. CapabilityError: a loss does not apply to two sides alone.
        """
        self.check_towers(backbone)
        asking = {"who": f"adapter '{self.name}'", "pairwise": False, "backbone": backbone, "source": source}
        objective = SimilarityObjective.asked(self.loss, self.loss_options, (), **asking)
        stored = _encoded(source, backbone) if features is None else features(backbone)
        rows = [row for row in range(len(source)) if source.image_id(row) in stored.row_of]
        if len(rows) < 2:
            raise DataError(f"adapter '{self.name}' learns to tell pairs apart, and {len(rows)} can be read; give more")
        self.class_names_, self.multilabel_ = (), False
        self.backbone_, self.dim_, self.fitted_ = backbone.fingerprint, backbone.embed_dim, True
        self.text, self.negative = torch.zeros(0, backbone.embed_dim, device=backbone.device), None
        self.offset, self.logit_scale = self.text.new_zeros(0), float(backbone.logit_scale)
        self._made, self._memory = None, {}
        history, epoch = self._train_on_pairs(objective, source, backbone, stored, rows, validate, seed)
        self._memory = None
        chosen_on = NOTHING if validate is None else VAL
        notes = [f"Not read while training: {name} ({reason})" for name, reason in stored.skipped]
        return self._report(history, epoch, chosen_on, notes)

    def _train_on_pairs(
        self,
        objective: SimilarityObjective,
        source: TrainingSource,
        backbone: Backbone,
        stored: PairParts,
        rows: list[int],
        validate: Callable[[Backbone], float] | None,
        seed: int,
    ) -> tuple[list[dict[str, float]], int]:
        """Train in place; the history, and the epoch that is kept."""
        device = backbone.device
        images = F.normalize(stored.parts.sum(dim=1), dim=-1).to(device)  # (N, D)
        place = torch.tensor([stored.row_of[source.image_id(row)] for row in rows], device=device)
        first = self._read(backbone, [source.text("caption", row, 0) for row in rows])
        parameters = self._start(images, first)
        facts = {name: values.to(device) for name, values in objective.facts(source, rows).items()}
        bias = backbone.logit_bias
        scales = {
            "logit_scale": torch.tensor(self.logit_scale, device=device),
            "teacher.logit_scale": backbone.logit_scale.detach(),
            **({} if bias is None else {"logit_bias": bias.detach()}),
        }
        batches = epoch_batches(len(rows), self.batch_size, seed, drop_last=True)

        def sampled(epoch: int) -> list[tuple[Tensor, Tensor]]:
            texts = self._read(backbone, [source.text("caption", row, epoch) for row in rows])  # (N, D)
            return [(index.to(device), texts[index.to(device)]) for index in batches(epoch)]

        def loss_of(epoch: int, batch: tuple[Tensor, Tensor]) -> Tensor:
            index, texts = batch
            unit = images[place[index]]
            taught = objective.taught([unit], [texts]) if objective.teacher else {}
            out = {**scales, **taught, **{name: values[index] for name, values in facts.items()}}
            sides = self._of_images(unit), self._of_texts(texts)
            return objective.of_sides(*sides, out, epoch / self.epochs)

        def on_val() -> float:
            assert validate is not None
            self._made = None  # its vectors have changed
            return validate(self.adapted(backbone))

        training = self._epochs([*parameters, *objective.parameters()], sampled, loss_of, len(batches(0)))
        history, best = [], (-1.0, self.epochs, parameters)
        for epoch in training:
            history.append(epoch.row())
            done = epoch.number + 1
            if validate is not None and (done == self.epochs or done % self._every == 0):
                history[-1]["val_score"] = score = on_val()
                if score >= best[0]:
                    best = score, done, [parameter.detach().clone() for parameter in parameters]
        for parameter, value in zip(parameters, best[2]):
            parameter.data.copy_(value)
        self._made = None
        self._settle()
        return history, best[1]

    @property
    def _every(self) -> int:
        """Epochs from one score on val to the next."""
        return max(1, self.epochs // SCORES_ON_VAL)

    @torch.no_grad()
    def _read(self, backbone: Backbone, texts: Sequence[Any]) -> Tensor:
        """(N, D) unit rows; while a fit runs, each text is encoded once."""
        memory = {} if self._memory is None else self._memory
        new = list(dict.fromkeys(text for text in texts if text not in memory))
        for start in range(0, len(new), TEXTS_AT_ONCE):
            some = new[start : start + TEXTS_AT_ONCE]
            memory.update(zip(some, backbone.encode_text(some).float()))
        return torch.stack([memory[text] for text in texts])

    def adapted(self, backbone: Backbone) -> Backbone:
        """Of a fit on pairs what finds images by texts; else the backbone."""
        self.check_fitted(backbone)
        if len(self.text):
            return backbone
        if self.text.device != backbone.device:
            self.to(backbone.device)
        from ...core.backbones import HeadBackbone

        if self._made is None or self._made[0] is not backbone:
            self._made = backbone, HeadBackbone(backbone, self)
        return self._made[1]

    @property
    def found_dim(self) -> int:
        return self.dim_

    @torch.no_grad()
    def sample_vectors(self, parts: Tensor, mask: Tensor) -> Tensor:
        unit = F.normalize(parts.sum(dim=1), dim=-1).to(self.image_up.device)  # zero where there is no part
        return self._of_images(unit).to(parts.device)

    @torch.no_grad()
    def text_vectors(self, backbone: Backbone, texts: Sequence[str]) -> Tensor:
        return self._of_texts(self._read(backbone, texts))

    @torch.no_grad()
    def pair_scores(self, backbone: Backbone, parts: Tensor, mask: Tensor, texts: Sequence[str]) -> Tensor:
        return self.sample_vectors(parts, mask) @ self.text_vectors(backbone, texts).T.to(parts.device)

    # the projections

    def _start(self, images: Tensor, texts: Tensor) -> list[Tensor]:
        """Q of both sides, and U at zero; what is trained.

        Args:
            images, texts: (N, D) unit rows that the training sees.
        """
        self.image_down, self.text_down = (_directions(rows, self.rank) for rows in (images, texts))
        width = images.shape[1]
        self.image_up, self.text_up = (
            images.new_zeros(down.shape[1] or width, width) for down in (self.image_down, self.text_down)
        )
        trained = {"both": ("image_up", "text_up"), "image": ("image_up",), "text": ("text_up",)}[self.sides]
        return [getattr(self, name).requires_grad_() for name in trained]

    def _epochs(self, parameters, batches, loss_of, steps: int | None = None):
        """The training, epoch by epoch."""
        steps = len(batches(0)) if steps is None else steps
        rates = LearningRates.cosine(self.lr, steps * self.epochs, WARMUP).by_epoch(steps)
        optimizer = torch.optim.AdamW(parameters, lr=self.lr, weight_decay=self.weight_decay)
        return train_epochs(optimizer, rates, batches, loss_of)

    def _settle(self) -> None:
        """The training is over."""
        self.image_up, self.text_up = self.image_up.detach(), self.text_up.detach()

    def _report(
        self, history: list[dict[str, float]], epoch: int, chosen_on: str, notes: Sequence[str] = ()
    ) -> FitReport:
        trained = {"image": self.image_up, "text": self.text_up}
        count = sum(up.numel() for side, up in trained.items() if self.sides in ("both", side))
        report = FitReport(self.name, {"epochs": epoch}, chosen_on, history=history, notes=list(notes))
        report.trained_parameters = count
        if chosen_on == VAL:
            report.val_score = history[epoch - 1]["val_score"]
        return report

    def _of_images(self, unit: Tensor) -> Tensor:
        return projected(unit, self.image_down, self.image_up)

    def _of_texts(self, unit: Tensor) -> Tensor:
        return projected(unit, self.text_down, self.text_up)


def projected(unit: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """(N, D) unit rows of x + (512 / r) x Q U.

    Args:
        unit: (N, D).
        down: (D, r) Q, or (0, 0) for the identity.
        up: (r, D) U.
    """
    inner = unit @ down if down.numel() else unit  # (N, r)
    return F.normalize(unit + REFERENCE_WIDTH / len(up) * (inner @ up), dim=-1)


def _directions(rows: Tensor, rank: int | None) -> Tensor:
    """(D, r) orthonormal directions in which rows vary most, or (0, 0) where r is D."""
    if rank is None or rank >= rows.shape[1]:
        return rows.new_zeros(0, 0)
    return torch.linalg.svd(rows - rows.mean(dim=0), full_matrices=False).Vh[:rank].T.contiguous()


def _encoded(source: TrainingSource, backbone: Backbone) -> PairParts:
    """The images of a source, each once, by the backbone's own preprocessing."""
    transform, rows, row_of = backbone.preprocess(False), [], {}
    for row in range(len(source)):
        if (image := source.image_id(row)) not in row_of:
            pixels = transform(source.image(row))[None].to(backbone.device)
            with torch.no_grad():
                rows.append(backbone.encode_image(pixels, normalize=False))
            row_of[image] = len(rows) - 1
    parts = torch.stack(rows)  # (N, 1, D)
    return PairParts(parts, torch.ones(parts.shape[:2], dtype=torch.bool, device=parts.device), row_of)
