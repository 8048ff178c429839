"""What `fpl`, `ifpl` and `grip` share: rounds of prompt tuning on images that the model labelled itself."""

from __future__ import annotations

import hashlib
import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.contracts import Adapter, Backbone, Batch, FeatureSet, FitReport, TextClassifier, option
from ...core.errors import CapabilityError, ConfigError, did_you_mean
from ...core.prompts import PromptLearner
from ...core.training import epoch_batches, image_features, keep_best, train_epochs
from ..prompt._contexts import half_where_asked
from ._leaderboards import top_k_per_class
from ._prompted_models import (
    MultimodalPrompts,
    PromptedModel,
    Rows,
    TextualPrompts,
    VisualPrompts,
    with_tokens,
)

SEMI, UNSUPERVISED, TRANSDUCTIVE = "semi-supervised", "unsupervised", "transductive-zero-shot"
TEXTUAL, VISUAL, MULTIMODAL = "textual", "visual", "multimodal"
TOKENS = {TEXTUAL: 16, VISUAL: 16, MULTIMODAL: 4}
RATES = {TEXTUAL: 0.1, VISUAL: 0.1, MULTIMODAL: 0.01}
LEAST_TO_HOLD_OUT = 10
"""Pseudo-labels per class from which some are held out to choose the epoch on."""
MOMENTUM = 0.9


@dataclass(frozen=True)
class Learning:
    """What is known, and of which classes.

    Args:
        setting: one of the three.
        candidates: (K,) the classes that pseudo-labels may name.
        labelled: (L,) rows of the support that train, of their labels.
    """

    setting: str
    candidates: Tensor
    labelled: Tensor
    labels: Tensor

    def weights(self, pseudo: int) -> tuple[float, float]:
        """What the mean loss on labelled images, and that on `pseudo` pseudo-labelled ones, are multiplied by."""
        labelled = len(self.labelled)
        if self.setting == SEMI:
            return pseudo / labelled, 1.0
        return 1.0, labelled / pseudo if self.setting == TRANSDUCTIVE else 1.0


