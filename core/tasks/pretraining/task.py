"""Pre-training as a task: a backbone is trained on image-text pairs; the model serves as a `--backbone`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

from ...contracts.adapter import FitReport
from ...contracts.domain import Domain
from ...contracts.options import option
from ...contracts.recipe import KEYS, Recipe
from ...contracts.sources import NamedSource, sources_in
from ...contracts.task import FitResult, Task
from ...errors import ConfigError
from ...runtime.progress import Reporter
from ...training.objective import parse_losses
from ...training.settings import TrainingSettings
from ..retrieval.comparison import RetrievalComparison
from ..retrieval.tables import retrieval_table
from .pairs import CLASSIFIED
from .pretrain import CAPTIONED, PretrainPlan, run_plan

SETTINGS = frozenset(f.name for f in fields(TrainingSettings))


@dataclass(frozen=True, kw_only=True)
class PretrainingOptions(TrainingSettings):
    """Settings of the training, and what it minimises."""

    loss: tuple[str, ...] = option(("clip",), "NAME or NAME=WEIGHT of each loss")
    loss_options: dict[str, Any] = option(help="loss -> its options", factory=dict)
    teacher: tuple[str, ...] = option((), "teacher backbones, for losses that distil")
    teacher_features: tuple[str, ...] = option(
        (), "folders of features that `embed --as parquet` wrote for teachers, one for each stored view"
    )
    inherit: bool = option(False, "start from the part of the first teacher's weights that there is room for")


class Pretraining(Task):
    """Contrastive training on pairs."""

    takes: ClassVar = frozenset(
        {"data", "backbone", "image_size", "amp", "batch_size", "generic", "resume", "adapter", "custom_hooks"}
        | {"sources"}
    )
    options: ClassVar = PretrainingOptions
    needs_domain: ClassVar = False
    data_of: ClassVar = CAPTIONED
    unused: ClassVar = {
        "adapter": "pre-training fits no adapter; its settings are --epochs, --lr, --loss and --set NAME=value",
        "shots": "counts images per class; pre-training takes all training pairs; omit it",
    }
    refusals: ClassVar = {
        "evaluate": "a pre-trained backbone is scored by its own report; use it as --backbone",
        "predict": "use a pre-trained backbone with --backbone",
        "compare": "pre-trainings are not compared: each writes its own backbone and report; omit --task",
    }

    @classmethod
    def check_domain(cls, domain: Domain) -> None:
        """Labelled images will do for some losses."""
        if CLASSIFIED not in domain.task_names:
            super().check_domain(domain)

    def check(self, recipe: Recipe) -> None:
        if not recipe.out:
            raise ConfigError("--out is missing: the folder for the model, its report and its checkpoints")
        for key in recipe.adapter:
            if key != "name" and key not in SETTINGS | {"loss"}:
                raise ConfigError(f"--set adapter.{key}: {self.unused['adapter']}")
        if recipe.adapter_name is not None:
            raise ConfigError(f"--adapter {recipe.adapter_name}: {self.unused['adapter']}")

    def fit(self, recipe: Recipe, reporter: Reporter) -> FitResult | None:
        done = run_plan(self.plan(recipe), recipe.resume, reporter)
        if done is None:
            return None
        summary = {"run": str(done.model.parent), "task": self.name, **done.summary}
        report = FitReport(self.name, chosen_on="the pairs held out for val")
        return FitResult(done.model.parent, None, report, done.metrics, summary, done.notes, done.skipped)

    def plan(self, recipe: Recipe) -> PretrainPlan:
        """What to train on what."""
        shared = {key: getattr(recipe, key) for key in SETTINGS & KEYS.keys() if recipe.gave(key)}
        flags = {key: value for key, value in recipe.adapter.items() if key in SETTINGS}
        chosen = {**{key: value for key, value in recipe.task_options.items() if key in SETTINGS}, **shared, **flags}
        losses = recipe.adapter.get("loss") or recipe.task_options["loss"]
        sources, mixing = sources_in(recipe.sources)
        if recipe.sources and not sources:
            sources = [NamedSource(recipe.data_path)]
        return PretrainPlan(
            data=recipe.data_path,
            sources=sources,
            mixing=mixing,
            out=str(Path(recipe.out or "")),
            losses=parse_losses(losses.split(",") if isinstance(losses, str) else losses),
            loss_options=recipe.task_options["loss_options"],
            backbone=recipe.backbone,
            teacher=recipe.task_options["teacher"],
            teacher_features=recipe.task_options["teacher_features"],
            inherit=recipe.task_options["inherit"],
            generic=recipe.generic,
            device=recipe.device,
            image_size=recipe.image_size,
            data_options=recipe.reading,
            settings=TrainingSettings(**chosen),
            custom_hooks=recipe.custom_hooks,
            domain=self.domain,
        )

    def table(self, metrics: Mapping[str, Any]):
        return retrieval_table(metrics)

    def verdict(self, metrics: Mapping[str, Any]) -> str:
        return RetrievalComparison.from_json(metrics).sentence
