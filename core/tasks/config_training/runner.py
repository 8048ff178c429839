"""A domain's own plan, run by mmengine's Runner: on a chosen device or under torchrun, told, resumed after a stop; and
its model, built again of a run."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from copy import deepcopy
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from mmengine import Config
from mmengine.hooks import EMAHook, Hook
from mmengine.logging import MMLogger
from mmengine.model import MMDistributedDataParallel, is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIMIZERS
from mmengine.runner import Runner
from torch import nn

from ...errors import IN_WORKER, ConfigError, DataError, UnknownNameError, VladaptError, did_you_mean
from ...runtime.distributed import is_main, rank, run_on_all, world_size
from ...runtime.progress import Reporter
from ...training.kernels import restored_determinism
from ...training.log import FILE, LogFile, read_log
from ...training.optimizer import merge_groups
from ...training.runner import unheard_shell
from ...training.samples import seed_everything, seed_of
from .kept_plan import check_plan, kept_of, needed_of, with_tuples, with_tuples_marked

MOST_POINTS = 500
"""Steps of a training that its report shows."""
CHECKPOINTS_A_TRAINING = 20
"""Of a training whose length is counted in steps."""
KEPT_CHECKPOINTS = 2
"""At least, so that one is whole while the next is written."""
STATELESS = ("work_dir", "launcher", "log_level", "resume")
GROUPED = 1
"""Rises where an optimizer's state of before does not fit any more."""
SPEED = ("num_workers", "persistent_workers", "prefetch_factor", "pin_memory")
"""Of a loader: what changes no number."""
OF_CONFIGS = (TypeError, AssertionError, ValueError, FileNotFoundError)
"""What parts of mmdet and mmseg raise where their options do not fit."""
MISFIT = "The model and loaded state dict"
"""So mmengine begins to tell of weights that do not fit."""
NOT_REGISTERED = re.compile(r"['\"]?([\w.]+)['\"]? is not in the ([\w:.\- ]+?) registry")


def build_model(plan: Config | dict[str, Any], device: torch.device) -> nn.Module:
    """The model of a plan, or of what a run keeps of one, from the registries; `model.cfg` is what is kept of the plan,
    tuples and all.

    Raises:
        UnknownNameError: a module that no registry has. ConfigError: it cannot be built.
    """
    from mmengine.registry import init_default_scope

    from ....registry import MODELS

    stored = with_tuples(kept_of(plan) if isinstance(plan, Config) else plan)
    init_default_scope(stored.get("default_scope", "vladapt"))
    with named_faults(), restored_determinism(), quiet_mm():
        model = MODELS.build(Config(deepcopy(stored)).model)
    model.cfg = Config(stored)
    return model.to(device)


def kept_weights(model: nn.Module | None) -> dict[str, torch.Tensor]:
    """What a run keeps of a model; tensors that share memory get their own."""
    if model is None:
        return {}
    return {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}


def train_plan(
    plan: Config,
    folder: Path,
    seed: int,
    device: torch.device,
    reporter: Reporter,
    resume: bool = False,
    change: Callable[[nn.Module], None] | None = None,
) -> tuple[nn.Module, list[dict[str, float]]]:
    """Run a plan; without `train_cfg` its model is built and nothing is trained.

    Args:
        folder: of checkpoints and mmengine's own log.
        resume: go on from the newest checkpoint in it.
        change: of the model, in place, before it has an optimizer and its first weights; which of them train, say.

    Returns:
        The model in eval mode, and a row each of some of the steps: "step", "loss" and its parts.

    Raises:
        ConfigError, UnknownNameError: the plan cannot be run. DataError: the loss is not a number any more.
    """
    check_plan(plan)
    if not plan.get("train_cfg"):
        return _built_as_named(plan, device).eval(), []
    settings = _settings(plan, folder, seed, resume)
    with restored_determinism(), quiet_mm(), ExitStack() as stack, reporter.training_lines("Training") as on_step:
        # Some kernels of a GPU have no deterministic form: they are used, and torch's warnings kept back.
        torch.use_deterministic_algorithms(True, warn_only=True)
        file = LogFile(folder / FILE if is_main() else None, reporter.info)
        recorder = _StepRecorder(on_step, seed, file)
        with named_faults(), unheard_shell():
            # mmengine takes an unknown optimizer for None and fails at that.
            wrapper = settings.get("optim_wrapper") or {}
            name = (wrapper.get("optimizer") or {}).get("type")
            if isinstance(name, str) and OPTIMIZERS.get(name) is None:
                raise KeyError(f"{name} is not in the mmengine::optimizer registry")
            own = {"device": device, "changes": (change,) if change else (), "stack": stack}
            runner = type("PlanRunner", (_PlanRunner,), own).from_cfg(settings)
        runner.register_hook(recorder, priority="BELOW_NORMAL")  # before a checkpoint of what went wrong
        with named_faults():
            runner.train()
    model = _trained(runner).eval()
    model.cfg = Config(with_tuples(kept_of(plan)))
    return model, read_log(folder / FILE) if is_main() else []


