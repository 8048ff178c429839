"""One training of the towers of a backbone by mmengine's Runner, from a source of samples to the weights in place."""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook
from torch import Tensor

from ..backbones.load import FINDER, PREFIX
from ..contracts.backbone import Backbone
from ..contracts.images import LogPlace
from .batches import StreamBatches
from .checkpoints import FOLDER
from .hooks import (
    AverageHook,
    BeforeEpochHook,
    EpochAverageHook,
    EpochRateHook,
    History,
    StepHook,
    ValidationHook,
)
from .kernels import channels_last, contiguous, suits_channels_last
from .loading import BatchLoader, planned_batches, refuse_whole_passes, worker_count
from .log import FILE, read_interval
from .log_hook import LogHook
from .lora import merge_lora
from .model import PairModel
from .objective import Objective
from .optimizer import epoch_rates
from .parts import Parts, Task
from .resume import ResumeHook
from .runner import parallel, run_with_hooks
from .samples import BrokenSamples, seed_torch
from .settings import TrainingSettings
from .sharded_checkpoints import on_host
from .sharding import load_plain, plain, whole
from .sources import StreamedSource
from .teacher import copied_weights, swapped
from .tower_outputs import extract_outputs


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
    made = Parts(backbone, task, settings)
    model, notes = made.model(), made.notes
    for sentence in model.not_deterministic:
        on_message(sentence)
    notes += model.not_deterministic
    workers = worker_count(settings.workers, backbone.device, isinstance(task.source, StreamedSource))
    batches = planned_batches(task.source, settings, workers, on_message, task.plan)
    samples = BatchLoader(made.samples(), batches, workers, backbone.device.type == "cuda", made.sample_bytes)
    history, broken, best = History(), BrokenSamples(len(task.source)), {}
    averaged = settings.ema is not None or settings.epoch_average is not None
    turned = channels_last(backbone) if suits_channels_last(backbone, settings) else []
    wrapped = parallel(model, settings)
    average = copied_weights(backbone.model) if averaged else None
    extra = _further_states(best, average, batches)
    identity = {**_identity(settings), "losses": task.weights, "samples": len(task.source), **task.identity}
    steps = min(settings.epochs * len(batches), settings.steps or sys.maxsize)
    read_every = read_interval(backbone.device, settings.log_every, steps)
    step_hook = StepHook(history, broken, on_step, settings.seed, read_every, settings.save_every)
    hooks = [step_hook, BeforeEpochHook(_extract(model, made, batches))]
    checkpoints = None
    if folder is not None:
        checkpoints = ResumeHook(Path(folder) / FOLDER, settings, identity, history, extra, resume, on_message)
        hooks.append(checkpoints)
    hooks.extend(_rates_and_averages(settings, average))
    log_hook = _log_hook(log, folder, task, settings, on_message)
    hooks.append(log_hook)
    if task.validate is not None:
        validate, state = _validated(task.validate, model, average), lambda: _weights(backbone, average)
        hooks.append(ValidationHook(validate, history, log_hook, settings.patience, best, state))
    heads = [made.objective, made.outputs]
    with (
        _work_folder(folder) as work,
        closing(log_hook),
        nullcontext() if checkpoints is None else closing(checkpoints),
    ):
        first_step = run_with_hooks(wrapped, heads, samples, settings, hooks, steps, work)
    contiguous(turned)
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


def _further_states(best: dict[str, Any], average, batches) -> dict[str, tuple[Callable[[], Any], Callable]]:
    """Name -> how it is read for a checkpoint, and put back from one."""
    states = {"best": (lambda: dict(best), best.update)}
    if average is not None:
        states["average"] = (lambda: average, lambda saved: load_plain(average, saved))
    if isinstance(batches, StreamBatches):
        states["streams"] = (lambda: batches.streams, batches.set_streams)
    return states


def _extract(model: PairModel, made: Parts, batches) -> Callable[[list[str]], dict[str, Tensor]]:
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
        hooks.append(EpochAverageHook(average, settings.epoch_average, settings.average_from))
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
    seed_torch(seed)


def _validated(validate: Callable[[], float], model: PairModel, average) -> Callable[[], float]:
    """Validation in eval mode, of the averaged weights where there are any; random states stay as they were."""

    def score() -> float:
        training = model.towers.training
        model.towers.eval()
        with torch.random.fork_rng(), swapped(model.towers, average), whole(model):
            value = validate()
        model.towers.train(training)
        return value

    return score


def _weights(backbone: Backbone, average) -> dict[str, Tensor]:
    kept = backbone.model.state_dict() if average is None else average
    state = {name: on_host(value) for name, value in kept.items()}
    if backbone.finder is not None:
        state |= {FINDER + name: on_host(value) for name, value in backbone.finder.state_dict().items()}
    prefix = getattr(backbone, "text_prefix", None)
    return state if prefix is None else {**state, PREFIX: on_host(prefix)}


def _keep_best(backbone: Backbone, average, best: dict[str, Any]) -> None:
    """The weights that stay: of the best epoch on val, else the average, else the last."""
    if best.get("state") is not None:
        state = plain(best["state"])
        if PREFIX in state:
            backbone.text_prefix = state.pop(PREFIX)
        if backbone.finder is not None:
            found = {name: state.pop(name) for name in list(state) if name.startswith(FINDER)}
            backbone.finder.load_state_dict({name.removeprefix(FINDER): value for name, value in found.items()})
        backbone.model.load_state_dict(state)
    elif average is not None:
        backbone.model.load_state_dict(plain(average))


def _identity(settings: TrainingSettings) -> dict[str, Any]:
    """The settings that make a run what it is; how it is split over memory and processes does not."""
    cost_options = ("micro_batch_size", "workers", "save_every", "keep", "compile", "checkpointing", "parallel")
    cost_options += ("log_every", "log_to")
    later = {"steps": None, "drop_last": True, "deterministic": False}  # which older checkpoints do not name
    later |= {"head_rate": 1.0, "projection_rate": 1.0, "bias_rate": None, "milestones": [40, 70], "step_factor": 0.1}
    later |= {"average_from": 1}
    told = {name: value for name, value in settings.to_dict().items() if name not in cost_options}
    return {name: value for name, value in told.items() if name not in later or value != later[name]}
