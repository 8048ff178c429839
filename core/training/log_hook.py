"""The hook that writes the log of a training, in a file of its own: only trainings need mmengine."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.visualization import Visualizer

from ..contracts.images import LogPlace
from ..runtime.distributed import is_main, run_on_all
from .log import LogFile, Visualisers, log_interval, read_together
from .source_losses import SourceLog


class LogHook(Hook):
    """Writes the log of a training. Values are read from the device at log steps only.

    Args:
        place: where; None writes nothing.
        every: steps between two lines, as the user said, each of which is then told too; None: see `log_interval`.
        backends: names for `Visualisers`.
        settings: of the training, for these.
        batch_size: samples of a step, of all processes.
        scored: whether the last step of each epoch has a line, which the score on val joins.
        on_message: called with a sentence for each line, where `every` is given.
        sources: what is told of each of several sources, or None.
    """

    priority = "NORMAL"

    def __init__(
        self,
        place: LogPlace | None,
        every: int | None,
        backends: Sequence[str],
        settings: Mapping[str, Any],
        batch_size: int,
        scored: bool,
        on_message: Callable[[str], None],
        sources: SourceLog | None = None,
    ):
        self.place, self.every, self.backends, self.settings = place or LogPlace(None), every, backends, settings
        self.batch_size, self.scored, self.on_message, self.sources = batch_size, scored, on_message, sources
        self.file = LogFile(self.place.path if is_main() else None, on_message)
        self.visualisers: Visualisers | None = None
        self._started = False
        self._clear()

    def due(self, runner) -> bool:
        """Whether the step that was just done has a line."""
        done, steps = runner.iter + 1, runner.max_iters
        if done == steps or done % log_interval(self.every, steps) == 0:
            return True
        return self.scored and done % runner.train_loop.steps_an_epoch == 0

    def before_train_epoch(self, runner) -> None:
        if not self._started:  # here, since a resume comes before it
            self._started = True
            run_on_all(lambda: self._start(runner) if self.file.path is not None else None)

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        self._waited += runner.train_loop.waited
        self._busy += runner.train_loop.waited
        self._since = time.perf_counter()

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        for name, value in outputs.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._steps += 1
        row = self._row(runner) if self.due(runner) else None
        self._busy += time.perf_counter() - self._since
        if row is None:
            return
        row |= self._speed(runner)
        self._clear()
        self.file.add(row)
        if self.visualisers is not None:
            self.visualisers.add(row)
        if self.every is not None:
            self.on_message(_in_words(row, self.place.steps + runner.max_iters))

    def after_val_epoch(self, runner, metrics: dict[str, float]) -> None:
        """The score joins the line of the epoch's last step."""
        row = {**self._place(runner.iter, runner.train_loop.steps_an_epoch), **metrics}
        self.file.amend(row)
        if self.visualisers is not None:
            self.visualisers.add(row)

    def close(self) -> None:
        """After the training and all that hooks do at its end, or after an error."""
        if self.visualisers is not None:
            self.visualisers.close()
            self.visualisers = None

    def _start(self, runner) -> None:
        self.file.start(self.place.steps + runner.iter, self.place.stage)
        if self.backends:
            folder = self.file.path.parent
            self.visualisers = Visualisers(self.backends, folder, self.settings, self.on_message)
            runner.visualizer = Visualizer("vladapt", vis_backends=self.visualisers.of_mmengine())

    def _clear(self) -> None:
        self._sums: dict[str, Any] = {}
        self._steps, self._busy, self._waited, self._since = 0, 0.0, 0.0, time.perf_counter()

    def _place(self, done: int, an_epoch: int) -> dict[str, Any]:
        place = self.place
        stage = {} if place.stage is None else {"stage": place.stage}
        return {"step": place.steps + done, "epoch": round(place.epochs + done / an_epoch, 4), **stage}

    def _row(self, runner) -> dict[str, Any]:
        """Reads from the device, on every rank: a value may be cut over them."""
        model = getattr(runner.model, "module", runner.model)
        sums, scale = read_together([self._sums, {"logit_scale": model.backbone.logit_scale.detach()}])
        done, of_sources = runner.iter + 1, {}
        if self.sources is not None:
            of_sources = self.sources.keys(self.sources.taken_out(sums), done - self._steps, done)
        return {
            **self._place(runner.iter + 1, runner.train_loop.steps_an_epoch),
            **{name: total / self._steps for name, total in sums.items()},
            "lr": max(group["lr"] for group in runner.optim_wrapper.optimizer.param_groups),
            **scale,
            **of_sources,
        }

    def _speed(self, runner) -> dict[str, Any]:
        device = getattr(runner.model, "module", runner.model).backbone.device
        return {
            "images_per_second": round(self._steps * self.batch_size / max(self._busy, 1e-9), 2),
            "data_wait": round(self._waited / max(self._busy, 1e-9), 4),
            "memory_gib": _peak_memory(device),
        }


def _in_words(row: Mapping[str, Any], steps: int) -> str:
    return (
        f"Step {row['step']}/{steps}: loss {row['loss']:.4f}, learning rate {row['lr']:.2e}, gradient norm "
        f"{row['grad_norm']:.3g}, {row['images_per_second']:,.1f} images/s, {row['data_wait']:.0%} of the time waiting "
        f"for data"
    )


def _peak_memory(device: torch.device) -> float | None:
    """GiB; None where the system does not tell."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**30, 3)
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**30 if sys.platform == "darwin" else 2**20), 3)
