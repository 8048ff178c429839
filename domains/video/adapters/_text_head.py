"""Base of the heads that turn the frames of a clip into scores of class texts and learn by gradient steps."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....core.contracts import (
    Adapter,
    Backbone,
    Batch,
    ClassWeighting,
    FeatureSet,
    FitReport,
    Part,
    TextClassifier,
    has,
    option,
)
from ....core.errors import CapabilityError
from ....core.training import LearningRates, epoch_batches, label_loss, train_epochs
from ._axes import CHANNELS, spanned_axes, starts_from_texts
from ._frames import valid_first

WARMUP = 0.1
"""Share of the steps in which the rate rises."""
CLIP_GRAD = 1.0
"""Largest norm of a step's gradient."""
ROWS_AT_ONCE = 256

Clips = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class TextHeadStep:
    """What one training step looks at.

    Args:
        frames: (B, T, D), those that are there in front.
        mask: (B, T) bool, which are there.
        labels: (B,), or (B, C) with several labels per clip.
        label_loss: logits of all classes and labels -> cross-entropy, or binary cross-entropy.
        priors: (C,) log shares that `label_loss` adds to the logits, or None.
        generator: of the whole training, on the CPU.
    """

    frames: Tensor
    mask: Tensor
    labels: Tensor
    label_loss: Callable[[Tensor, Tensor], Tensor]
    priors: Tensor | None
    generator: torch.Generator


@dataclass(frozen=True, kw_only=True)
class TunedText(Part):
    """What our own heads learn of a class beside what they learn of the frames: a residual of its text, as in Task
    Residual for Tuning Vision-Language Models (Yu et al., 2023, arXiv 2211.10277)."""

    tune_text: bool = option(True, "also learn a residual of each class text, as TaskRes does")


