"""mmengine's Runner for towers: its loops of epochs and of validation, and what of its default hooks is not used."""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.logging import MMLogger
from mmengine.model import MMDistributedDataParallel
from mmengine.runner import BaseLoop, Runner
from torch import Tensor, nn

from ..errors import CapabilityError
from ..runtime.distributed import world_size
from .kernels import fast_kernels
from .model import PairModel, global_step, inner_model
from .settings import TrainingSettings
from .sharding import shard

NOT_USED = {
    "runtime_info": "reads every value from the device in each step, for which the host would have to wait",
    "timer": "times a step on the host, which is ahead of the device; `LogHook` times between two reads",
    "sampler_seed": "knows no first step of an epoch, from where a resume continues; the loop tells it to the batches",
    "logger": "averages over a window and prints; `LogHook` writes means since its last line, and goes on in its file",
    "checkpoint": "saves at ends of epochs or steps, by pickle, without random states; `ResumeHook` saves all of a run",
}
"""mmengine's default hook -> why ours is there. A user may add each of them by `custom_hooks`."""
CHANGED_GRAPH = ("training graph has changed", "finished reduction in the prior iteration")
"""What DistributedDataParallel says of a static graph that is none."""


class TowerRunner(Runner):
    """A Runner that takes the model where it lies, wrapped as it is, and writes nothing of its own."""

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """The model: mmengine would choose the device, and would not know weights that are sharded."""
        return model.to(inner_model(model).backbone.device)

    def build_logger(self, log_level: int | str = "ERROR", log_file: str | None = None, **kwargs: Any) -> MMLogger:
        """Without a file: mmengine would hold it open as long as the process lives."""
        return MMLogger.get_instance(name=self.experiment_name, log_level=log_level)

    def dump_config(self) -> None:
        """Nothing: there is no config, all parts are built already."""


@contextmanager
def unheard_shell() -> Iterator[None]:
    """For making a Runner: mmengine asks a shell for the versions of compilers, and on a machine without them the shell
    would say so on stderr."""
    try:
        stderr = os.dup(2)
    except OSError:  # this process has no stderr
        stderr = None
    if stderr is None:
        yield
        return
    sys.stderr.flush()
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


class ResumableLoop(BaseLoop):
    """Epochs of steps, as of mmengine's loop of epochs, which may begin in the middle of one; a resume sets `epoch` and
    `iter` before `run`.

    An epoch that was finished but whose end was not reached (validation, for instance) is ended first.

    Args:
        max_epochs: of the training.
        fast: whether a step may use `fast_kernels`.

    Attributes:
        epoch, iter: how many are done.
        stop_training: set by a hook that ends the training after this epoch.
        waited: seconds that the newest batch was waited for.
    """

    def __init__(self, runner: Runner, dataloader, max_epochs: int, fast: bool = False):
        super().__init__(runner, dataloader)
        self.max_epochs, self.fast = max_epochs, fast
        self.epoch = self.iter = 0
        self.val_begin = self.val_interval = 1
        self.stop_training, self.waited = False, 0.0

    @property
    def steps_an_epoch(self) -> int:
        return len(self.dataloader.batch_sampler)

    @property
    def max_iters(self) -> int:
        """All steps of the training."""
        steps, all_steps = self.dataloader.batch_sampler.steps, self.max_epochs * self.steps_an_epoch
        return all_steps if steps is None else min(steps, all_steps)

    @property
    def fresh_epoch(self) -> bool:
        """Whether no step of the current epoch has been done."""
        return self.iter == self.epoch * self.steps_an_epoch

    def run(self) -> nn.Module:
        self.runner.call_hook("before_train")
        while self.epoch < self.max_epochs and not self.stop_training:
            self.run_epoch()
            if self.runner.val_loop is not None:
                self.runner.val_loop.run()
        self.runner.call_hook("after_train")
        return self.runner.model

    def run_epoch(self) -> None:
        batches = self.dataloader.batch_sampler
        batches.epoch, batches.start = self.epoch, self.iter - self.epoch * self.steps_an_epoch
        self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        for step, batch in enumerate(self._waited_for(self.dataloader), start=batches.start):
            with fast_kernels(self.fast):
                self.run_iter(step, batch)
        self.runner.call_hook("after_train_epoch")
        self.epoch += 1

    def run_iter(self, batch_idx: int, data_batch: dict[str, Any]) -> None:
        """One optimiser step."""
        batch = {"batch_idx": batch_idx, "data_batch": data_batch}
        self.runner.call_hook("before_train_iter", **batch)
        outputs = self.runner.model.train_step(data_batch, optim_wrapper=self.runner.optim_wrapper)
        self.runner.call_hook("after_train_iter", **batch, outputs=outputs)
        self.iter += 1

    def _waited_for(self, batches: Iterable) -> Iterator:
        """The batches; `waited` says how many seconds the newest one was waited for."""
        started = time.perf_counter()
        for batch in batches:
            self.waited = time.perf_counter() - started
            yield batch
            started = time.perf_counter()


