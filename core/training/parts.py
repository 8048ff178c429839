"""What a training is about, what it did, and the pieces that it is made of: losses, outputs, the model, the samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..contracts.backbone import Backbone
from ..contracts.families import BOTH
from ..contracts.images import height_and_width
from ..contracts.loss import Loss, output_in_words
from ..errors import CapabilityError, ConfigError
from ..registry import loss_class
from ..runtime.distributed import world_size
from .batches import BatchPlan
from .class_scores import ClassScores
from .fields import check_text_pairs, fields_of
from .layers import TowerLayers
from .lora import LowRank
from .model import PairModel, dims_of
from .objective import Objective, build_objective
from .samples import LOCAL_CROPS, Samples
from .settings import FSDP, TrainingSettings
from .source_losses import SourceLosses
from .sources import MixedSource, TrainingSource, num_labels_of
from .stored_teachers import StoredTeacher
from .teachers import OF_TEACHERS, need_same_words, need_teacher_texts, side_by_side, token_field
from .tower_outputs import CAPABILITY, Outputs
from .tower_passes import check_seen
from .tower_weights import BetweenWeights, copy_of
from .views import View, Views, seeded_view

OF_CLASSES = frozenset({"logits", "class_features", "teacher.class_features"})


@dataclass
class TrainingTask:
    """What a training is about, besides its settings.

    Args:
        source: the training set.
        losses: name -> weight.
        own: name -> a loss that the method made itself, each with weight 1, in place of `losses`.
        loss_options: name -> keyword arguments of the loss.
        class_prompts: C lists of prompts, where a loss needs "logits" or "class_features".
        negative_prompts: C lists of prompts that say the class is absent, for samples of several labels.
        class_scores: (B, D) unit image features -> (B, C) "logits", in place of the prompts: a module that is trained
            with the towers; or `PixelScores`.
        teachers: backbones, where a loss has a frozen teacher; features of several stand side by side.
        stored: what is stored of the features of these.
        start: the towers before the training, which are the teacher where no other is given; or None.
        teacher_classes: (C, D) unit rows, the teacher's text features of the classes; by default what it makes of
            `class_prompts`.
        class_priors: (C,) log shares of the classes, by which a loss on the labels counts each class alike, or None.
        plan: which samples each step sees; by default each sample once per epoch, in an order that the seed fixes.
        view: augments an image for training: (decoded, seed) -> pixels; by default a crop, with `flip` also a flip.
        strong_view: the same where a loss asks for strongly augmented views; by default SimCLR's.
        select: chooses what is trained: called with the backbone; by default `lock`, `train_last` and `lora` say it.
        validate: () -> score on val, the higher the better, or that as "val" and parts of it by further names; or None.
        mix: changes a batch before the towers see it, on its device: (batch, generator, the same on all processes) ->
            batch. Each process mixes its own samples, whole, however they are then split.
        between: a second pass in each step, at weights between those of the start and of now; None: there is none.
        identity: facts that a checkpoint must share to be resumed, besides the settings.
    """

    source: TrainingSource
    losses: Mapping[str, float]
    loss_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    class_prompts: Sequence[Sequence[str]] | None = None
    negative_prompts: Sequence[Sequence[str]] | None = None
    class_scores: nn.Module | None = None
    teachers: Sequence[Backbone] = ()
    stored: Sequence[StoredTeacher] = ()
    start: Backbone | None = None
    teacher_classes: Tensor | None = None
    class_priors: Tensor | None = None
    plan: BatchPlan | None = None
    view: View | None = None
    strong_view: View | None = None
    select: Callable[[Backbone], Any] | None = None
    validate: Callable[[], float | Mapping[str, float]] | None = None
    mix: Callable[[dict[str, Any], np.random.Generator], dict[str, Any]] | None = None
    between: BetweenWeights | None = None
    identity: Mapping[str, Any] = field(default_factory=dict)
    own: Mapping[str, Loss] = field(default_factory=dict)

    @property
    def weights(self) -> dict[str, float]:
        """Of all losses, by name."""
        return dict.fromkeys(self.own, 1.0) if self.own else dict(self.losses)

    def with_pass_between(self, ratio: float, low: float, high: float, start: Mapping[str, Tensor]) -> TrainingTask:
        """The same with a second pass in each step, at weights between those; arguments as of `BetweenWeights`."""
        return replace(self, between=BetweenWeights(start, ratio, low, high))

    @property
    def has_text_pairs(self) -> bool:
        """Whether some sources hold pairs of texts, without images."""
        return isinstance(self.source, MixedSource) and any(self.source.of_texts)

    @property
    def frozen_teachers(self) -> Sequence[Backbone]:
        """Those given, or else the towers before the training."""
        return self.teachers or ([] if self.start is None else [self.start])


@dataclass
class TrainingResult:
    """What a training did; the weights are in the backbone.

    Attributes:
        history: one row per epoch.
        objective: the losses, with what they learnt.
        notes: sentences for the user.
        broken: (sample, reason) of those that could not be read.
        steps: optimiser steps of the whole run.
        best_epoch: whose weights were kept, from 1; None where there was no validation.
        samples_per_second: of all processes, what was done before a resume left out.
        trained_parameters: of the towers.
    """

    history: list[dict[str, float]]
    objective: Objective
    notes: list[str]
    broken: list[tuple[str, str]]
    steps: int
    best_epoch: int | None
    samples_per_second: float
    trained_parameters: int


def check_training_task(backbone: Backbone, task: TrainingTask) -> None:
    """Raise what `Parts` would of losses that the data, the towers or the teachers do not suit, before anything else is
    computed. Nothing is changed.

    Raises:
        CapabilityError: a loss needs what backbone or data do not have. ConfigError: a teacher that no loss asks for.
    """
    objective = objective_of(backbone, task)
    asking = f"loss {' + '.join(objective.losses)}"
    fields = fields_of(objective.needs, task.source, asking, objective.outputs)
    if task.has_text_pairs:
        check_text_pairs(fields, asking)
    for name in sorted(objective.needs & CAPABILITY.keys()):
        backbone.need(CAPABILITY[name])
    teachers_of(objective, backbone, task)


def objective_of(backbone: Backbone, task: TrainingTask) -> Objective:
    if task.own:
        return Objective(task.own)
    for need in sorted({need for name in task.losses for need in loss_class(name).backbone_needs}):
        backbone.need(need)
    dims = dims_of(backbone, len(task.source), task.class_prompts, task.frozen_teachers, num_labels_of(task.source))
    return build_objective(task.losses, dims, task.loss_options)


def teachers_of(objective: Objective, backbone: Backbone, task: TrainingTask) -> Sequence[Backbone]:
    """The frozen ones."""
    asking = f"loss {', '.join(objective.losses)}"
    if objective.teacher == "frozen":
        if not task.frozen_teachers:
            raise CapabilityError(f"{asking} needs a teacher; give --teacher SPEC")
        need_teacher_texts(task.frozen_teachers, objective.needs, asking)
        need_same_words(task.frozen_teachers, backbone, objective.needs, asking)
        if task.stored and "teacher.image" not in objective.needs:
            raise ConfigError(f"option teacher_features: {asking} asks for no teacher's features of images; omit it")
        of_stored = {stored.place for stored in task.stored}
        for place, teacher in enumerate(task.frozen_teachers):
            if place not in of_stored:
                check_seen(teacher, backbone)
        return task.frozen_teachers
    if task.teachers:
        raise ConfigError(f"--teacher {task.teachers[0].spec}: {asking} has no frozen teacher; omit it")
    return ()


class Parts:
    """The pieces of a run, made in the order in which they need each other.

    Raises:
        CapabilityError: a loss needs what backbone or data do not have. ConfigError: nothing is trained.
    """

    def __init__(self, backbone: Backbone, task: TrainingTask, settings: TrainingSettings):
        self.backbone, self.task, self.settings = backbone, task, settings
        self.notes: list[str] = []
        self.objective = objective_of(backbone, task).to(backbone.device)
        self._say_what_is_experimental()
        self._check_shards()
        self.objective.call("prepare", backbone)
        # A view of what is learned, so that what is measured in between has it too.
        losses = self.objective.losses
        backbone.finder = next((loss for loss in losses.values() if loss.finds), None)
        backbone.answers = {name: loss for name, loss in losses.items() if loss.answers}
        backbone.compares = any(loss.compares and not loss.answers for loss in losses.values())
        self._select()
        self.needs = set(self.objective.needs)
        if isinstance(task.source, MixedSource):
            self.needs.add("index")
            self.objective.sources = SourceLosses(task.source.mixture.names, task.source.offsets.tolist())
        asking = f"loss {' + '.join(self.objective.losses)}"
        self.fields = fields_of(self.needs, task.source, asking, self.objective.outputs)
        if task.has_text_pairs:
            check_text_pairs(self.fields, asking)
        self.outputs = self._outputs().to(backbone.device)
        self.trained_parameters = sum(p.numel() for p in backbone.model.parameters() if p.requires_grad)

    def model(self) -> PairModel:
        frozen_norms = TowerLayers(self.backbone).freeze_batch_norm()
        if frozen_norms:
            self.notes.append(
                f"The {len(frozen_norms)} BatchNorm layers of the towers keep their statistics: a batch's own would "
                "depend on how it is split."
            )
        if self.settings.checkpointing:
            TowerLayers(self.backbone).checkpoint()
        if self.settings.compile:
            for name, loss in self.objective.losses.items():
                if not loss.compiles:
                    raise ConfigError(f"option compile=yes: loss '{name}' changes the towers' passes; omit it")
            self.outputs.compile_per_sample()
        made = self.backbone, self.objective, self.outputs, self.settings, self.task.mix, self.task.between
        return PairModel(*made, graph_changes=self.task.has_text_pairs)

    def _check_shards(self) -> None:
        if self.settings.parallel == FSDP and world_size() > 1:
            for name, loss in self.objective.losses.items():
                if not loss.shards:
                    raise ConfigError(
                        f"option parallel={FSDP}: loss '{name}' has passes of its own within a step, which sharded "
                        "towers do not allow; omit it"
                    )

    def samples(self) -> Samples:
        task, backbone = self.task, self.backbone
        views: dict[str, View] = {
            "light": task.view or Views(backbone).light(self.settings.crop_scale, self.settings.flip)
        }
        if self.fields & {"pixels_strong1", "pixels_strong2"}:
            views["strong"] = task.strong_view or Views(backbone).strong()
        if "pixels_local" in self.fields:
            views["local"] = Views(backbone).local()
        for loss in self.objective.losses.values():
            views |= {name: seeded_view(make) for name, make in loss.further_views(backbone).items()}
        token_mask = backbone.token_mask if "trim" in backbone.capabilities else None
        further, needs = {}, self.needs & OF_TEACHERS.keys()
        for tokens in (OF_TEACHERS[name] for name in needs if self.objective.teacher == "frozen"):
            teachers = enumerate(self.outputs.teachers)
            further |= {token_field(place, tokens): (tokens, each.tokenize) for place, each in teachers}
        seed, stored = self.settings.seed, task.stored if "teacher.image" in self.needs else ()
        return Samples(task.source, self.fields, views, backbone.tokenize, seed, token_mask, further, stored)

    @property
    def sample_bytes(self) -> int:
        """Of a sample's pixels, about: each view is an image of the towers' size in float32."""
        views = sum(LOCAL_CROPS if name == "pixels_local" else name.startswith("pixels") for name in self.fields)
        return 4 * len(self.backbone.image_mean) * prod(height_and_width(self.backbone.image_size)) * max(1, views)

    def _select(self) -> None:
        backbone, task = self.backbone, self.task
        settings = self.settings
        if task.select is not None:
            task.select(backbone)
            TowerLayers(backbone).freeze(self._wanted_frozen())
        elif settings.lora:
            if BOTH in settings.lock:
                raise ConfigError(f"--lora {settings.lora}: changes the towers, which lock={BOTH} keeps; omit one")
            towers = [tower for tower in ("image", "text") if tower not in self._locked()]
            alpha, dropout = settings.lora_alpha, settings.lora_dropout
            LowRank.add(backbone, r=settings.lora, alpha=alpha, dropout=dropout, towers=towers)
        else:
            TowerLayers(backbone).set_trainable(lock=self._locked(), last=self.settings.train_last)
        if settings.logit_scale is not None:
            self._hold_scale(settings.logit_scale)
        head = [] if task.class_scores is None else task.class_scores.parameters()
        if not any(p.requires_grad for p in (*backbone.model.parameters(), *head)):
            raise ConfigError("no part of the towers is trained; unlock one, or train more of its last layers")

    def _hold_scale(self, scale: float) -> None:
        """The logit scale, kept as its logarithm, as a constant."""
        parameter = getattr(self.backbone.model, "logit_scale", None)
        if not isinstance(parameter, nn.Parameter):
            spec = self.backbone.spec
            raise ConfigError(f"option logit_scale={scale:g}: backbone '{spec}' has no scale of its own; omit it")
        parameter.data.fill_(math.log(scale))
        parameter.requires_grad_(False)

    def _locked(self) -> tuple[str, ...]:
        return tuple(sorted(self._wanted_frozen() | set(self.settings.lock)))

    def _wanted_frozen(self) -> set[str]:
        return {tower for loss in self.objective.losses.values() for tower in loss.frozen_towers}

    def _outputs(self) -> Outputs:
        prefixed = [loss for loss in self.objective.losses.values() if loss.n_prefix]
        prompts = [loss.text_prompt for loss in prefixed]
        if prefixed:  # a view of what is learned, so that what is measured in between has it too
            self.backbone.text_prefix = prefixed[0].prompt_prefix()
        teachers = self._teachers()
        return Outputs(
            self.backbone,
            self.needs,
            teachers=teachers,
            text_prompt=prompts[0] if prompts else None,
            class_scores=self._class_scores(),
            teacher_classes=self._teacher_classes(teachers),
            class_priors=self.task.class_priors,
            losses=[loss for loss in self.objective.losses.values() if loss.outputs],
        )

    def _teachers(self) -> Sequence[Backbone]:
        frozen = teachers_of(self.objective, self.backbone, self.task)
        return [copy_of(self.backbone)] if self.objective.teacher == "ema" else frozen

    def _class_scores(self) -> nn.Module | None:
        if not self.needs & {"logits", "class_features"}:
            return None
        if self.task.class_scores is not None:
            return self.task.class_scores
        self._check_classes()
        return ClassScores(self.backbone, self.task.class_prompts, self.task.negative_prompts)

    def _teacher_classes(self, teachers: Sequence[Backbone]) -> Tensor | None:
        if "teacher.class_features" not in self.needs:
            return None
        if self.objective.teacher != "frozen":
            raise CapabilityError("a loss needs 'teacher.class_features', which only a fixed teacher has")
        if self.task.teacher_classes is not None:
            return self.task.teacher_classes
        self._check_classes()
        with torch.no_grad():
            return side_by_side(
                [ClassScores(each, self.task.class_prompts).to(each.device).weights() for each in teachers]
            )

    def _check_classes(self) -> None:
        if self.task.class_prompts is None:
            needs = ", ".join(output_in_words(need) for need in sorted(self.needs & OF_CLASSES))
            raise CapabilityError(f"a loss needs {needs}; pairs have no classes, use clip")

    def _say_what_is_experimental(self) -> None:
        for name, loss in self.objective.losses.items():
            if loss.experimental:
                self.notes.append(f"Loss '{name}' is experimental: {loss.experimental}")