@dataclass(eq=False, kw_only=True)
class TextHeadAdapter(Adapter):
    """A method brings the network (`_network`), and scores by it where that is more than a cosine (`_cosines`).

    Scores are a video feature's cosines to the class texts times the logit scale of the towers. AdamW, the rate rising
    over a tenth of the steps and then falling along a cosine, the norm of the gradient at most 1; the last step's
    weights are kept, and nothing is chosen on val.

    Several labels per clip: binary cross-entropy, each label's logit relative to its negative prompts; without them to
    the backbone's logit bias, or else to its mean score over the support before the training.

    Where features are wide, as those of `embedded` (1,664), and the clips few, a network `on_axes` is fitted on the
    axes that frames and class texts span (`_axes.py`): what it sees and every cosine stay, its weights are fewer.

    Attributes:
        weights: name -> tensor of the network.
        text: (C, D) unit rows of the classes.
        axes: (D, W) that the network reads, or None for the features themselves.
        residual: with `tuned`, which has it in `state`: (C, D), 0 before the first step; added to the unit texts, which
            are then made unit again.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"parts"})
    at_predict: ClassVar[frozenset[str]] = frozenset({"parts"})
    can: ClassVar[frozenset[str]] = frozenset({"new_classes"})
    multilabel: ClassVar[bool] = True
    state: ClassVar[tuple[str, ...]] = ("weights", "text", "negative", "logit_scale", "offset", "axes")
    later_state: ClassVar = {"axes": None}

    weighting = has(ClassWeighting)
    axes: Tensor | None = field(init=False, default=None, repr=False)
    residual: Any = field(init=False, default=None, repr=False)
    tuned: ClassVar[TunedText | None] = None
    on_axes: ClassVar[bool] = False
    """Whether the network may be fitted on axes; its weights then grow with the square of their number."""
    weights: ClassVar[dict[str, Tensor]] = {}
    rows_at_once: ClassVar[int] = ROWS_AT_ONCE
    """Clips whose scores are computed at once where no gradient is wanted."""

    lr: float = option(1e-3, "peak learning rate", above=0)
    epochs: int = option(60, "epochs", low=1, high=100_000)
    batch_size: int = option(32, "clips per step", low=1, high=1_048_576)
    weight_decay: float = option(0.2, "weight decay of AdamW", low=0)

    @abstractmethod
    def _network(self, width: int) -> nn.Module:
        """A new network for features D wide, its weights as published: (frames, mask) -> (B, D) video features."""

    def _start(self, network: nn.Module, backbone: Backbone | None) -> list[str]:
        """What the towers give it to start from, in place; notes."""
        return []

    def _cosines(self, network: nn.Module, frames: Tensor, mask: Tensor, text: Tensor) -> Tensor:
        """(B, C) of clips with class texts (C, D)."""
        return F.normalize(network(frames, mask), dim=-1) @ text.T

    def _step_loss(self, step: TextHeadStep) -> Tensor:
        """The loss of one step."""
        return step.label_loss(self._scores(step.frames, step.mask), step.labels)

    def _fit(self, support, classifier, *, val, unlabeled, backbone, resources, seed) -> FitReport:
        self._check(support)
        self._frame(classifier)
        self.axes = self._spanned(support, backbone, classifier) if self.on_axes else None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = self._network(support.dim)
            notes = self._prepare(network, backbone, classifier, resources)
        self._built = network.to(support.features.device).train()
        clips = self._clips(support, resources)
        self._level(clips, len(support), classifier)
        history = self._train(support, clips, len(classifier), seed)
        return self._report(history, notes)

    def _spanned(self, support: FeatureSet, backbone: Backbone | None, classifier: TextClassifier) -> Tensor | None:
        """(D, W) axes of the support's frames and the texts, or None where the network reads features as they are."""
        if starts_from_texts(backbone, support.dim):
            return None
        texts = self._texts_seen(backbone, classifier)
        return spanned_axes(support.parts, support.parts_mask, texts, getattr(self, "heads", None) or CHANNELS)

    def _texts_seen(self, backbone: Backbone | None, classifier: TextClassifier) -> Tensor:
        """(M, D) text features that the fit sees."""
        return self.text if self.negative is None else torch.cat([self.text, self.negative])

    def _inner_width(self, width: int) -> int:
        """Of a network for features D wide: W where it reads axes, else D."""
        return width if self.axes is None else self.axes.shape[1]

    @property
    def _rate(self) -> float:
        """The peak rate of a network: on W of D axes D / W times as high, since what a step of Adam changes in an
        output grows with how many inputs there are."""
        return self.lr if self.axes is None else self.lr * self.axes.shape[0] / self.axes.shape[1]

    def _prepare(self, network: nn.Module, backbone, classifier: TextClassifier, resources) -> list[str]:
        """Whatever else a fit makes before the first step; notes."""
        return self._start(network, backbone)

    def _report(self, history: list[dict[str, float]], notes: list[str], **known: Any) -> FitReport:
        """Keep what was trained, and say so."""
        trained = sum(parameter.numel() for parameter in self._trained())
        network = self._net.eval().requires_grad_(False)
        self.residual = None if self.residual is None else self.residual.detach()
        self.weights = {name: value.detach() for name, value in network.state_dict().items()}
        chosen = {"epochs": self.epochs, "lr": self.lr}
        report = {"chosen": chosen, "chosen_on": "options", "history": history, "notes": notes, **known}
        return FitReport(self.name, trained_parameters=trained, **report)

    def _frame(self, classifier: TextClassifier) -> None:
        """What cosines become logits with."""
        self.text, self.logit_scale = classifier.weights, classifier.logit_scale
        self.negative = classifier.negative if self.multilabel_ else None
        self.offset = classifier.weights.new_full((len(classifier),), classifier.logit_bias or 0.0)
        self.residual = None if self.tuned is None else torch.zeros_like(classifier.weights)

    def _clips(self, support: FeatureSet, resources) -> Clips:
        """Rows of the support (B,) -> what the network sees of these clips, and which frames are there."""
        frames, mask = valid_first(support.parts, support.parts_mask)
        return lambda index: (frames[index], mask[index])

    @torch.no_grad()
    def _level(self, clips: Clips, count: int, classifier: TextClassifier) -> None:
        """With several labels and nothing to compare with, logits start around 0."""
        if self.multilabel_ and self.negative is None and classifier.logit_bias is None:
            rows = torch.arange(count, device=self.text.device).split(self.rows_at_once)
            self.offset = -torch.cat([self._scores(*clips(some)) for some in rows]).mean(dim=0)

    def _trained(self) -> list[Tensor]:
        """What gradient steps change."""
        learns_texts = self.tuned is not None and self.tuned.tune_text
        return [*self._net.parameters(), *([self.residual.requires_grad_()] if learns_texts else [])]

    def _train(self, support: FeatureSet, clips: Clips, classes: int, seed: int) -> list[dict[str, float]]:
        """Train the network in place; a row per epoch."""
        priors, generator = self.weighting.priors_of(support.labels, classes), torch.Generator().manual_seed(seed)
        criterion = label_loss(support.multilabel, priors)
        batches = epoch_batches(len(support), self.batch_size, seed, device=support.features.device)
        steps = len(batches(0))
        total = steps * self.epochs
        rates = LearningRates.cosine(self._rate, total, max(1, round(WARMUP * total))).by_epoch(steps)
        if not (parameters := self._trained()):
            return []
        optimizer = torch.optim.AdamW(parameters, lr=self.lr, weight_decay=self.weight_decay)

        def loss_of(epoch: int, index: Tensor) -> Tensor:
            return self._step_loss(TextHeadStep(*clips(index), support.labels[index], criterion, priors, generator))

        epochs = train_epochs(optimizer, rates, batches, loss_of, clip_grad=CLIP_GRAD)
        return [epoch.row() for epoch in epochs]

    def _scores(self, frames: Tensor, mask: Tensor) -> Tensor:
        """(B, C) logits of clips whose frames are in front."""
        rows = self._rows()
        if self.negative is None:
            return self.logit_scale * self._cosines(self._net, frames, mask, rows) + self.offset
        scores = self.logit_scale * self._cosines(self._net, frames, mask, torch.cat([rows, self.negative]))
        return scores[:, : len(rows)] - scores[:, len(rows) :]

    def _rows(self) -> Tensor:
        """(C, D) unit rows of the classes."""
        return self.text if self.residual is None else F.normalize(self.text + self.residual, dim=-1)

    @property
    def _net(self) -> nn.Module:
        """The network, built of the saved weights where this process did not train it."""
        if (built := getattr(self, "_built", None)) is None:
            with torch.random.fork_rng(devices=[]):  # what it is made of is replaced
                built = self._network(self.dim_)
            built.load_state_dict(self.weights)
            self._built = built = built.to(self.text.device).eval().requires_grad_(False)
        return built

    def _logits(self, batch: Batch) -> Tensor:
        self._check(batch)
        return self._scores(*valid_first(batch.parts, batch.parts_mask))

    def _check(self, clips: FeatureSet | Batch) -> None:
        self.check_part_count(clips.parts.shape[1])

    def to(self, device) -> TextHeadAdapter:
        super().to(device)
        self.weights = {name: value.to(device) for name, value in self.weights.items()}
        self._built = None
        return self

    def for_classes(self, backbone: Backbone | None, class_names: Sequence[str], classifier=None) -> TextHeadAdapter:
        """A fitted copy that scores the texts of other classes (base-to-new generalisation).

        Raises:
            CapabilityError: not fitted, several labels per clip, or no texts of the new classes.
        """
        self.check_fitted()
        if self.multilabel_ or classifier is None:
            raise CapabilityError(f"{self.name} scores other classes by their texts, where a clip has one label")
        other = self.copied_for(class_names)
        other._built = self._net
        other._rename(backbone, classifier.to(self.text.device))
        return other

    def _rename(self, backbone: Backbone | None, classifier: TextClassifier) -> None:
        """Take the texts of other classes."""
        self.text = classifier.weights
        self.offset = self.offset[:1].expand(len(classifier)).clone()  # the backbone's bias, alike for all classes
        self.residual = None if self.tuned is None else torch.zeros_like(classifier.weights)