class ScoreLoop(BaseLoop):
    """Validation after each epoch: hooks are told the score by its name.

    Args:
        dataloader: holds one function, which goes through val by itself: () -> score, the higher the better, or scores
            by name, that by the name of the evaluator among them.
        evaluator: what the score is called, which mmengine asks for together with the others.
    """

    def __init__(self, runner: Runner, dataloader: list[Callable[[], float | Mapping[str, float]]], evaluator: str):
        super().__init__(runner, dataloader)
        self.evaluator = evaluator

    def run(self) -> dict[str, float]:
        self.runner.call_hook("before_val")
        self.runner.call_hook("before_val_epoch")
        (validate,) = self.dataloader
        score = inner_model(self.runner.model).val_step(validate)
        metrics = dict(score) if isinstance(score, Mapping) else {self.evaluator: score}
        self.runner.call_hook("after_val_epoch", metrics=metrics)
        self.runner.call_hook("after_val")
        return metrics


class GlobalBatchParallel(MMDistributedDataParallel):
    """The same step on several processes. Losses see the batch of all of them, so gradients only need averaging."""

    def __init__(self, module: PairModel):
        devices = [torch.cuda.current_device()] if module.backbone.device.type == "cuda" else None
        # Buffers are alike on all ranks, made from the same global batch: sending them round would be waste. A head
        # that a step does not reach would be waited for, were unused parameters not looked for: once for all where each
        # step reaches the same ones, else in each.
        graph = {"static_graph": True} if module.has_static_graph else {"find_unused_parameters": True}
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", FutureWarning
            )  # torch renames `broadcast_buffers`; older ones know no other
            super().__init__(module, device_ids=devices, broadcast_buffers=False, gradient_as_bucket_view=True, **graph)

    def train_step(self, data: dict[str, Any], optim_wrapper) -> dict[str, Tensor]:
        try:
            return global_step(self, self.module, data, optim_wrapper)
        except RuntimeError as error:
            if not any(part in str(error) for part in CHANGED_GRAPH):
                raise
            raise CapabilityError(
                f"loss {', '.join(self.module.objective.losses)}: its steps do not all reach the same weights; set "
                "graph_changes = True in the class of the loss that does so"
            ) from error


def parallel(model: PairModel, settings: TrainingSettings) -> nn.Module:
    """The model as it is where one process trains, else wrapped."""
    if world_size() == 1:
        return model
    if settings.parallel == "ddp":
        return GlobalBatchParallel(model)
    held = {parameter for loss in model.objective.losses.values() for parameter in loss.held_parameters()}
    if model.objective.teacher == "ema" and model.teacher_towers is not None:  # what follows a whole one is whole too
        names = {name for name, parameter in model.towers.named_parameters() if parameter in held}
        held |= {parameter for name, parameter in model.teacher_towers.named_parameters() if name in names}
    return shard(model, model.backbones, held, settings.amp)
