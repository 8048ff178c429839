"""One training of the towers of a backbone by mmengine's Runner, from a source of samples to the weights in place."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook
from torch import Tensor, nn

from ..backbones.load import PREFIX
from ..contracts.backbone import Backbone
from ..contracts.images import LogPlace
from ..contracts.loss import in_words
from ..errors import CapabilityError, ConfigError
from .batches import StreamBatches
from .checkpoints import FOLDER
from .class_scores import ClassScores
from .fields import fields_of
from .hooks import (
    AverageHook,
    BeforeEpochHook,
    EpochAverageHook,
    EpochRateHook,
    History,
    ResumeHook,
    StepHook,
    ValidationHook,
)
from .layers import freeze_batch_norm, set_trainable
from .loading import BatchLoader, planned_batches, refuse_whole_passes, worker_count
from .log import FILE, LogHook, read_interval
from .lora import add_lora, merge_lora
from .model import PairModel, checkpoint_blocks, dims_of
from .objective import Objective, build_objective
from .optimizer import epoch_rates
from .runner import run_with_hooks
from .samples import LOCAL_CROPS, BrokenSamples, Samples
from .settings import TrainingSettings
from .sharding import plain
from .sources import Source, StreamedSource
from .teacher import copy_of, swapped
from .tower_outputs import Outputs, extract_outputs
from .views import View, light_view, local_view, strong_view

OF_CLASSES = frozenset({"logits", "class_features", "teacher.class_features"})


@dataclass
class Task:
    """What a training is about, besides its settings.

    Args:
        source: the training set.
        losses: name -> weight.
        loss_options: name -> keyword arguments of the loss.
        class_prompts: C lists of prompts, where a loss needs "logits" or "class_features".
        negative_prompts: C lists of prompts that say the class is absent, for samples of several labels.
        class_scores: (B, D) unit image features -> (B, C) "logits", in place of the prompts: a module that is trained
            with the towers.
        teacher: a backbone, where a loss has a frozen teacher.
        teacher_classes: (C, D) unit rows, the teacher's text features of the classes; by default what it makes of
            `class_prompts`.
        class_priors: (C,) log shares of the classes, by which a loss on the labels counts each class alike, or None.
        view: augments an image for training: (decoded, seed) -> pixels; by default a crop and a flip.
        select: chooses what is trained: called with the backbone; by default `lock`, `train_last` and `lora` say it.
        validate: () -> score on val, the higher the better; or None.
        identity: facts that a checkpoint must share to be resumed, besides the settings.
    """

    source: Source
    losses: Mapping[str, float]
    loss_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    class_prompts: Sequence[Sequence[str]] | None = None
    negative_prompts: Sequence[Sequence[str]] | None = None
    class_scores: nn.Module | None = None
    teacher: Backbone | None = None
    teacher_classes: Tensor | None = None
    class_priors: Tensor | None = None
    view: View | None = None
    select: Callable[[Backbone], Any] | None = None
    validate: Callable[[], float] | None = None
    identity: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Trained:
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


def train(
    backbone: Backbone,
    task: Task,
    settings: TrainingSettings,
    folder: str | Path | None,
    *,
    resume: bool = False,
    log: LogPlace | None = None,
    on_step: Callable[[int, int, dict[str, float]], None] = lambda done, total, values: None,
    on_message: Callable[[str], None] = lambda line: None,
) -> Trained:
    """Train the towers in place; afterwards they are frozen and in eval mode again.

    Args:
        folder: for checkpoints; None keeps none.
        resume: go on from the newest whole checkpoint in it.
        log: where a line of values is written every few steps; by default a file in `folder`, if there is one.
        on_step: called with (steps done, all steps, values) for each step; on a GPU for several at once.
        on_message: called with sentences about resuming, on what cannot be deterministic, and with lines of the log
            where `log_every` is given.

    Raises:
        CapabilityError: a loss needs what backbone or data do not have.
        ConfigError: settings that do not go together.
        DataError: too many unreadable samples, checkpoints of another run or damaged, or a loss that is not a number.
    """
    started = time.monotonic()
    seed_everything(settings.seed)
    made = _Parts(backbone, task, settings)
    model, notes = made.model(), made.notes
    for sentence in model.not_deterministic:
        on_message(sentence)
    notes += model.not_deterministic
    workers = worker_count(settings.workers, backbone.device, isinstance(task.source, StreamedSource))
    batches = planned_batches(task.source, settings, workers, on_message)
    samples = BatchLoader(made.samples(), batches, workers, backbone.device.type == "cuda", made.sample_bytes)
    history, broken, best = History(), BrokenSamples(len(task.source)), {}
    averaged = settings.ema is not None or settings.epoch_average is not None
    average = deepcopy(backbone.model).requires_grad_(False).eval() if averaged else None
    extra = {"best": (lambda: dict(best), best.update)}
    if average is not None:
        extra["average"] = (average.state_dict, average.load_state_dict)
    if isinstance(batches, StreamBatches):
        extra["streams"] = (lambda: batches.streams, batches.set_streams)
    identity = {**_identity(settings), "losses": dict(task.losses), "samples": len(task.source), **task.identity}
    steps = settings.epochs * len(batches)
    steps = steps if settings.steps is None else min(steps, settings.steps)
    read_every = read_interval(backbone.device, settings.log_every, steps)
    step_hook = StepHook(history, broken, on_step, settings.seed, read_every, settings.save_every)
    hooks = [step_hook, BeforeEpochHook(_extract(model, made, batches))]
    if folder is not None:
        place = Path(folder) / FOLDER
        hooks.append(ResumeHook(place, settings, identity, history, extra, resume, on_message))
    hooks.extend(_rates_and_averages(settings, average))
    log_hook = _log_hook(log, folder, task, settings, on_message)
    hooks.append(log_hook)
    if task.validate is not None:
        validate, state = _validated(task.validate, backbone, average), lambda: _weights(backbone, average)
        hooks.append(ValidationHook(validate, history, log_hook, settings.patience, best, state))
    heads = [made.objective, made.outputs]
    with _work_folder(folder) as work, closing(log_hook):
        first_step = run_with_hooks(model, heads, samples, settings, hooks, steps, work)
    _keep_best(backbone, average, best)
    if settings.lora and task.select is None:
        merge_lora(backbone)
    seconds = time.monotonic() - started
    return Trained(
        history=history.finished(),
        objective=made.objective,
        notes=notes,
        broken=sorted(broken.reasons.items()),
        steps=steps,
        best_epoch=best["epoch"] + 1 if "epoch" in best else None,
        samples_per_second=(steps - first_step) * batches.batch_size / max(seconds, 1e-9),
        trained_parameters=made.trained_parameters,
    )


def _extract(model: PairModel, made: _Parts, batches) -> Callable[[list[str]], dict[str, Tensor]]:
    if isinstance(batches, StreamBatches):
        return refuse_whole_passes(made.task.source, " + ".join(made.objective.losses))
    return lambda names: extract_outputs(model, made.samples(), batches, names)


def _log_hook(log: LogPlace | None, folder, task: Task, settings: TrainingSettings, on_message) -> LogHook:
    if log is None and folder is not None:
        log = LogPlace(Path(folder) / FILE)
    scored = task.validate is not None
    every, backends, batch_size = settings.log_every, settings.log_to, settings.batch_size
    return LogHook(log, every, backends, settings.to_dict(), batch_size, scored, on_message)


def _rates_and_averages(settings: TrainingSettings, average) -> list[Hook]:
    """Before the hook of validation, which is of the average."""
    rates, hooks = epoch_rates(settings), []
    if rates is not None:
        hooks.append(EpochRateHook(rates))
    if settings.ema is not None:
        hooks.append(AverageHook(average, settings.ema))
    if settings.epoch_average is not None:
        hooks.append(EpochAverageHook(average, settings.epoch_average))
    return hooks


@contextmanager
def _work_folder(folder: str | Path | None) -> Iterator[Path]:
    """What mmengine needs to have, though nothing of ours may go there."""
    if folder is not None:
        yield Path(folder)
        return
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)


def seed_everything(seed: int) -> None:
    """The same start on every process, for all that draws before the first step."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


