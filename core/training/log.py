"""The log of a training: a line of values every few steps, as JSON in a file and, if asked, to mmengine's visualisers.

A line is one JSON object. Losses, their parts and the gradient norm are means over the steps since the line before, or
since a resume; the learning rate, the logit scale and the memory are those of its own step. What is not finite is null.

| key | is |
|---|---|
| `step`, `epoch` | optimiser steps and epochs done, of all stages; an epoch may be a fraction |
| `stage` | from 1, where a training has several |
| `loss`, names of losses, `NAME.PART` | the sum that is minimised, each loss before its weight, its parts |
| `grad_norm`, `lr`, `logit_scale` | norm of the whole gradient before clipping; highest learning rate; logit scale |
| `images_per_second` | of all processes together, without validation and checkpoints |
| `data_wait` | share of the time that rank 0 waited for its samples, 0 to 1 |
| `memory_gib` | peak of rank 0 so far: allocated on the GPU, on a CPU of the whole process |
| `val` | score on val, at the last step of an epoch that was scored |
| `source.NAME.loss`, `.samples`, `.val` | of several sources: loss of its rows (`SourceLosses`), seen so far, score |
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from ..contracts.images import LOG_FILE as FILE
from ..errors import ConfigError, UnknownNameError, did_you_mean
from ..runtime.files import write_whole

SCORE = "val"
"""What the score on val is called, for hooks and in the file."""
LOG_LINES, MOST_STEPS = 200, 100
"""Of a training whose `log_every` is not given: about so many lines, so many steps apart at most."""
WORK = "mmengine"
"""Folder beside the file: what hooks of the user's own write."""
BACKENDS = {
    "tensorboard": ("TensorboardVisBackend", "tensorboard"),
    "wandb": ("WandbVisBackend", "wandb"),
    "mlflow": ("MLflowVisBackend", "mlflow"),
}
"""Name -> class among mmengine's visualisers, and the package it needs."""


