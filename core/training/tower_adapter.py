"""What methods that train the towers share: from labelled images or pairs to changed weights and class weights."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..backbones.finders import KeptLoss
from ..contracts.adapter import Adapter, FitReport
from ..contracts.backbone import Backbone, logit_facts
from ..contracts.features import Batch, TextClassifier
from ..contracts.images import TrainingImages, TrainingPlace
from ..contracts.loss import Loss
from ..contracts.old_bases import ClassWeighted
from ..contracts.options import option, require
from ..contracts.parts import NONE, ClassWeighting, RandomCrops, has
from ..errors import CapabilityError
from ..prompts.classifier import encoded_classes, fill
from ..registry import loss_class
from .batches import BatchPlan, GlobalBatches
from .class_scores import ClassScores, CosineHead
from .loading import shuffled_batches
from .parts import TrainingResult, TrainingTask
from .settings import TrainingSettings
from .sources import LabelledSource, MixedSource, Remembered, TrainingSource
from .teachers import load_teachers
from .tower_passes import image_features
from .tower_settings import (
    COST_OPTIONS,
    DASSL,
    check_further,
    check_losses,
    identity_of,
    losses_of,
    report_of,
    score_by,
    settings_of,
)
from .tower_weights import changed_tensors, copy_of
from .views import are_8_bits, pixels_in_8_bits

SELECT = ("last", "best_val")
OF_TEXTS = ("text_", "class_features", "teacher.class")
"""How outputs begin that are made of texts."""


@dataclass(eq=False, kw_only=True)
class TowerAdapter(Adapter):
    """Base of the methods that train towers. A method says what trains (`_choose`) and, where it hangs something on the
    towers, what is kept of it (`_learned`) and how that goes into another copy of the backbone (`_put`).

    A method that trains on labels has `weighting = has(ClassWeighting)`: the cross-entropy is then of logits to which
    the log shares of the classes are added, and val is scored by balanced accuracy. With equal classes, several labels
    per image, or pairs nothing differs. A contrastive loss needs no such shares: among the texts of a batch each class
    stands as often as it has images.

    The backbone given to `fit` stays as it is: a copy of its towers is trained, so that memory holds both. After the
    fit, logits are scaled cosines between features of `adapted(backbone)` and the class prompts as its text tower
    encodes them, plus its logit bias if any. Several labels: binary cross-entropy on the difference to negative ones.

    Where classes have no texts (an image tower alone; methods with `text_free`), a vector per class is trained beside
    the tower, which starts as the mean of its images (`CosineHead`).

    A last batch that is not full is left out. `micro_batch_size` costs a second forward pass. With `ema` it is the
    moving average that is kept. With `workers=None` no processes decode on a CPU or for epochs of a few steps, else up
    to 8; with `save_every=None` checkpoints are an epoch apart, but at least 100 steps.

    Resources:
        images: `TrainingImages`.
        place: `TrainingPlace`; without it no checkpoints are kept.

    Raises:
        ConfigError: an option out of range.
        CapabilityError: the loss needs what data or backbone do not have, or there is no val to select on.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"features", "pixels", "text_encoder"})
    can: ClassVar[frozenset[str]] = frozenset({"new_classes", "pairs"})
    multilabel: ClassVar[bool] = True
    tower_weights: ClassVar[bool] = True
    state: ClassVar[tuple[str, ...]] = (
        *("changed", "prefix"),  # of the towers; a prefix of texts, where the loss learned one
        *("finder", "finder_weights"),  # what is searched by, where the loss made it
        *("weights", "negative", "logit_scale", "logit_bias", "templates"),  # of the classes
    )
    later_state: ClassVar = {"finder": None, "finder_weights": {}}
    cost_options: ClassVar[frozenset[str]] = frozenset(COST_OPTIONS)
    finder: ClassVar[str | None] = None
    finder_weights: ClassVar[Mapping[str, Tensor]] = {}

    weighting: ClassVar[ClassWeighting] = ClassWeighting(class_weight=NONE)
    crops: ClassVar[RandomCrops] = has(RandomCrops)

    epochs: int | None = option(
        None, "passes over the training images; none: the method's own number", low=1, high=100_000
    )
    batch_size: int = option(32, "images per step, of all processes together", low=2, high=1_048_576)
    micro_batch_size: int | None = option(
        None, "images per forward pass of a process; none: all; changes speed and memory only", low=1, high=1_048_576
    )
    lr: float = option(1e-5, "peak learning rate; a cosine schedule follows", above=0)
    weight_decay: float = option(0.1, "weight decay on matrices", low=0)
    warmup: float = option(
        0.1, "steps of linear rise, as a share of all steps (below 1) or a count", low=0, high=10_000_000
    )
    loss: str | None = option(None, "a loss, or several with weights (clip=1,distill=0.5); none: the method's own")
    loss_options: Mapping[str, Mapping[str, Any]] | None = option(None, "options of each loss, by its name")
    teacher: tuple[str, ...] = option(
        (), "frozen teachers, backbones, for a loss that has one; none: the towers before the training"
    )
    training: Mapping[str, Any] | None = option(None, "further settings of the training, by name, as eps or schedule")
    prompts_a_class: int | None = option(
        None, "how many of a class's prompts make its text, the first ones; none: all", low=1, high=100_000
    )
    layer_decay: float = option(1.0, "factor on the rate for each layer below the top; 1 is none", above=0, high=1)
    clip_grad: float | None = option(None, "largest norm of the gradient; none: any", above=0)
    amp: str | None = option(None, "precision of the training; none: float32", choices=("bf16", "fp16"))
    ema: float | None = option(None, "decay of a moving average of the weights; none: no average", above=0, below=1)
    checkpointing: bool = option(False, "recompute activations in the backward pass; changes speed and memory only")
    select: str = option("last", "weights to keep: the last, or those of the best epoch on val", choices=SELECT)
    patience: int | None = option(
        None, "epochs without a better val score until training stops; none: never", low=1, high=100_000
    )
    save_every: int | None = option(None, "steps between checkpoints; none: one per epoch", low=1, high=10_000_000)
    workers: int | None = option(None, "processes that decode images; none: as many as help", low=0, high=1024)
    log_every: int | None = option(
        None, "steps between two lines of the log, also printed; none: 200 lines in all, not printed", low=1, high=10**9
    )
    log_to: tuple[str, ...] = option((), "where else the log goes: tensorboard, wandb, mlflow")
    deterministic: bool = option(False, "make runs bit-identical on a GPU too, with slower kernels")

    # what a method says of itself
    DASSL: ClassVar[Mapping[str, Any]] = DASSL
    default_loss: ClassVar[str] = "cross-entropy"
    default_epochs: ClassVar[int] = 20
    end_lr: ClassVar[float] = 0.0

    def __post_init__(self):
        super().__post_init__()
        require(self.patience is None or self.select == "best_val", "patience", self.patience, "add select=best_val")
        check_losses(self.loss, self.loss_options or {})
        check_further(self.training or {}, self.warmup)
        self._made: Backbone | None = None

    # what a method implements

    @abstractmethod
    def _choose(self, backbone: Backbone) -> list[str]:
        """Let train what is to be trained, and nothing else; sentences on what could not be."""

    def _settings_of_method(self, epochs: int) -> dict[str, Any]:
        """Settings of a training of so many epochs that are not options: by default AdamW's, down a cosine to `end_lr`.
        `DASSL` is the other choice."""
        return {"betas": (0.9, 0.999), "eps": 1e-8, "end_lr": self.end_lr}

    def _class_texts(self, images: TrainingImages, backbone: Backbone) -> tuple[list[list[str]], list[str]]:
        """The prompts of each class, and the templates that name other classes alike."""
        return [self._some(texts) for texts in images.prompts], list(images.templates)

    def _completed(self, task: TrainingTask, base: Backbone, images: TrainingImages | None) -> TrainingTask:
        """The task with what the method's own losses need beyond it; on pairs there are no `images`."""
        return task

    def _learned(self, trained: Backbone, base: Backbone) -> dict[str, Tensor]:
        """What the training changed, on the CPU. Whatever was hung on the towers is merged into them."""
        return changed_tensors(trained, base)

    def _put(self, backbone: Backbone) -> None:
        """Put `changed` into a fresh copy of the base, in place."""
        backbone.put_tensors(self.changed)

    def check_towers(self, backbone: Backbone) -> None:
        super().check_towers(backbone)
        self._teachers_for(backbone)  # those that cannot be are refused before anything is computed

    def teach(self, backbone: Backbone, teachers: Sequence[Backbone]) -> None:
        """Train these towers with teachers that are loaded already, in place of those that `teacher` names."""
        self._teachers = backbone, teachers

    def _teachers_for(self, backbone: Backbone) -> Sequence[Backbone]:
        """The frozen teachers of towers, loaded once until they are trained."""
        held = getattr(self, "_teachers", None)
        if held is None or held[0] is not backbone:
            self.teach(backbone, load_teachers(self.teacher, backbone))
        return self._teachers[1]

    @staticmethod
    def _digest(value: Any) -> str:
        """Of what is trained on, for the identity of a training."""
        return hashlib.sha256(repr(value).encode()).hexdigest()[:16]

    # what users call

    def fit_pairs(
        self,
        source: TrainingSource,
        backbone: Backbone,
        *,
        view: Callable[..., Tensor] | None = None,
        strong_view: Callable[..., Tensor] | None = None,
        validate: Callable[[Backbone], float] | None = None,
        place: TrainingPlace | None = None,
        plan: BatchPlan | None = None,
        own: Mapping[str, Loss] | None = None,
        seed: int = 0,
    ) -> FitReport:
        """Learn from image-text pairs in place of labelled images; `adapted` gives the result, `logits` has no classes.

        Args:
            source: the pairs to train on; `PairSource`.
            view: (decoded, seed=int) -> pixels; by default the backbone's own crop and flip.
            strong_view: the same for losses that ask for strongly augmented views; by default SimCLR's.
            validate: score of a backbone on val, the higher the better; for select="best_val".
            plan: which samples each step sees.
            own: losses that the caller made, by name, each with weight 1, in place of the adapter's: afterwards they
                hold what they learned.

        Raises:
            CapabilityError: the loss needs what the pairs do not have, or there is no val to select on.
        """
        self.class_names_, self.multilabel_ = (), False
        self.backbone_, self.dim_ = backbone.fingerprint, backbone.embed_dim
        identity = {"pairs": self._digest([source.name(row) for row in range(len(source))])}
        if isinstance(source, MixedSource):
            identity["mixture"] = self._digest(source.mixture)
        task = TrainingTask(
            source=source,
            losses=losses_of(self.loss, "clip"),
            loss_options=self.loss_options or {},
            view=self._view(view or backbone.preprocess(True), backbone),
            plan=plan,
            strong_view=strong_view,
            identity=identity,
            own=own or {},
        )
        task = self._completed(task, backbone, None)
        report = self._train(task, self.epochs or self.default_epochs, backbone, validate, place, seed)
        self.weights = self.negative = None
        self.templates = []
        self._note_scale(self._made)
        self.fitted_ = True
        return report

    def adapted(self, backbone: Backbone) -> Backbone:
        self.check_fitted(backbone)
        if self._made is None or self._made.device != backbone.device:
            made = copy_of(backbone)
            with torch.random.fork_rng(devices=[]):
                self._put(made)
            made.text_prefix = self.prefix
            made.finder, made.answers = None, {}
            if self.finder is not None:
                kept = KeptLoss(self.finder, self.finder_weights)
                made.finder = kept.built(made.device, f"adapter '{self.name}'", "finds")
            self._made = self._named(made)
        return self._made

    def for_classes(self, backbone: Backbone, class_names: Sequence[str], classifier=None) -> TowerAdapter:
        """A fitted copy for other classes, named by the templates of the fit (base-to-new generalisation).

        Raises:
            CapabilityError: not fitted, fitted without templates or on several labels, or another backbone.
        """
        towers = self.adapted(backbone)
        if self.multilabel_:
            raise CapabilityError(f"{self.name} can name other classes only where an image has one label")
        if not self.templates:
            raise CapabilityError(f"{self.name} was fitted without templates, so it cannot name other classes")
        other = self.copied_for(class_names)
        other._made = self._made
        other._name_classes(towers, [self._some(fill(self.templates, name)) for name in class_names], None)
        return other

    # the fit

    def _fit(self, support, classifier, *, val, unlabeled, backbone, resources, seed) -> FitReport:
        images: TrainingImages = resources["images"]
        prompts, self.templates = self._class_texts(images, backbone)
        head = None
        if not classifier.has_texts:
            self._check_losses_without_texts()
            head = CosineHead.of_means(support, len(classifier), float(backbone.logit_scale)).to(backbone.device)
            self.templates = []
        negative = [self._some(texts) for texts in images.negative] if self.multilabel_ and images.negative else None
        task = replace(
            self._task_of_labels(images, prompts, support.labels, backbone),
            loss_options=self.loss_options or {},
            class_prompts=prompts,
            negative_prompts=negative,
            class_scores=head,
            identity={"classes": list(self.class_names_), "images": self._digest([item.id for item in images.items])},
        )

        def on_val(towers: Backbone) -> float:
            scores = self._scores(towers, prompts, negative) if head is None else head
            return self._val_score(scores, towers, images)

        self.backbone_ = backbone.fingerprint
        epochs = self._epochs(len(GlobalBatches(len(images.items), self.batch_size, seed)), support.shots)
        task = self._completed(task, backbone, images)
        report = self._train(task, epochs, backbone, on_val if images.val else None, resources.get("place"), seed)
        if head is None:
            self._name_classes(self._made, prompts, negative)
        else:
            self.weights, self.negative = head.kept()
            self._note_scale(self._made)
        return report

    def _check_losses_without_texts(self) -> None:
        """Raise the CapabilityError of a loss that compares images with texts, where classes have none."""
        for name in losses_of(self.loss, self.default_loss):
            if any(need.startswith(OF_TEXTS) for need in loss_class(name).needs):
                raise CapabilityError(
                    f"option loss='{self.loss}' of adapter '{self.name}': {name} needs texts, and the backbone is an "
                    "image tower alone; omit it"
                )

    def _task_of_labels(self, images: TrainingImages, prompts, labels: Tensor, backbone: Backbone) -> TrainingTask:
        """What a training on labels is about: its samples, its loss, how classes count."""
        return TrainingTask(
            source=LabelledSource(images.items, Remembered(images.load), prompts, images.draw),
            losses=losses_of(self.loss, "binary-cross-entropy" if self.multilabel_ else self.default_loss),
            class_priors=self.weighting.priors_of(labels, len(prompts)),
            view=self._view(images.train_transform, backbone),
        )

    def _train(self, task: TrainingTask, epochs: int, backbone: Backbone, on_val, place, seed: int) -> FitReport:
        """Train a copy of the towers, and keep what it learned."""
        if self.select == "best_val" and on_val is None:
            raise CapabilityError("option select='best_val': there are no val images; give a val split, or select=last")
        towers, place, notes = copy_of(backbone), place or TrainingPlace(None), []
        plan = task.plan
        steps = len(shuffled_batches(task.source, self.batch_size, seed)) if plan is None else plan.steps

        def choose(model: Backbone) -> None:
            if model.context_length != backbone.context_length:
                raise CapabilityError(
                    f"option loss='{self.loss}': only `vladapt pretrain` keeps a stretched text tower; take another"
                )
            notes.extend(self._choose(model))
            layer = model.input_layer()
            model.check_channels(f"adapter '{self.name}'", layer is None or layer.weight.requires_grad)

        task = replace(
            task,
            teachers=self._teachers_for(backbone),
            start=backbone,
            select=choose,
            validate=(lambda: on_val(towers)) if self.select == "best_val" else None,
            identity={**task.identity, "backbone": backbone.fingerprint},
        )
        del self._teachers  # the training has them
        done, settings = self._train_in_place(towers, task, place, epochs=epochs, steps=steps, seed=seed)
        self.changed = self._learned(towers, backbone)
        prefix = getattr(towers, "text_prefix", None)
        self.prefix = towers.text_prefix = None if prefix is None else prefix.detach().cpu().clone()
        finder, towers.answers = towers.finder, {}
        stored = None if finder is None else KeptLoss.of(finder)
        self.finder, self.finder_weights = (None, {}) if stored is None else (stored.words, stored.weights)
        self._made = self._named(towers)
        return self._report(done, settings, notes)

    def _train_in_place(
        self, towers: Backbone, task: TrainingTask, place: TrainingPlace, *, epochs: int, steps: int, seed: int
    ) -> tuple[TrainingResult, TrainingSettings]:
        """One training of these towers by the options, of so many steps per epoch.

        Raises:
            ConfigError: an option is out of range.
        """
        from .train import train  # and with it mmengine, which only a training needs

        settings = settings_of(self, epochs=epochs, steps=steps, seed=seed, device=towers.device)
        settings = replace(settings, tolerate=place.tolerate)
        task = replace(task, identity={**task.identity, "adapter": self.name, **identity_of(self)})
        callbacks = {"log": place.log, "on_step": place.on_step, "on_message": place.on_message, "hooks": place.hooks}
        return train(towers, task, settings, place.folder, resume=place.resume, **callbacks), settings

    def _val_score(self, scores: Callable[[Tensor], Tensor], towers: Backbone, images: TrainingImages) -> float:
        """Accuracy of (B, D) unit features -> (B, C) scores on the val images, or macro AUROC; see `score_by`."""
        return score_by(scores, towers, images, self.batch_size, self.amp, self.weighting.balanced)

    def _scores(self, towers: Backbone, prompts, negative) -> nn.Module:
        """What val is scored by, in the training: class texts as the text tower now reads them, or `PixelScores`."""
        return ClassScores(towers, prompts, negative).to(towers.device)

    def _view(self, transform: Callable[..., Tensor], backbone: Backbone) -> Callable[[Any, int], Tensor]:
        """(decoded image, seed) -> augmented pixels; those of clips in 8 bits, as far as their frames were so."""
        augment = self.crops.training_transform(transform)

        def view(decoded: Any, seed: int) -> Tensor:
            pixels = augment(decoded, seed=seed)
            return pixels_in_8_bits(pixels, backbone) if pixels.ndim > 3 and are_8_bits(decoded) else pixels

        return view

    def _epochs(self, steps: int, shots: int) -> int:
        """How many passes, of so many steps each, where the largest class has so many images."""
        return self.epochs or self.default_epochs

    def settled(self, report: FitReport) -> dict[str, Any]:
        """As many epochs as were best on val; the last one then is."""
        epochs = report.chosen.get("epoch", report.chosen["epochs"])
        return {**super().settled(report), "epochs": epochs, "select": "last", "patience": None}

    def _some(self, texts: Sequence[str]) -> list[str]:
        return list(texts)[: self.prompts_a_class]

    def _report(self, done: TrainingResult, settings: TrainingSettings, notes: list[str]) -> FitReport:
        return report_of(self.name, done, settings, notes)

    # what was learned

    def _name_classes(self, towers: Backbone, prompts: Sequence[Sequence[str]], negative) -> None:
        """The text side, as the adapted text tower reads it."""
        self.weights = encoded_classes(towers, prompts)
        self.negative = None if negative is None else encoded_classes(towers, negative)
        self._note_scale(towers)

    def _note_scale(self, towers: Backbone) -> None:
        self.logit_scale, self.logit_bias = logit_facts(towers).values()

    def _logits(self, batch: Batch) -> Tensor:
        if self.weights is None:
            raise CapabilityError(f"adapter '{self.name}' was fitted on pairs, which have no classes; use adapted()")
        classifier = TextClassifier(
            self.weights, logit_scale=self.logit_scale, logit_bias=self.logit_bias, negative=self.negative
        )
        return classifier.logits(self._unit(batch))

    def _unit(self, batch: Batch) -> Tensor:
        if batch.features is not None or batch.pixels is None:
            return batch.unit
        towers = self._towers_of_fit()
        with torch.no_grad():
            return image_features(towers, batch.pixels.to(towers.device))

    def _raw(self, batch: Batch) -> Tensor:
        """(B, D) features of the trained tower, not normalised."""
        if batch.features is not None:
            return batch.features.float()
        towers = self._towers_of_fit()
        with torch.no_grad():
            return towers.encode_image(batch.pixels.to(towers.device), normalize=False).float()

    def _towers_of_fit(self) -> Backbone:
        if self._made is None:
            raise CapabilityError(f"adapter '{self.name}' has no towers to encode pixels; call adapted(backbone) first")
        return self._made

    def _named(self, towers: Backbone) -> Backbone:
        """The backbone under a fingerprint of its own."""
        learned = self.changed if self.prefix is None else {**self.changed, "text_prefix": self.prefix}
        towers.mark_learned({**learned, **{f"finder {name}": value for name, value in self.finder_weights.items()}})
        return towers


@dataclass(eq=False, kw_only=True)
class ClassTowerAdapter(ClassWeighted, TowerAdapter):
    """In place of it: `TowerAdapter` and `weighting = has(ClassWeighting)`."""

    cure: ClassVar[str] = "derive from TowerAdapter"
