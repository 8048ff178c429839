"""mmengine's Runner, given what is built already, and kept from talking and from leaving empty folders."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import nn

from ..runtime.distributed import world_size
from ..runtime.liveness import failing_alone
from .kernels import ask_for_determinism, fast_kernels, is_repeatable, named_kernels, restored_determinism
from .model import GlobalBatchParallel, PairModel, inner_model
from .optimizer import build_optimizer, rate_schedulers
from .settings import TrainingSettings
from .sharding import make_whole, shard

UNUSED_HOOKS = ("runtime_info", "timer", "sampler_seed", "logger", "checkpoint")
"""mmengine's own: what they tell and save, ours do, in a form that a run can be resumed from exactly."""


def run_with_hooks(
    wrapped: nn.Module,
    heads: list[nn.Module],
    samples: torch.utils.data.DataLoader,
    settings: TrainingSettings,
    hooks: list[Hook],
    steps: int,
    folder: Path,
) -> int:
    """Train; afterwards all modules are in eval mode, whole on each process, and the towers frozen.

    Args:
        wrapped: what `parallel` gives.

    Returns:
        The step it started from, above 0 after a resume.

    Raises:
        CapabilityError: the training is to be deterministic, and a kernel is not.
    """
    from mmengine.visualization import Visualizer

    model = inner_model(wrapped)
    optimizer = build_optimizer(model.backbone, heads, settings)
    name = f"vladapt-{time.time_ns()}"
    start = _StartStep()
    device = model.backbone.device
    repeatable = is_repeatable(settings, device)
    with restored_determinism(), _quiet(folder), log_closed(name):
        runner = TowerRunner(
            model=wrapped,
            work_dir=str(folder),
            train_dataloader=samples,
            train_cfg={"type": ResumableLoop, "max_epochs": settings.epochs, "fast": not repeatable},
            optim_wrapper=optimizer,
            param_scheduler=rate_schedulers(settings, steps) or None,
            default_hooks=dict.fromkeys(UNUSED_HOOKS),
            custom_hooks=[*hooks, start],
            launcher="none",  # the processes are joined and the model is wrapped already
            randomness={"seed": settings.seed, "deterministic": repeatable},
            log_level="ERROR",
            visualizer=Visualizer.get_instance("vladapt"),  # one for all: it holds a figure
            default_scope="mmengine",
            experiment_name=name,
        )
        if repeatable:
            ask_for_determinism(device, warn_only=bool(model.not_deterministic))
        with failing_alone(), named_kernels():
            runner.train()
    make_whole(model, model.backbones)
    for module in (model.towers, *heads):
        module.eval().requires_grad_(False)
    return start.step


class TowerRunner(Runner):
    """A Runner that takes the weights as they are, alike on all processes, and the model wrapped as it is."""

    def wrap_model(self, model_wrapper_cfg, model: nn.Module) -> nn.Module:
        return model.to(inner_model(model).backbone.device)

    def _log_env(self, env_cfg) -> None:
        """Nothing: it would start a compiler to ask for its version, for a line that the level keeps back."""

    def _init_model_weights(self) -> None:
        """Nothing to initialise, and nothing to send round, which weights that are cut over processes do not allow."""


class _StartStep(Hook):
    """Notes where the training starts, after a resume."""

    priority = "LOWEST"
    step = 0

    def before_train(self, runner) -> None:
        self.step = runner.iter


@contextmanager
def log_closed(name: str) -> Iterator[None]:
    """mmengine keeps the logger of every Runner, with its file open, as long as the process lives; after the block the
    file of experiments whose names begin so is closed."""
    try:
        yield
    finally:
        for logger in [each for key, each in MMLogger._instance_dict.items() if key.startswith(name)]:
            for handler in [each for each in logger.handlers if isinstance(each, logging.FileHandler)]:
                logger.removeHandler(handler)
                handler.close()


@contextmanager
def _quiet(folder: Path) -> Iterator[None]:
    """Warnings of mmengine about what we do otherwise are kept back; its empty log folders are removed."""
    folder.mkdir(parents=True, exist_ok=True)
    before = set(folder.iterdir())
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        for made in set(folder.iterdir()) - before:
            if made.name[:8].isdigit() and made.is_dir():
                shutil.rmtree(made, ignore_errors=True)
            elif made.name[:8].isdigit() and made.suffix == ".py":
                made.unlink(missing_ok=True)


class ResumableLoop(EpochBasedTrainLoop):
    """Tells the batches their epoch and their first step; a resume sets `_epoch` and `_iter` before `run`.

    An epoch that was finished but whose end was not reached (validation, for instance) is ended first.

    Args:
        fast: whether a step may use `fast_kernels`.

    Attributes:
        waited: seconds that the newest batch was waited for.
    """

    waited = 0.0

    def __init__(self, runner: Runner, dataloader, max_epochs: int, fast: bool = False):
        super().__init__(runner, dataloader, max_epochs)
        self.fast = fast

    @property
    def steps_an_epoch(self) -> int:
        return len(self.dataloader.batch_sampler)

    @property
    def max_iters(self) -> int:
        """All steps of the training."""
        steps = self.dataloader.batch_sampler.steps
        return self._max_iters if steps is None else min(steps, self._max_iters)

    @property
    def fresh_epoch(self) -> bool:
        """Whether no step of the current epoch has been done."""
        return self._iter == self._epoch * self.steps_an_epoch

    def run_epoch(self) -> None:
        batches = self.dataloader.batch_sampler
        batches.epoch, batches.start = self._epoch, self._iter - self._epoch * self.steps_an_epoch
        self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        for step, batch in enumerate(self._waited_for(self.dataloader), start=batches.start):
            with fast_kernels(self.fast):
                self.run_iter(step, batch)
        self.runner.call_hook("after_train_epoch")
        self._epoch += 1

    def _waited_for(self, batches: Iterable) -> Iterator:
        """The batches; `waited` says how many seconds the newest one was waited for."""
        started = time.perf_counter()
        for batch in batches:
            self.waited = time.perf_counter() - started
            yield batch
            started = time.perf_counter()


def parallel(model: PairModel, settings: TrainingSettings) -> nn.Module:
    """The model as it is where one process trains, else wrapped."""
    if world_size() == 1:
        return model
    if settings.parallel == "ddp":
        return GlobalBatchParallel(model)
    held = {parameter for loss in model.objective.losses.values() for parameter in loss.held_parameters()}
    return shard(model, model.backbones, held, settings.amp)