def log_interval(every: int | None, steps: int) -> int:
    """Steps between two lines, where a training has `steps` in all."""
    return min(max(1, steps // LOG_LINES), MOST_STEPS) if every is None else every


def read_interval(device: torch.device, every: int | None, steps: int) -> int:
    """Steps after which values are read from a device: those of the log. On a CPU nobody waits for them."""
    return 1 if device.type == "cpu" else log_interval(every, steps)


def read_together(rows: Sequence[Mapping[str, torch.Tensor]]) -> list[dict[str, float]]:
    """Scalars by name, of several steps, as numbers: the host waits for the device once."""
    scalars = [value.reshape(()) for row in rows for value in row.values()]
    if not scalars:
        return [{} for _ in rows]
    numbers = iter(torch.stack([value.to(scalars[0].device) for value in scalars]).tolist())
    return [{name: next(numbers) for name in row} for row in rows]


def check_backends(names: str | Sequence[str]) -> str | Sequence[str]:
    """For `option(parse=...)`: the names as they are.

    Raises:
        UnknownNameError: no visualiser of that name. ConfigError: the package it needs is not installed.
    """
    for name in names.split(",") if isinstance(names, str) else names:
        name = str(name).strip()
        if name in BACKENDS:
            package = BACKENDS[name][1]
            if find_spec(package) is None:
                raise ConfigError(
                    f"{name} needs the package '{package}'; install it with: pip install {package}, or omit it: "
                    f"{FILE} is written anyway"
                )
        elif name and name not in _registered():
            raise UnknownNameError(f"there is no visualiser '{name}'; {did_you_mean(name, BACKENDS)}")
    return names


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log, by step; a line that was not written to its end is left out. Empty without a file."""
    rows = []
    with suppress(FileNotFoundError):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError):
                row = json.loads(line)
                if isinstance(row, dict) and isinstance(row.get("step"), int):
                    rows.append(row)
    return rows


def keep_logs(folder: Path, run: Path) -> None:
    """Move what a training logged in the folder of its checkpoints, which goes, into the folder of its run.

    Args:
        folder: may hold no log.
    """
    for path in sorted(folder.rglob(FILE)):
        to = run / path.parent.relative_to(folder)
        to.mkdir(parents=True, exist_ok=True)
        shutil.move(path, to / FILE)
        for name in os.listdir(path.parent):
            if name == WORK or name in BACKENDS or name in _registered():
                shutil.move(path.parent / name, to / name)


class LogFile:
    """A file of lines whose steps rise, each on disk as soon as it is written.

    Args:
        path: of the file; None writes nothing.
        on_message: called once if the file cannot be written. A training goes on without its log.
    """

    def __init__(self, path: Path | None, on_message: Callable[[str], None] = lambda line: None):
        self.path, self.on_message = path, on_message
        self._told = self._torn = False
        self._last: dict[str, Any] | None = None

    def start(self, step: int, stage: int | None = None) -> None:
        """Drop what was written after a step, which will be done again. Lines of other stages stay.

        Args:
            step: done; 0 begins a new file.
            stage: whose steps are done again, or None where a training has no stages.
        """

        def keep() -> None:
            rows = read_log(self.path) if step else []
            earlier = [row for row in rows if row["step"] <= step or row.get("stage") != stage]
            self._last = earlier[-1] if earlier else None
            write_whole(self.path, "".join(map(_line, earlier)))

        self._try(keep)

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a line."""
        self._last = dict(row)
        self._try(lambda: self._append(_line(row)))

    def amend(self, row: Mapping[str, Any]) -> None:
        """Values of the step of the last line that were known after it; a line of its own where there is none."""
        if self._last is None or row["step"] > self._last["step"]:
            self.add(row)
        elif row["step"] == self._last["step"]:
            self._last |= row
            self._try(self._rewrite_last)

    def _append(self, line: str) -> None:
        with self.path.open("a", encoding="utf-8") as handle:
            handle.write("\n" + line if self._torn else line)
        self._torn = False

    def _rewrite_last(self) -> None:
        """In place and longer than before, so that who follows the file sees no gap."""
        with self.path.open("r+b") as handle:
            whole = handle.read()
            handle.seek(whole.rfind(b"\n", 0, len(whole) - 1) + 1)
            handle.write(_line(self._last).encode())
            handle.truncate()

    def _try(self, write: Callable[[], None]) -> None:
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write()
        except Exception as error:
            self._torn = True  # perhaps half a line stands there
            if not self._told:
                self._told = True
                self.on_message(f"{self.path}: cannot be written ({_reason(error)}); the training continues without it")


class Visualisers:
    """mmengine's visualisers that a training tells its values; what one of them raises later ends it, not the training.

    Args:
        names: of `BACKENDS`, or of classes registered in mmengine's VISBACKENDS.
        folder: each has a folder of its own in it.
        settings: told once, at the start.

    Raises:
        ConfigError: one cannot be started.
    """

    def __init__(self, names: Iterable[str], folder: Path, settings: Mapping[str, Any], on_message):
        self.on_message = on_message
        self._open = {name: _started(name, folder / name, settings) for name in names}

    def add(self, row: Mapping[str, Any]) -> None:
        """The finite numbers of a line, at its step."""
        values = {key: value for key, value in row.items() if key != "step" and value is not None}
        self._each(lambda backend: backend.add_scalars(values, step=row["step"]))

    def of_mmengine(self) -> list[Any]:
        """Those that a hook of the user's may reach by `runner.visualizer`."""
        from mmengine.visualization import BaseVisBackend

        return [each for each in self._open.values() if isinstance(each, BaseVisBackend)]

    def close(self) -> None:
        self._each(lambda backend: backend.close())
        self._open = {}

    def _each(self, call: Callable[[Any], None]) -> None:
        for name, backend in list(self._open.items()):
            try:
                call(backend)
            except Exception as error:
                del self._open[name]
                self.on_message(f"log_to={name}: {_reason(error)}; it gets no more lines, {FILE} still does")


def _line(row: Mapping[str, Any]) -> str:
    """With the digits that single precision has; JSON has no NaN and no infinity."""
    return json.dumps({key: _short(value) for key, value in row.items()}) + "\n"


def _short(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return float(f"{value:.7g}") if math.isfinite(value) else None


def _registered() -> Mapping[str, type]:
    import mmengine.visualization  # noqa: F401 (registers its own)
    from mmengine.registry import VISBACKENDS

    return VISBACKENDS.module_dict


def _started(name: str, folder: Path, settings: Mapping[str, Any]):
    """A visualiser that was told the settings: it then has whatever it needs, or says what it lacks."""
    from mmengine import Config

    check_backends([name])
    folder.mkdir(parents=True, exist_ok=True)
    kind = _registered()[BACKENDS[name][0] if name in BACKENDS else name]
    options = {
        "wandb": {"define_metric_cfg": [{"name": "*", "step_metric": "epoch"}]},  # it is told no steps by mmengine
        "mlflow": {"tracking_uri": os.environ.get("MLFLOW_TRACKING_URI"), "artifact_suffix": ()},
    }
    try:
        backend = kind(save_dir=str(folder), **options.get(name, {}))
        backend.add_config(Config({**settings, "work_dir": str(folder)}, format_python_code=False))
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"log_to={name}: cannot be started ({_reason(error)}); omit it, or set it up first"
        ) from error
    return backend


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or (" ".join(str(error).split()) or type(error).__name__)[:200]
