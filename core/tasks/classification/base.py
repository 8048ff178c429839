"""Classification as `compare` asks for it: which fits a comparison has, and the contests that run them.

The task itself, and its fit, are `Classification` in `task.py`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from ...contracts.adapter import Adapter
from ...contracts.images import TrainingPlace
from ...contracts.judgement import COMPARE, Findings, JudgedData
from ...contracts.prepared import PreparedData
from ...contracts.recipe import Recipe
from ...contracts.task import Axes, Contest, Task
from ...errors import CapabilityError, ConfigError
from ...recipes.asked_for import (
    as_published,
    check_named,
    has_labels,
    on_target,
    planned,
    trains_towers,
    with_published,
    with_published_views,
)
from ...registry.build import judges_at
from ...runtime.progress import Reporter
from .fitting import Augmentation, augmentation_of
from .protocols import OWN, ZERO_SHOT, Setting, adapters_among, means_of_eleven, protocol_named
from .resources import check_resources
from .scoring import LARGEST_CLASS, PROBE


class ComparedClassification(Task):
    """Base of classification: comparisons of methods on the same shots."""

    compares: ClassVar = frozenset({"adapters", "backbones", "shots", "seeds", "splits", "folds", "tasks"})

    @abstractmethod
    def prepared(self, recipe: Recipe, reporter: Reporter) -> PreparedData:
        """The data side of a settled recipe: what is drawn, encoded and named."""

    @abstractmethod
    def setting(self, recipe: Recipe, prepared: PreparedData, tasks: str = "") -> Setting | None:
        """What numbers of a recipe are of, in the words of papers; None where none can be the same."""

    def entries(self, recipe: Recipe, axes: Axes) -> list[dict[str, Any]]:
        """Seeds outside, then shots, so that a draw serves all methods; the baselines come first."""
        protocol = protocol_named(recipe.protocol)
        names, shots = protocol.methods(axes.adapters), _shots(recipe, axes)
        seeds = axes.seeds or ((recipe.seed,) if recipe.gave("seed") else protocol.seeds)
        adapters = {} if protocol.tasks else planned(recipe, adapters_among(names))
        return protocol.entries(names, shots, seeds, [name for name, each in adapters.items() if each.label_free])

    def contest(self, recipe: Recipe, axes: Axes, reporter: Reporter) -> Contest:
        from .contest import RepeatedSplits
        from .protocol_contests import contest_kind

        protocol = protocol_named(recipe.protocol)
        names = adapters_among(protocol.methods(axes.adapters))
        check_named(recipe, names)
        recipe = with_published_views(as_published(recipe, names, protocol.labelled), names)
        adapters = planned(recipe, names)
        check_resources(recipe.resources, list(adapters.values()))
        counts = _shots(recipe, axes)
        recipe = recipe.with_(shots=None if None in counts else max(counts))
        prepared = self.prepared(recipe, reporter)
        if not has_labels(prepared.data):
            raise CapabilityError(f"{prepared.data.name}: no image has a label, so methods cannot be compared; use fit")
        recipe, notes = with_published(recipe, prepared.data.published, names)
        adapters = planned(recipe, names) if notes else adapters
        if prepared.base is not None:
            prepared.base.check_classes(prepared.class_names)
        towers = any(trains_towers(name) for name in names)
        asked = axes.splits or (1 if protocol is not OWN and not axes.folds else None)
        splits = RepeatedSplits.of(prepared, recipe.split_seed, asked, axes.folds, towers)
        of_data = Findings({}).add(judges_at(self, COMPARE), JudgedData(at=COMPARE, prepared=prepared))
        contest = contest_kind(protocol, axes)(
            splits,
            adapters,
            augmentations_of(recipe, prepared, adapters),
            protocol=protocol,
            setting=self.setting(recipe, prepared),
            val_shots=recipe.val_shots,
            refit=recipe.refit,
            place=TrainingPlace(None, hooks=recipe.custom_hooks, tolerate=recipe.tolerate),
            seed=recipe.seed,
            notes=of_data,
        )
        contest.note_readers(adapters, counts)
        contest.notes += notes
        contest.probe_asked = PROBE in axes.adapters
        contest.seeds_given = bool(axes.seeds or recipe.gave("seed") or recipe.protocol)
        return contest

    def contests(self, recipes: Sequence[Recipe], axes: Axes, reporter: Reporter) -> Iterator[Contest]:
        """Under a protocol that tests on other data the first data set is fitted on, per backbone, and the others are
        tested."""
        from .protocol_contests import SourceContest, TargetContest, check_contest_protocol

        named = [name for name in axes.adapters or () if name not in (ZERO_SHOT, LARGEST_CLASS)]
        read = len({(recipe.features, recipe.data_path) for recipe in recipes})
        check_contest_protocol(protocol_named(recipes[0].protocol), axes, read, partial(planned, recipes[0], named))
        sources: dict[str, SourceContest] = {}
        for recipe in recipes:
            if recipe.backbone in sources:
                target = self.prepared(on_target(recipe), reporter)
                yield TargetContest(sources[recipe.backbone], target)
                continue
            contest = self.contest(recipe, axes, reporter)
            if isinstance(contest, SourceContest):
                sources[recipe.backbone] = contest
            yield contest

    def published_means(self, settings: Sequence[Any], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Of the eleven sets of the few-shot protocol, where these are they."""
        return means_of_eleven(settings, ((row["adapter"], row["shots"]) for row in rows))

    def deciding_of(self, rows: Sequence[Mapping[str, Any]]) -> str:
        """Accuracy; macro AUROC where images have several labels."""
        return "auroc" if any(key.startswith("auroc/") for key in rows[0]) else self.deciding


def _shots(recipe: Recipe, axes: Axes) -> Sequence[int]:
    protocol = protocol_named(recipe.protocol)
    if protocol.tasks and any(axes.shots or ()):
        raise ConfigError(f"--protocol {protocol.name} has no labelled images; omit --shots")
    return axes.shots or ((recipe.shots,) if recipe.gave("shots") else protocol.shots)


def augmentations_of(
    recipe: Recipe, prepared: PreparedData, adapters: Mapping[str, Adapter]
) -> dict[str, Augmentation]:
    """How the images of each method are augmented."""
    options = {name: recipe.with_adapter(name).adapter_options for name in adapters}
    published = recipe.protocol is not None
    return {name: augmentation_of(adapter, prepared, options[name], published) for name, adapter in adapters.items()}