def _built_as_named(plan: Config, device: torch.device) -> nn.Module:
    """A model that is used as it is, with the weights that the user's config names."""
    model = build_model(with_tuples_marked(needed_of(plan)), device)
    model.cfg = Config(with_tuples(kept_of(plan)))
    return model


def _trained(runner: Runner) -> nn.Module:
    """The model, with the averaged weights where a hook averages them."""
    for hook in runner.hooks:
        if isinstance(hook, EMAHook):
            hook.before_test_epoch(runner)
    return getattr(runner.model, "module", runner.model)


def plan_key(plan: Config, seed: int) -> str:
    """16 hex digits that say what is trained: the plan, without what changes speed alone, and the seed."""
    identity = {name: value for name, value in plan.to_dict().items() if name not in STATELESS}
    if isinstance(loader := identity.get("train_dataloader"), dict):
        identity["train_dataloader"] = {key: value for key, value in loader.items() if key not in SPEED}
    text = f"{json.dumps(identity, sort_keys=True, default=str)}\n{seed}\n{GROUPED}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def newest_epoch(folder: Path) -> str:
    """ "epoch_3" where that is the newest checkpoint, "" without any."""
    mark = folder / "last_checkpoint"
    return Path(mark.read_text(encoding="utf-8").strip()).stem if mark.is_file() else ""


class _PlanRunner(Runner):
    """A Runner on a device of our choice, whose log is closed with `stack`: mmengine keeps the logger of every Runner,
    with its file open, as long as the process lives."""

    device: torch.device
    changes: tuple[Callable[[nn.Module], None], ...]
    stack: ExitStack

    def build_logger(self, *args: Any, **options: Any) -> MMLogger:
        logger = super().build_logger(*args, **options)
        for handler in logger.handlers:
            if isinstance(handler, logging.FileHandler):
                type(self).stack.callback(handler.close)
                type(self).stack.callback(logger.removeHandler, handler)
        return logger

    def wrap_model(self, model_wrapper_cfg, model):
        device = type(self).device
        for change in type(self).changes:
            change(model)
        if not self.distributed:
            return model.to(device)
        if model_wrapper_cfg is not None or is_model_wrapper(model):
            return super().wrap_model(model_wrapper_cfg, model)
        return MMDistributedDataParallel(
            module=model.to(device),
            device_ids=None if device.type == "cpu" else [_index(device)],
            broadcast_buffers=False,
            find_unused_parameters=self.cfg.find_unused_parameters,
        )

    def build_optim_wrapper(self, optim_wrapper):
        """With one group per set of options: mmengine makes one per weight, and torch steps each by itself."""
        built = super().build_optim_wrapper(optim_wrapper)
        if isinstance(built, OptimWrapper) and type(built.optimizer).__module__.startswith("torch.optim"):
            merge_groups(built.optimizer)
        return built

    def load_checkpoint(self, *args: Any, **options: Any):
        """What mmengine prints of it would stand on stdout, where results are; of weights that do not fit it goes to
        stderr."""
        with redirect_stdout(StringIO()) as printed:
            checkpoint = super().load_checkpoint(*args, **options)
        _, misfit, faults = printed.getvalue().partition(MISFIT)
        if misfit and is_main():
            print(f"{MISFIT}{faults}".strip(), file=sys.stderr)
        return checkpoint


