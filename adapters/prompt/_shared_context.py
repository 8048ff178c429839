"""Base of the methods that learn one context and keep the text features it makes: `coop` and its descendants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...core.contracts import (
    Adapter,
    Backbone,
    Batch,
    ClassWeighting,
    FitReport,
    TextClassifier,
    TrainingViews,
    has,
    option,
)
from ...core.errors import CapabilityError
from ...core.prompts import PromptLearner
from ...core.training import label_loss
from ..dassl_options import dassl_batch_size, dassl_warmup
from ..head._text_rows import Frame, frame_of
from ._contexts import (
    COST_OPTIONS,
    check_class_names,
    check_transfer,
    fit_context,
    half_where_asked,
    prompt_learner,
)


@dataclass(frozen=True)
class Step:
    """What one training step looks at.

    Args:
        learner: the prompts.
        classifier: the zero-shot text classifier of the fit.
        unit: (B, D) image features.
        labels: (B,), or (B, C) with several labels per image.
        label_loss: logits of all classes and labels -> cross-entropy, or binary cross-entropy with several labels per
            image.
        priors: (C,) log shares that `label_loss` adds to the logits, or None: for losses on some of the classes.
        generator: of the whole training, on the CPU.
    """

    learner: PromptLearner
    classifier: TextClassifier
    unit: Tensor
    labels: Tensor
    label_loss: Callable[[Tensor, Tensor], Tensor]
    priors: Tensor | None
    generator: torch.Generator


@dataclass(eq=False, kw_only=True)
class SharedContext(Adapter):
    """A method says how a step is scored (`_loss`) and how long it trains (`default_epochs`).

    `ctx_init` sets the number of context vectors; without it the context starts from N(0, 0.02^2). `trim=False` runs
    every prompt at full length, as published. `checkpointing` encodes the prompts again, chunk by chunk, in the
    backward pass: the memory of one chunk however many classes there are, for a third more time.

    Classes with unequal numbers of images count alike (`class_weight`), by log shares that are added to the logits in
    training; published is "none". With equal classes, or several labels per image, nothing differs.

    By default epoch e trains on view e mod V of a stored pool of `views` augmented views of each image, or on the image
    as it is where there is no pool (a features file). `fresh_views` encodes a new view of each image in every epoch, as
    published.

    Resources:
        batch_order: (epochs, N) int64, the order of samples in each epoch instead of a seeded shuffle.
        images: `TrainingImages`, with `fresh_views`.
        ctx: (M, W) or (C, M, W), the context to start from instead of `ctx_init` or a seeded one.

    Raises:
        ConfigError: an option out of range, a prompt longer than the tower's context.
        CapabilityError: the backbone has no "prompt", or `fresh_views` without images.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"features", "views", "text_encoder"})
    optional: ClassVar[frozenset[str]] = frozenset({"ctx"})
    can: ClassVar[frozenset[str]] = frozenset({"new_classes"})
    backbone_needs: ClassVar[frozenset[str]] = frozenset({"prompt"})
    state: ClassVar[tuple[str, ...]] = ("ctx", "text_features", "logit_scale", "offset", "negative")
    trained: ClassVar[tuple[str, ...]] = ("ctx",)
    cost_options: ClassVar[frozenset[str]] = frozenset(COST_OPTIONS)

    pool = has(TrainingViews, published_crop=(0.08, 1.0))
    weighting = has(ClassWeighting)
    n_ctx: int = option(16, "context vectors, where no words are given", low=1, high=1024)
    csc: bool = option(False, "one context per class instead of one for all")
    class_token_position: str = option("end", "where the class name stands", choices=PromptLearner.POSITIONS)
    ctx_init: str | None = option(None, "words to start from (a photo of a); none: random")
    lr: float = option(2e-3, "peak learning rate", above=0)
    epochs: int | None = option(None, "epochs; none: the published number for the shots", low=1, high=100_000)
    batch_size: int = dassl_batch_size(32)
    momentum: float = option(0.9, "momentum of SGD", low=0, below=1)
    weight_decay: float = option(5e-4, "weight decay of SGD", low=0)
    warmup: str | None = dassl_warmup()
    trim: bool = option(True, "cut prompts to the length of the longest, and share their beginning; changes speed only")
    class_chunk: int | None = option(
        None, "prompts through the text tower at once; changes speed and memory only", low=1, high=1_048_576
    )
    checkpointing: bool = option(False, "recompute activations in the backward pass; changes speed and memory only")
    amp: str | None = option(None, "precision of the text tower in training; none: float32", choices=("bf16",))

    default_epochs: ClassVar[tuple[tuple[int, int], ...]]
    """(shots, epochs), most shots first: the published epochs for at least so many shots."""

    def __post_init__(self):
        super().__post_init__()
        PromptLearner.check_words(self.ctx_init)

    def _published_epochs(self, shots: int) -> int:
        return next(epochs for least, epochs in self.default_epochs if shots >= least)

    def _loss(self, step: Step) -> Tensor:
        """The loss of one step."""
        return self._fit_to_labels(step, self._text(step.learner))

    def for_classes(self, backbone: Backbone, class_names: Sequence[str], classifier=None) -> SharedContext:
        """A fitted copy for other classes, with the context learned here (base-to-new generalisation).

        Raises:
            CapabilityError: not fitted, class-specific contexts, several labels per image, or another backbone.
        """
        check_transfer(self, backbone)
        if self.csc:
            raise CapabilityError(
                f"{self.name} with csc=True has a context for its own classes only; fit with csc=False"
            )
        other = self.copied_for(class_names)
        with torch.no_grad():
            text = prompt_learner(self, backbone, class_names, csc=self.csc, ctx=self.ctx).encode()
        other.ctx, other.negative, other.text_features = self.ctx.clone(), None, text.to(self.text_features.device)
        other.offset = self.offset[:1].expand(len(class_names)).clone()  # the backbone's bias, alike for all classes
        return other

    def _fit(self, support, classifier, *, val, unlabeled, backbone, resources, seed) -> FitReport:
        check_class_names(self)
        device = support.features.device
        support, classifier = support.to(backbone.device), classifier.to(backbone.device)
        frame = frame_of(classifier, support)
        self.logit_scale, self.offset, self.negative = frame.logit_scale, frame.offset, frame.negative
        context = resources.get("ctx")
        learner = prompt_learner(self, backbone, self.class_names_, csc=self.csc, ctx=context, seed=seed)
        priors = self.weighting.priors_of(support.labels, len(classifier))
        criterion, generator = label_loss(self.multilabel_, priors), torch.Generator().manual_seed(seed)
        epochs = self.epochs or self._published_epochs(support.shots)

        def loss_of(unit: Tensor, labels: Tensor) -> Tensor:
            return self._loss(Step(learner, classifier, unit, labels, criterion, priors, generator))

        how = {"backbone": backbone, "resources": resources, "seed": seed}
        report = fit_context(self, [learner.ctx], support, loss_of, epochs, **how)
        with torch.no_grad():
            self.text_features = learner.encode()  # (C, D)
        self.ctx = learner.ctx.detach()
        self.to(device)
        return report

    def _text(self, learner: PromptLearner, rows: Tensor | None = None) -> Tensor:
        """(C, D) text features while training, of the classes in `rows` where they are given."""
        with half_where_asked(self, learner.ctx.device):
            return learner.encode(rows=rows).float()

    def _fit_to_labels(self, step: Step, text: Tensor) -> Tensor:
        """How well the scaled cosines fit the labels."""
        return step.label_loss(self._scores(step.unit, text), step.labels)

    def _scores(self, unit: Tensor, text: Tensor) -> Tensor:
        """(B, D) image and (C, D) text features -> (B, C) logits."""
        return Frame(self.logit_scale, self.offset, self.negative).logits(unit, text)

    def _logits(self, batch: Batch) -> Tensor:
        return self._scores(batch.unit, self.text_features)