class _Parts:
    """The pieces of a run, made in the order in which they need each other."""

    def __init__(self, backbone: Backbone, task: Task, settings: TrainingSettings):
        self.backbone, self.task, self.settings = backbone, task, settings
        self.notes: list[str] = []
        dims = dims_of(backbone, len(task.source), task.class_prompts, task.teacher)
        self.objective = build_objective(task.losses, dims, task.loss_options).to(backbone.device)
        self._say_what_is_experimental()
        self.objective.call("prepare", backbone)
        self._select()
        self.needs = set(self.objective.needs)
        asking = f"loss {' + '.join(self.objective.losses)}"
        self.fields = fields_of(self.needs, task.source, asking, self.objective.outputs)
        self.outputs = self._outputs().to(backbone.device)
        self.trained_parameters = sum(p.numel() for p in backbone.model.parameters() if p.requires_grad)

    def model(self) -> PairModel:
        frozen_norms = freeze_batch_norm(self.backbone)
        if frozen_norms:
            self.notes.append(
                f"The {len(frozen_norms)} BatchNorm layers of the towers keep their statistics: a batch's own would "
                "depend on how it is split."
            )
        if self.settings.checkpointing:
            checkpoint_blocks(self.backbone)
        if self.settings.compile:
            self.outputs.per_sample = torch.compile(self.outputs.per_sample)
        return PairModel(self.backbone, self.objective, self.outputs, self.settings)

    def samples(self) -> Samples:
        task, backbone = self.task, self.backbone
        views: dict[str, View] = {"light": task.view or light_view(backbone, self.settings.crop_scale)}
        if self.fields & {"pixels_strong1", "pixels_strong2"}:
            views["strong"] = strong_view(backbone)
        if "pixels_local" in self.fields:
            views["local"] = local_view(backbone)
        token_mask = backbone.token_mask if "trim" in backbone.capabilities else None
        return Samples(task.source, self.fields, views, backbone.tokenize, self.settings.seed, token_mask)

    @property
    def sample_bytes(self) -> int:
        """Of a sample's pixels, about: each view is an image of the towers' size in float32."""
        views = sum(LOCAL_CROPS if name == "pixels_local" else name.startswith("pixels") for name in self.fields)
        return 4 * 3 * self.backbone.image_size**2 * max(1, views)

    def _select(self) -> None:
        backbone, task = self.backbone, self.task
        settings = self.settings
        if task.select is not None:
            task.select(backbone)
        elif settings.lora:
            towers = [tower for tower in ("image", "text") if tower not in self._locked()]
            options = {"alpha": settings.lora_alpha, "dropout": settings.lora_dropout}
            add_lora(backbone, r=settings.lora, towers=towers, **options)
        else:
            set_trainable(backbone, lock=self._locked(), last=self.settings.train_last)
        head = [] if task.class_scores is None else task.class_scores.parameters()
        if not any(p.requires_grad for p in (*backbone.model.parameters(), *head)):
            raise ConfigError("no part of the towers is trained; unlock one, or train more of its last layers")

    def _locked(self) -> tuple[str, ...]:
        wanted = {tower for loss in self.objective.losses.values() for tower in loss.frozen_towers}
        return tuple(sorted(wanted | set(self.settings.lock)))

    def _outputs(self) -> Outputs:
        prefixed = [loss for loss in self.objective.losses.values() if loss.n_prefix]
        prompts = [loss.text_prompt for loss in prefixed]
        if prefixed:  # a view of what is learned, so that what is measured in between has it too
            self.backbone.text_prefix = prefixed[0].prompt_prefix()
        teacher = self._teacher()
        return Outputs(
            self.backbone,
            self.needs,
            teacher=teacher,
            text_prompt=prompts[0] if prompts else None,
            class_scores=self._class_scores(),
            teacher_classes=self._teacher_classes(teacher),
            class_priors=self.task.class_priors,
            losses=[loss for loss in self.objective.losses.values() if loss.outputs],
        )

    def _teacher(self) -> Backbone | None:
        if self.objective.teacher == "ema":
            return copy_of(self.backbone)
        if self.objective.teacher == "frozen":
            if self.task.teacher is None:
                raise CapabilityError(f"loss {', '.join(self.objective.losses)} needs a teacher; give --teacher SPEC")
            return self.task.teacher
        return None

    def _class_scores(self) -> nn.Module | None:
        if not self.needs & {"logits", "class_features"}:
            return None
        if self.task.class_scores is not None:
            return self.task.class_scores
        self._check_classes()
        return ClassScores(self.backbone, self.task.class_prompts, self.task.negative_prompts)

    def _teacher_classes(self, teacher: Backbone | None) -> Tensor | None:
        if "teacher.class_features" not in self.needs:
            return None
        if self.objective.teacher != "frozen":
            raise CapabilityError("a loss needs 'teacher.class_features', which only a teacher that stays has")
        if self.task.teacher_classes is not None:
            return self.task.teacher_classes
        self._check_classes()
        with torch.no_grad():
            return ClassScores(teacher, self.task.class_prompts).to(teacher.device).weights()

    def _check_classes(self) -> None:
        if self.task.class_prompts is None:
            wanted = ", ".join(in_words(need) for need in sorted(self.needs & OF_CLASSES))
            raise CapabilityError(f"a loss needs {wanted}; pairs have no classes, use clip")

    def _say_what_is_experimental(self) -> None:
        for name, loss in self.objective.losses.items():
            if loss.experimental:
                self.notes.append(f"Loss '{name}' is experimental: {loss.experimental}")