def _index(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index


class _StepRecorder(Hook):
    """Tells the user of each step, keeps some for the report, stops on a loss that is not a number, and draws the
    random numbers of each step from the seed, so that a training goes on from any of them as it would have."""

    def __init__(self, on_step: Callable[[int, int, dict], None], seed: int, file: LogFile):
        self.on_step, self.seed, self.file = on_step, seed, file

    def before_train(self, runner) -> None:
        self.file.start(runner.iter)  # a resume comes before it

    def before_train_epoch(self, runner) -> None:
        seed_everything(seed_of(self.seed, rank(), runner.epoch))
        dataset = runner.train_dataloader.dataset
        if hasattr(dataset, "set_epoch"):
            dataset.set_epoch(runner.epoch)

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        run_on_all(lambda: None)  # an error on one process is heard here by the others, before they wait for gradients
        seed_everything(seed_of(self.seed, rank(), runner.epoch, runner.iter))

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        scalars = {name: float(value) for name, value in (outputs or {}).items() if _is_number(value)}
        losses = [value for name, value in scalars.items() if "loss" in name]
        loss = scalars.get("loss", sum(losses) if losses else math.nan)
        rate = max(group["lr"] for group in runner.optim_wrapper.optimizer.param_groups)
        if not math.isfinite(loss):
            raise DataError(
                f"training stopped at step {runner.iter + 1}: the loss is {loss}; try a smaller --lr (now {rate:.3g}), "
                "gradient clipping, or --amp bf16 in place of fp16; checkpoints before it are kept"
            )
        self.on_step(runner.iter + 1, runner.max_iters, {"loss": loss, "lr": rate})
        every = max(1, runner.max_iters // MOST_POINTS)
        if (runner.iter + 1) % every == 0:
            self.file.add({"step": runner.iter + 1, "loss": loss, "lr": rate, **scalars})


def _settings(plan: Config, folder: Path, seed: int, resume: bool) -> Config:
    settings = Config(plan.to_dict(), format_python_code=False)  # mmengine writes it out with every checkpoint
    settings.work_dir = str(folder)
    settings.resume = resume and bool(newest_epoch(folder))
    if settings.resume:
        settings.load_from = None  # else mmengine would resume from the weights that the training began with
    settings.experiment_name = f"vladapt-{time.time_ns()}"
    settings.log_level = "ERROR"
    settings.setdefault("default_scope", "vladapt")
    randomness = settings.get("randomness") or {}
    settings.randomness = {**randomness, "seed": seed if randomness.get("seed") is None else randomness["seed"]}
    _set_checkpoints(settings)
    settings.custom_hooks = list(settings.get("custom_hooks") or [])
    if world_size() > 1:
        settings.launcher = "pytorch"
        settings.setdefault("find_unused_parameters", True)
    return settings


def _set_checkpoints(settings: Config) -> None:
    """Where the plan does not say when: after each epoch, or often enough in a training counted in steps."""
    hooks = dict(settings.get("default_hooks") or {})
    hook = hooks.get("checkpoint", {"type": "CheckpointHook"})
    if hook is None:
        return
    hook = {"interval": 1, **hook, "max_keep_ckpts": max(hook.get("max_keep_ckpts", 0), KEPT_CHECKPOINTS)}
    steps = settings.train_cfg.get("max_iters")
    if steps:
        often = max(1, steps // CHECKPOINTS_A_TRAINING)
        interval = often if hook.get("by_epoch", True) else min(hook.get("interval", often), often)
        hook = {**hook, "by_epoch": False, "interval": interval}
    settings.default_hooks = {**hooks, "checkpoint": hook}


@contextmanager
def quiet_mm() -> Iterator[None]:
    """Lines and warnings of the mm packages are kept back: what a user needs of them, ours say."""
    import warnings

    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) or (isinstance(value, torch.Tensor) and value.numel() == 1)


@contextmanager
def named_faults() -> Iterator[None]:
    """A context that raises what comes out of it as one of our errors: which name is unknown, what cannot be built,
    which sample cannot be made. Errors that say nothing of either pass."""
    try:
        yield
    except Exception as error:
        named = _named(error)
        if named is error:
            raise
        raise named from error


def _named(error: Exception) -> Exception:
    line, of_worker = _line(error)
    if isinstance(error, VladaptError):
        return type(error)(line) if of_worker else error
    unknown = NOT_REGISTERED.search(line)
    if unknown:
        name, registry = unknown.groups()
        nearest = did_you_mean(name, _registered())
        return UnknownNameError(f"the config names '{name}', which no registry has ({registry}); {nearest}")
    if isinstance(error, KeyError):
        return ConfigError(f"the config lacks the key {line}; --debug shows where")
    if isinstance(error, OF_CONFIGS):
        return ConfigError(f"the config cannot be run: {line.rstrip('.')}; --debug shows where")
    if of_worker:
        return DataError(f"a training sample cannot be made: {line.rstrip('.')}; --debug shows where")
    return error


def _line(error: Exception) -> tuple[str, bool]:
    """The line that says what happened, and whether it happened in a process that makes samples: of such an error the
    text is a whole traceback, whose end counts."""
    text = str(error.args[0]) if error.args and not isinstance(error, OSError) else str(error)
    lines = text.strip().splitlines() or [type(error).__name__]
    if not IN_WORKER.match(lines[0]):
        return lines[0], False
    kind, colon, message = lines[-1].partition(": ")
    return (message if colon else kind), True


def _registered() -> list[str]:
    """Names that configs may use, as they would write them."""
    from mmengine import registry

    roots = (registry.MODELS, registry.DATASETS, registry.TRANSFORMS, registry.METRICS, registry.HOOKS)
    roots += (registry.OPTIMIZERS, registry.OPTIM_WRAPPERS, registry.PARAM_SCHEDULERS)
    names: list[str] = []
    for root in roots:
        names += list(root.module_dict)
        for scope, child in root.children.items():
            names += [*child.module_dict, *(f"{scope}.{name}" for name in child.module_dict)]
    return names
