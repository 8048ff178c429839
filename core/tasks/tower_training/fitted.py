"""A training of towers: how it is done, what it gives, and what a run keeps of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ...backbones.load import save_fine_tuned
from ...contracts.adapter import Adapter, FitReport
from ...contracts.backbone import Backbone
from ...contracts.images import TrainingPlace
from ...contracts.judgement import Findings
from ...contracts.options import TOLERATED
from ...contracts.run_info import FittedRun
from ...errors import DataError
from ...registry import load_adapter
from ...runs.folder import Run
from ...runtime.progress import Reporter
from ...training.sources import TrainingSource

ZERO_SHOT = "zero-shot"
NOTHING = "nothing"
"""In the file of weights of a run that trained none."""


@dataclass(frozen=True)
class Training:
    """A method, and how towers are trained and images encoded.

    Args:
        adapter: not fitted; None for zero-shot, which trains nothing.
        seed: of everything random.
        chooses: whether somebody said which epoch is kept.
        resume: go on from the newest checkpoint.
        amp, workers: of the encoding.
        tolerate: share of the samples that may be unreadable.
        hooks: of `TrainingPlace`.
    """

    adapter: Adapter | None
    seed: int
    chooses: bool = False
    resume: bool = False
    amp: str | None = None
    workers: int | None = None
    tolerate: float = TOLERATED
    hooks: Sequence[Mapping[str, Any]] = ()

    @property
    def name(self) -> str:
        """Of the method."""
        return ZERO_SHOT if self.adapter is None else self.adapter.name

    def fit_pairs(
        self, source: TrainingSource, backbone: Backbone, reporter: Reporter, folder: Path | None, of: str, **how: Any
    ) -> FitReport:
        """Fit the adapter on samples, and say how it goes.

        Args:
            folder: of checkpoints, or None.
            of: what the samples are, in words.
            how: further arguments of the adapter's `fit_pairs`.
        """
        reporter.info(f"Fitting {self.name} on {of}")
        with reporter.training_lines(f"Training {self.name}", self.adapter.options.get("log_every")) as on_step:
            resume = bool(self.resume and folder)
            place = TrainingPlace(folder, resume, on_step, reporter.info, hooks=self.hooks, tolerate=self.tolerate)
            return self.adapter.fit_pairs(source, backbone, place=place, seed=self.seed, **how)


@dataclass
class FittedTowers:
    """A training and its scores.

    Attributes:
        adapter: None of a fit that trains nothing.
        towers: the backbone as it is after the fit.
        before, after: scores on the test part; before is None of a fit that trains nothing.
        metrics: of both.
        notes: sentences for the user.
        findings: of the task's judgements, which are made when the rest is there.
    """

    adapter: Adapter | None
    report: FitReport
    backbone: Backbone
    towers: Backbone
    before: Any
    after: Any
    metrics: dict[str, Any]
    notes: list[str]
    seconds: float
    findings: Findings = field(default_factory=lambda: Findings({}))


class DataFacts(Protocol):
    """What run.json says of a data set; `DomainData` and sets of pairs have it."""

    name: str
    licence: str
    skipped: Sequence[Sequence[str]]
    notes: Sequence[str]
    reading: Mapping[str, Any]


def trained_towers(run: FittedRun, backbone: Backbone) -> Backbone:
    """The backbone as the run trained it.

    Raises:
        DataError: the weights of the run are damaged.
    """
    if run.info.adapter == ZERO_SHOT:
        _check_untrained(run.adapter_path)
        return backbone
    return load_adapter(run.adapter_path, backbone).adapted(backbone)


def _check_untrained(path: Path) -> None:
    """Raise the DataError of a file that is not what a run without a training keeps."""
    try:
        whole = load_file(path).keys() == {NOTHING}
    except (OSError, SafetensorError):
        whole = False
    if not whole:
        raise DataError(f"{path}: damaged, or from another run; copy the run again")


def saved_model(done: FittedTowers, run: Run) -> Path | str:
    """The adapter, and the towers as a backbone, whose path is returned; of zero-shot a file that says so."""
    if done.adapter is None:
        save_file({NOTHING: torch.zeros(1)}, run.adapter_path, metadata={"adapter": ZERO_SHOT})
        return ""
    done.adapter.save(run.adapter_path)
    return save_fine_tuned(done.towers, run.path)