@dataclass(eq=False, kw_only=True)
class PseudoLabelled(Adapter):
    """Base of the methods of "Enhancing CLIP with CLIP". A method says how many pseudo-labels each round has.

    `prompts` says what is learned, always from the same random start: "textual", 16 vectors before the class names;
    "visual", 16 tokens after the patches; "multimodal", 4 of each, which go through one block of a transformer
    together. The towers stay frozen; images are not augmented.

    `learning` says which labels are used. "unsupervised": none. "semi-supervised": a few images of every class have
    labels; the loss is gamma times the mean cross-entropy on the labelled images of a batch plus that on its
    pseudo-labelled ones, with gamma = pseudo-labels / labels. "transductive-zero-shot": some classes, those of `seen`
    or else those with labelled images, have labels and no unlabelled images, all others unlabelled images and no
    labels; only these are given as pseudo-labels, by probabilities among themselves, and the second term is multiplied
    by labels / pseudo-labels.

    Pseudo-labels are given to the k most probable images of each class (`_leaderboards.py`). With 10 or more per class,
    a fifth of all is held out of the training, and the weights of the first epoch that is best on them are kept.

    Assumption: all classes have about equally many unlabelled images, since all get equally many pseudo-labels.

    Resources:
        images, unlabeled_images: `TrainingImages` of the labelled and of the unlabelled images, where the image tower
            is run ("visual", "multimodal").
    """

    needs: ClassVar[frozenset[str]] = frozenset({"features", "text_encoder", "unlabeled", "pixels"})
    backbone_needs: ClassVar[frozenset[str]] = frozenset({"prompt"})
    label_free: ClassVar[bool] = True
    state: ClassVar[tuple[str, ...]] = ("text_features", "tokens", "logit_scale", "logit_bias")
    cost_options: ClassVar[frozenset[str]] = frozenset({"workers"})

    learning: str | None = option(
        None,
        "which labels are used; none: semi-supervised where images have labels, else unsupervised",
        choices=(SEMI, UNSUPERVISED, TRANSDUCTIVE),
    )
    seen: tuple[str, ...] = option(
        (), "classes whose labels are read, in transductive-zero-shot; none: all with labelled images"
    )
    prompts: str = option(TEXTUAL, "what is learned", choices=(TEXTUAL, VISUAL, MULTIMODAL))
    n_ctx: int | None = option(None, "learned tokens; none: 16, or 4 of each where multimodal", low=1, high=1024)
    epochs: int = option(150, "epochs of each round", low=1, high=100_000)
    batch_size: int = option(16, "images per step", low=1, high=1_048_576)
    lr: float | None = option(None, "peak learning rate; none: 0.1, or 0.01 where multimodal", above=0)
    weight_decay: float = option(0.1, "weight decay of SGD", low=0)
    warmup: int = option(5, "epochs of linear warm-up from 0, before the cosine", low=0, high=100_000)
    hold_out: float = option(
        0.2, "share of the pseudo-labels that chooses the epoch, with 10 or more per class", low=0, below=1
    )
    amp: str | None = option(None, "precision of the towers in training; none: float32", choices=("bf16",))
    workers: int | None = option(None, "threads that decode images; none: one per core", low=0, high=1024)

    def __post_init__(self):
        super().__post_init__()
        self._made: Backbone | None = None
        if self.prompts == TEXTUAL:
            self.needs = self.needs - {"pixels"}
        else:
            self.backbone_needs = self.backbone_needs | {"image_blocks", "image_tokens"}

    @abstractmethod
    def _counts(self, images: int, classes: int) -> list[int]:
        """Pseudo-labels per class of each round."""

    # the fit

    def _fit(self, support, classifier, *, val, unlabeled, backbone, resources, seed) -> FitReport:
        if not self.class_names_:
            raise ConfigError(f"{self.name} writes prompts around class names, and none are given; name the classes")
        if not len(unlabeled):
            raise CapabilityError(
                f"adapter '{self.name}' learns from unlabelled images, and there are none; pass some as unlabeled="
            )
        known = self._known(support)
        others = self._others(support, unlabeled, known)
        unlabeled = unlabeled.select(others)
        rows = self._rows(support, unlabeled, known, backbone, resources, others)
        classifier = classifier.to(backbone.device)
        found = torch.arange(len(known.labelled), len(rows.unit))  # the unlabelled rows
        logits, history = classifier.logits(rows.unit[found.to(rows.unit.device)]), []
        counts = [max(1, count) for count in self._counts(len(unlabeled), len(known.candidates))]
        for number, count in enumerate(counts):
            model = None  # its copy of the towers goes before there is another
            pseudo = self._pseudo_labels(logits, known, count)
            model = self._model(rows, classifier, backbone, seed)
            epoch, told = self._round(model, known, found, pseudo, count, seed)
            history += [{**row, "round": number + 1} for row in told]
            if number + 1 < len(counts):
                logits = model.all_logits(found)
        self._keep(model, backbone)
        return self._report(known, counts, pseudo, unlabeled, epoch, history, model)

    def _known(self, support: FeatureSet) -> Learning:
        """What is known, by the options and the support.

        Raises:
            CapabilityError: there are no labels where some are read. ConfigError: no class is seen, or none unseen.
        """
        has = support.labels is not None and len(support) > 0
        setting = self.learning or (SEMI if has else UNSUPERVISED)
        every = torch.arange(len(self.class_names_))
        if setting == UNSUPERVISED:
            return Learning(setting, every, every[:0], every[:0])
        if not has:
            raise CapabilityError(
                f"option learning={setting} of adapter '{self.name}' reads labels, and no image has one; "
                f"give labelled images, or learning={UNSUPERVISED}"
            )
        labels = support.labels.cpu()
        if setting == SEMI:
            return Learning(setting, every, torch.arange(len(labels)), labels)
        for name in self.seen:
            if name not in self.class_names_:
                raise ConfigError(f"option seen: no class '{name}'; {did_you_mean(name, self.class_names_)}")
        seen = torch.tensor([self.class_names_.index(name) for name in self.seen] or sorted(set(labels.tolist())))
        kept = torch.isin(labels, seen).nonzero().flatten()
        unseen = every[~torch.isin(every, seen)]
        if not len(unseen) or not len(kept):
            lacking = "no class is left without labels" if len(kept) else "none of these classes has labelled images"
            raise ConfigError(f"option learning={setting}: {lacking}; name the seen classes in option seen")
        return Learning(setting, unseen, kept, labels[kept])

    def _others(self, support: FeatureSet, unlabeled: FeatureSet, known: Learning) -> list[int]:
        """Places of the unlabelled images that are not among the labelled ones.

        Raises:
            CapabilityError: all are.
        """
        given = set((support.ids or ()) if len(known.labelled) else ())
        places = [place for place, name in enumerate(unlabeled.ids or range(len(unlabeled))) if name not in given]
        if not places:
            raise CapabilityError(
                f"adapter '{self.name}' learns from images without labels too, and all {len(unlabeled)} are shots; "
                "give fewer --shots"
            )
        return places

    def _rows(self, support, unlabeled, known: Learning, backbone: Backbone, resources, others: list[int]) -> Rows:
        """The labelled rows that train, then the unlabelled ones, at these places of those given."""
        place = known.labelled.to(support.features.device)
        unit = torch.cat([support.unit[place], unlabeled.unit.to(support.features.device)]).to(backbone.device)
        if self.prompts == TEXTUAL:
            return Rows(unit)
        labelled = [resources["images"].items[row] for row in known.labelled.tolist()]
        images = resources["unlabeled_images"]
        return Rows.of(unit, images, [*labelled, *(images.items[place] for place in others)], self.workers)

    def _pseudo_labels(self, logits: Tensor, known: Learning, count: int) -> tuple[Tensor, Tensor]:
        """Places among the unlabelled images, and the class of each; a place may come more than once."""
        places, labels = top_k_per_class(logits[:, known.candidates.to(logits.device)].softmax(dim=1), count)
        return places, known.candidates[labels]

    def _model(self, rows: Rows, classifier: TextClassifier, backbone: Backbone, seed: int) -> PromptedModel:
        """Prompts as at the start."""
        count = self.n_ctx or TOKENS[self.prompts]
        if self.prompts == VISUAL:
            return VisualPrompts(rows, classifier, backbone, count, seed)
        learner = PromptLearner(backbone, self.class_names_, n_ctx=count, seed=seed)
        if self.prompts == TEXTUAL:
            return TextualPrompts(rows, classifier, learner)
        return MultimodalPrompts(rows, classifier, backbone, learner, seed)

    def _round(
        self,
        model: PromptedModel,
        known: Learning,
        found: Tensor,
        pseudo: tuple[Tensor, Tensor],
        count: int,
        seed: int,
    ) -> tuple[int, list[dict[str, float]]]:
        """Train on labels and pseudo-labels; the epoch that is kept, from 1, and the history."""
        places, labels = found[pseudo[0]], pseudo[1]
        held_out = None
        if count >= LEAST_TO_HOLD_OUT and self.hold_out:
            shuffled = torch.randperm(len(places), generator=torch.Generator().manual_seed(seed))
            kept = max(1, int(len(places) * (1 - self.hold_out)))
            held_out = places[shuffled[kept:]], labels[shuffled[kept:]]
            places, labels = places[shuffled[:kept]], labels[shuffled[:kept]]
        weights = known.weights(len(labels))
        rows = torch.cat([places, torch.arange(len(known.labelled))])
        device = model.rows.unit.device
        targets = torch.cat([labels, known.labels]).to(device)
        given = (torch.arange(len(rows)) >= len(places)).to(device)  # whether a label is given, not guessed
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        lr = self.lr or RATES[self.prompts]
        optimizer = torch.optim.SGD(parameters, lr=lr, momentum=MOMENTUM, weight_decay=self.weight_decay)
        batches = epoch_batches(len(rows), self.batch_size, seed)
        rates = [[rate] * len(batches(0)) for rate in risen_cosine(lr, self.epochs, self.warmup)]

        def loss_of(epoch: int, index: Tensor) -> Tensor:
            at = index.to(device)
            with half_where_asked(self, device):
                logits = model.logits(rows[index]).float()
            return weighted_loss(logits, targets[at], given[at], weights)

        def score() -> float:
            return float((model.all_logits(held_out[0]).argmax(dim=1).cpu() == held_out[1]).double().mean())

        training = train_epochs(optimizer, rates, batches, loss_of)
        return keep_best(training, parameters, score if held_out is not None and len(held_out[0]) else None)

    @torch.no_grad()
    def _keep(self, model: PromptedModel, backbone: Backbone) -> None:
        self.text_features = model.text().detach().clone()
        tokens = model.tokens()
        self.tokens = None if tokens is None else tokens.detach().cpu().clone()
        self.logit_scale, self.logit_bias = model.scale, model.bias
        self._made = None

    def _report(self, known, counts, pseudo, unlabeled, epoch, history, model) -> FitReport:
        images = len(pseudo[0].unique())
        notes = [
            f"{known.setting}, with {self.prompts} prompts: in the last round {images} of {len(unlabeled)} "
            f"unlabelled images had pseudo-labels, up to {counts[-1]} in each of {len(known.candidates)} classes"
        ]
        if known.setting != UNSUPERVISED:
            notes.append(f"{len(known.labelled)} labelled images were used as well")
        chosen = {"learning": known.setting, "pseudo-labels": len(pseudo[0]), "rounds": len(counts), "epoch": epoch}
        trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        words = "options and published settings"
        if "val_score" in history[-1]:
            words += "; the epoch on held-out pseudo-labels"
        return FitReport(self.name, chosen, words, history=history, notes=notes, trained_parameters=trained)

    # what was learned

    def adapted(self, backbone: Backbone) -> Backbone:
        if getattr(self, "tokens", None) is None:
            return backbone
        self.check_fitted(backbone)
        if self._made is None or self._made.device != backbone.device:
            self._made = with_tokens(backbone, self.tokens)
            text = f"{backbone.fingerprint} {hashlib.sha256(self.tokens.contiguous().numpy().tobytes()).hexdigest()}"
            self._made.fingerprint = hashlib.sha256(text.encode()).hexdigest()[: len(backbone.fingerprint)]
        return self._made

    def _logits(self, batch: Batch) -> Tensor:
        if batch.features is None and batch.pixels is not None:
            towers = self.adapted(self.towers)
            with torch.no_grad():
                unit = image_features(towers, batch.pixels.to(towers.device))
        else:
            unit = batch.unit
        return self.logit_scale * unit @ self.text_features.to(unit.device).T + self.logit_bias


def weighted_loss(logits: Tensor, targets: Tensor, given: Tensor, weights: tuple[float, float]) -> Tensor:
    """The mean cross-entropy over images with given labels, and that over those with pseudo-labels, each times its
    weight; 0 of those that a batch has none of.

    Args:
        logits: (B, C).
        given: (B,) whether a label is given.
    """
    each = F.cross_entropy(logits, targets, reduction="none")  # (B,)
    means = [(each * of).sum() / of.sum().clamp(min=1) for of in (given, ~given)]
    return weights[0] * means[0] + weights[1] * means[1]


def risen_cosine(lr: float, epochs: int, warmup: int) -> list[float]:
    """The rate of each epoch: a rise from 0 (the first epoch changes nothing), then a cosine to 0."""
    up = [lr * epoch / warmup for epoch in range(min(warmup, epochs))]
    down = max(1, epochs - warmup)
    return up + [lr * 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / down)) for epoch in range(warmup, epochs)]
