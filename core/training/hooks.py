"""What happens around the steps of a run: progress, resume, the watch over the loss, validation, averages."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from ..errors import ConfigError, DataError, UnknownNameError, did_you_mean
from ..runtime.distributed import rank
from .log import SCORE, read_together
from .model import inner_model
from .samples import BrokenSamples, seed_of, seed_torch
from .sharding import whole
from .source_losses import PREFIX as SOURCES
from .tower_weights import all_weights, follow

EXPLODED = 30.0
"""A loss this many times its mean over the first steps has run away."""
FIRST_STEPS = 20


@dataclass(frozen=True)
class DoneStep:
    """A step whose values are on the device still.

    Args:
        number: from 1.
        epoch: from 1.
        values: scalars, by name.
        lr: highest rate of the step.
        rows: (B,) of its samples on this rank.
    """

    number: int
    epoch: int
    values: Mapping[str, torch.Tensor]
    lr: float
    rows: torch.Tensor


def check_registered(hooks: Sequence[Mapping[str, Any]]) -> None:
    """Raise the UnknownNameError of a hook that is not registered."""
    for name in (each["type"] for each in hooks):
        if isinstance(name, str) and HOOKS.get(name) is None:
            raise UnknownNameError(
                f"--set custom_hooks: there is no hook '{name}'; {did_you_mean(name, HOOKS.module_dict)}; a class of "
                "your own is registered by mmengine's HOOKS.register_module, in a module of the config's custom_imports"
            )


def built_hooks(hooks: Sequence[Mapping[str, Any]]) -> list[Hook]:
    """Hooks of mmengine's, or of the user's own, from their names and options.

    Raises:
        UnknownNameError: one is not registered. ConfigError: one cannot be made with these options.
    """
    check_registered(hooks)
    built = []
    for config in hooks:
        options = {key: value for key, value in config.items() if key != "priority"}
        try:
            hook = HOOKS.build(options)
        except Exception as error:
            reason = " ".join(str(error).split())
            raise ConfigError(f"--set custom_hooks: {config['type']} cannot be made ({reason}); change it") from error
        hook.priority = config.get("priority", hook.priority)
        built.append(hook)
    return built


class StepHook(Hook):
    """Before a step the model learns how far the training is; after it, history and broken samples are noted.

    Values stay on the device, where the host need not wait for them, until several steps are read at once: every
    `read_every` steps, before a checkpoint and at the end of an epoch.

    Args:
        history: of the run.
        broken: where unreadable samples are noted.
        on_step: called with (steps done, all steps, values) for each, once it is read.
        seed: of what towers draw, on each rank its own.
        read_every: steps.
        save_every: steps between checkpoints; None: an epoch.
    """

    priority = "VERY_HIGH"

    def __init__(
        self,
        history: History,
        broken: BrokenSamples,
        on_step: Callable[[int, int, dict], None],
        seed: int,
        read_every: int = 1,
        save_every: int | None = None,
    ):
        self.history, self.broken, self.on_step, self.seed = history, broken, on_step, seed
        self.read_every, self.save_every = read_every, save_every
        self._unread: list[DoneStep] = []

    def before_run(self, runner) -> None:
        seed_torch(seed_of(self.seed, rank()))  # each rank drops out units of its own; a resume sets it again

    def before_train_epoch(self, runner) -> None:
        if runner.train_loop.fresh_epoch:
            self.history.start_epoch(runner.epoch)

    def after_train_epoch(self, runner) -> None:
        self._read(runner)
        self.broken.gather()

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        model_of(runner).progress = runner.iter / max(1, runner.max_iters)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        self.broken.note(data_batch["broken"])
        lr = max(group["lr"] for group in runner.optim_wrapper.optimizer.param_groups)
        done = DoneStep(runner.iter + 1, runner.epoch + 1, outputs, lr, data_batch["index"])
        self._unread.append(done)
        if done.number % self.read_every == 0 or saves_after(done.number, runner, self.save_every):
            self._read(runner)

    def _read(self, runner) -> None:
        steps, self._unread = self._unread, []
        for step, values in zip(steps, read_together([step.values for step in steps])):
            values["lr"] = step.lr
            _watch(values, runner, step)
            self.history.add({name: value for name, value in values.items() if not name.startswith(SOURCES)})
            self.on_step(step.number, runner.max_iters, values)


def saves_after(done: int, runner, save_every: int | None) -> bool:
    """Whether there is a checkpoint after so many steps."""
    return done % (save_every or runner.train_loop.steps_an_epoch) == 0 or done == runner.max_iters


def _watch(values: dict[str, float], runner, step: DoneStep) -> None:
    """Stop a run whose loss or gradient is not a number, or has run away.

    Raises:
        DataError: names the step and its samples, and what to try.
    """
    loss, norm = values["loss"], values["grad_norm"]
    scaled = runner.optim_wrapper.scaler.is_enabled()  # an infinite gradient is then a step left out, no more
    early = runner.message_hub.get_info("vladapt_first_losses") if step.number > 1 else []
    early = list(early or [])
    if math.isfinite(loss) and (math.isfinite(norm) or scaled):
        if len(early) < FIRST_STEPS:
            runner.message_hub.update_info("vladapt_first_losses", [*early, abs(loss)])
            return
        if abs(loss) <= EXPLODED * max(1.0, sum(early) / len(early)):
            return
    what = f"loss {loss:.4g}, gradient norm {norm:.4g}"
    rows = step.rows.tolist()
    named = ", ".join(map(str, rows[:8])) + (", ..." if len(rows) > 8 else "")
    raise DataError(
        f"training stopped at step {step.number} (epoch {step.epoch}, {what}) on rows {named}; try a smaller "
        f"--lr (now {values['lr']:.3g}), more warm-up, clip_grad=1, or --amp bf16 in place of fp16; checkpoints before "
        "it are kept"
    )


class BeforeEpochHook(Hook):
    """Losses that look at the whole training set first (prototypes) are given a way to do it.

    Args:
        extract: names of outputs -> (N, ...) of the training set.
    """

    def __init__(self, extract: Callable[[list[str]], dict[str, torch.Tensor]]):
        self.extract = extract

    def before_train_epoch(self, runner) -> None:
        if runner.train_loop.fresh_epoch:  # after a resume within an epoch, what was made then is in the checkpoint
            with whole(model_of(runner)):
                model_of(runner).objective.call("before_epoch", self.extract)


class AverageHook(Hook):
    """A moving average of the towers' weights. mmengine's EMAHook averages all that is trained, losses and teachers
    too, whole on each process, and by one share from the first step on.

    Args:
        average: weights by name, a copy of the towers'.
        keep: share of itself it keeps in a step.
    """

    def __init__(self, average: Mapping[str, torch.Tensor], keep: float):
        self.average, self.keep = average, keep

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        done = runner.iter + 1
        follow(self.average, all_weights(model_of(runner).towers), min(self.keep, (1 + done) / (10 + done)))


class ValidationHook(Hook):
    """The best weights on val are kept, and too long without better ones ends the run. mmengine's EarlyStoppingHook
    forgets its best score where a run is resumed, and takes an equal one for better.

    Args:
        history: of the run, which is told the score.
        patience: epochs without a better score, or None.
        best: holds "score", "epoch" and "state" of the best epoch.
        state_of: () -> what is to be kept of the best epoch.
    """

    def __init__(self, history: History, patience: int | None, best: dict[str, Any], state_of):
        self.history, self.patience, self.best, self.state_of = history, patience, best, state_of

    def after_val_epoch(self, runner, metrics: dict[str, float]) -> None:
        score, epoch = metrics[SCORE], runner.epoch - 1
        self.history.end_epoch(val=score)
        if self.best.get("score") is None or score > self.best["score"]:
            self.best.update(score=score, epoch=epoch, state=self.state_of())
        if self.patience is not None and epoch - self.best["epoch"] >= self.patience:
            runner.train_loop.stop_training = True


def model_of(runner):
    """The model inside whatever wraps it."""
    return inner_model(runner.model)


class EpochRateHook(Hook):
    """One learning rate per epoch. mmengine's schedulers multiply a rate by a ratio from epoch to epoch, which rounds
    otherwise than the published closed forms of `schedules.py`.

    Args:
        shares: of each parameter group's own rate, one per epoch.
    """

    def __init__(self, shares: Sequence[float]):
        self.shares = shares

    def before_run(self, runner) -> None:
        for group in runner.optim_wrapper.optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])  # a resume, which comes after this, has the same

    def before_train_epoch(self, runner) -> None:
        for group in runner.optim_wrapper.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * self.shares[runner.epoch]


class StepRateHook(EpochRateHook):
    """The same, one rate per step."""

    def before_train_epoch(self, runner) -> None:
        pass

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        for group in runner.optim_wrapper.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * self.shares[runner.iter]


class EpochAverageHook(Hook):
    """The weights at the ends of epochs, averaged by a Gaussian over the epochs: after the last one, sum_e g_e w_e with
    g_e = N(e; mean, deviation) and sum_e g_e = 1, e from 1.

    Khattak et al., Self-regulating Prompts: Foundational Model Adaptation without Forgetting (PromptSRC), 2023,
    arXiv 2307.06948, section 3.2.2. In between, the average holds that of the epochs so far. With a deviation
    beyond all epochs it is their plain mean.

    Args:
        average: weights by name, a copy of the towers'.
        gaussian: mean and deviation, in epochs.
        first: the epoch from which it counts, from 1; until then the average is the weights of now.
    """

    def __init__(self, average: Mapping[str, torch.Tensor], gaussian: tuple[float, float], first: int = 1):
        self.average, self.gaussian, self.first = average, gaussian, first

    def after_train_epoch(self, runner) -> None:
        share = newest_share(max(1, runner.epoch + 2 - self.first), *self.gaussian)
        follow(self.average, all_weights(model_of(runner).towers), 1 - share)


def newest_share(epochs: int, mean: float, deviation: float) -> float:
    """Share of the last of so many epochs in the Gaussian average over them. In logarithms, since far from the mean all
    of its values vanish."""
    logs = -0.5 * ((torch.arange(1, epochs + 1, dtype=torch.float64) - mean) / deviation) ** 2
    return float((logs[-1] - logs.logsumexp(dim=0)).exp())


class History:
    """Means of the values of the steps, one epoch per row."""

    def __init__(self):
        self.rows: list[dict[str, float]] = []
        self._sums: dict[str, float] = {}
        self._count = 0
        self._epoch = 0

    def start_epoch(self, epoch: int) -> None:
        """The next values belong to this epoch, from 0."""
        self._close()
        self._epoch, self._sums, self._count = epoch, {}, 0

    def add(self, values: dict[str, float]) -> None:
        """The values of a step."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._count += 1

    def end_epoch(self, **values: float) -> None:
        """Close the epoch, with values of its end."""
        self._close()
        if self.rows:
            self.rows[-1].update(values)

    def finished(self) -> list[dict[str, float]]:
        """All rows, the last epoch's among them."""
        self._close()
        return self.rows

    def state(self) -> dict[str, Any]:
        """JSON-able."""
        return {"rows": self.rows, "sums": self._sums, "count": self._count, "epoch": self._epoch}

    def restore(self, state: dict[str, Any]) -> None:
        """As it was when `state` was taken."""
        self.rows, self._sums = list(state["rows"]), dict(state["sums"])
        self._count, self._epoch = state["count"], state["epoch"]

    def _close(self) -> None:
        if not self._count:
            return
        means = {name: total / self._count for name, total in self._sums.items()}
        self.rows.append({"epoch": self._epoch + 1, **means, "lr": self._sums["lr"] / self._count})
        self._sums, self._count = {}, 0