def _validated(validate: Callable[[], float], backbone: Backbone, average) -> Callable[[], float]:
    """Validation in eval mode, of the averaged weights where there are any; random states stay as they were."""

    def score() -> float:
        training = backbone.model.training
        backbone.model.eval()
        with torch.random.fork_rng(), swapped(backbone.model, average):
            value = validate()
        backbone.model.train(training)
        return value

    return score


def _weights(backbone: Backbone, average) -> dict[str, Tensor]:
    kept = backbone.model if average is None else average
    state = {name: value.detach().cpu().clone() for name, value in plain(kept.state_dict()).items()}
    prefix = getattr(backbone, "text_prefix", None)
    return state if prefix is None else {**state, PREFIX: prefix.detach().cpu().clone()}


def _keep_best(backbone: Backbone, average, best: dict[str, Any]) -> None:
    """The weights that stay: of the best epoch on val, else the average, else the last."""
    if best.get("state") is not None:
        state = dict(best["state"])
        if PREFIX in state:
            backbone.text_prefix = state.pop(PREFIX)
        backbone.model.load_state_dict(state)
    elif average is not None:
        backbone.model.load_state_dict(average.state_dict())


def _identity(settings: TrainingSettings) -> dict[str, Any]:
    """The settings that make a run what it is; how it is split over memory and processes does not."""
    cost_options = ("micro_batch_size", "workers", "save_every", "keep", "compile", "checkpointing", "parallel")
    cost_options += ("log_every", "log_to")
    later = {"steps": None, "drop_last": True, "deterministic": False}  # which older checkpoints do not name
    told = {name: value for name, value in settings.to_dict().items() if name not in cost_options}
    return {name: value for name, value in told.items() if name not in later or value != later[name]}
