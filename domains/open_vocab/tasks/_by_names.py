"""What detection and segmentation by names share: classes, shots and backbone of a config, and names after training."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from mmengine import Config

from ....core.contracts import DomainData, Exported, ExportWishes, InputChannels, Recipe, Use, option, settle
from ....core.errors import CapabilityError, ConfigError
from ....core.runtime import Reporter
from ....core.tasks import ConfigTask, KeptModel
from ..data.classes import choose_classes
from ..data.few_shot import draw_shots
from ..data.novel import DROP, KEEP, hold_out, split_novel
from ..plans.kinds import ConfigKind
from ..vocabulary import ClosedNames, described_classes

if TYPE_CHECKING:
    from ..exporting.run import Form

RECIPES = Path(__file__).parents[1] / "recipes"
RGB = 3
UPSAMPLER, BICUBIC = "upsampler", "bicubic"
"""An option of a model that names a file of weights, and its value where there is none."""


@dataclass(frozen=True, kw_only=True)
class NovelOptions:
    """How novel classes are held out."""

    novel_images: str = option(
        KEEP,
        "with --novel, training images that show a novel class: keep (it is background there), or drop",
        choices=(KEEP, DROP),
    )

    def __post_init__(self):
        settle(self, "this task")


class ByNames(ConfigTask):
    """A task whose classes are texts.

    A task sets `default_recipe`, the packaged config that is trained where none is given, and `configs`, their kind.
    """

    takes: ClassVar = (ConfigTask.takes | {"templates", "language", "resources"}) - {"image_size"}
    unused: ClassVar = {
        "descriptions": "give descriptions with the names, --classes FILE.json",
        "image_size": "images are resized by the config's pipelines; change those",
    }
    at_prediction: ClassVar = ConfigTask.at_prediction | {"masks", "own_data", "tile"}
    can: ClassVar = frozenset({"predict", "save", "rename"})
    options: ClassVar = NovelOptions
    refusals: ClassVar[Mapping[str, str]] = {}
    default_recipe: ClassVar[str]
    configs: ClassVar[ConfigKind]

    def check(self, recipe: Recipe) -> None:
        super().check(recipe)
        if recipe.novel is True:
            raise ConfigError('--novel: give the classes to test but not to train, --novel "a,b", or coco or lvis')
        if recipe.task_options.get("novel_images", KEEP) != KEEP and not recipe.novel:
            raise ConfigError('--set novel_images=drop: no class is novel; name some, --novel "a,b", or omit it')

    def backbone_spec(self, recipe: Recipe) -> str:
        """The one that is given, else the config's own."""
        from ..plans.schedule import first_backbone

        of_config = first_backbone(self._config(recipe)["model"])
        return of_config if of_config and not recipe.gave("backbone") else recipe.backbone

    def choose(self, recipe: Recipe, data: DomainData) -> DomainData:
        """The classes that are wanted, without novel ones in training, and so many shots of each."""
        data = self.wanted(recipe, data)
        if recipe.novel:
            parts = split_novel(data.class_names, recipe.novel, data.frequency)
            data = hold_out(data, parts, images=recipe.task_options.get("novel_images", KEEP))
        return draw_shots(data, recipe.shots, recipe.seed)

    def check_data(self, recipe: Recipe, data: DomainData) -> None:
        """And that a recipe of models by id has one."""
        super().check_data(recipe, data)
        from ..hub_models.source import is_hub_node

        model = self._config(recipe)["model"]
        if is_hub_node(model) and not model.get("config"):
            raise ConfigError("no model was named, whose type says what is trained; give one, --start hf:OWNER/NAME")
        if (channels := self._further(recipe)) is not None:
            from ..plans.channels import check_channels

            check_channels(model, channels)

    def wanted(self, recipe: Recipe, data: DomainData) -> DomainData:
        """The set with the classes that a recipe asks for."""
        return choose_classes(data, self.asked_for(recipe, data))

    def asked_for(self, recipe: Recipe, data: DomainData) -> list[str]:
        """Names of classes, all of the data's where none are given."""
        return list(data.class_names if recipe.classes in (None, "all") else described_classes(recipe.classes))

    def read_config(self, recipe: Recipe) -> DomainData | None:
        """The data sets of the user's own config."""
        from ..plans.data import read_config_data

        return read_config_data(recipe.plan, self.configs)

    def plan(self, recipe: Recipe, data: DomainData, backbone) -> Config:
        """The packaged config, or the user's own, with this data, these classes and these flags."""
        from ..hub_models.starting import check_names_of, note_on_start, source_at
        from ..plans.plan import make_plan

        source = source_at(recipe.task_options.get("start"))
        described = self.described(recipe)
        stated = described if any(described.values()) else None
        options = plan_options(recipe, self.templates(recipe))
        if backbone is not None and backbone.by_band and backbone.channels is not None:
            options = replace(options, by_band=backbone)
        elif (channels := self._further(recipe)) is not None:
            statistics = self.domain.channel_statistics(data.split("train"))
            options = replace(options, channels=channels, statistics=statistics)
        plan = make_plan(self._config(recipe), self.configs, options, data, stated)
        if source is not None and not plan.get("train_cfg"):
            check_names_of(source, data.class_names)
        if source is not None:
            plan.vladapt.notes.append(note_on_start(source, plan.vladapt.classes))
        if plan.model.get(UPSAMPLER) == BICUBIC:
            plan.vladapt.notes.append(
                "No weights of the upsampler were given (--resource upsampler=FILE): features are upsampled "
                "bicubically."
            )
        return plan

    def described(self, recipe: Recipe) -> dict[str, Any]:
        """What is said of each class that a recipe names; {} for one of which nothing is."""
        return {} if recipe.classes in (None, "all") else described_classes(recipe.classes)

    def rename(self, model, classes: Any) -> tuple[str, ...]:
        """Other names for a model with texts as classes."""
        from ..inference.running import ask_for, choose_names, names_with_background, refuse_fixed

        if isinstance(model, ClosedNames):
            return choose_names(model, list(described_classes(classes)))
        refuse_fixed(model)
        return ask_for(model, names_with_background(model, classes))

    def check_use(self, use: Use, command: str) -> None:
        """And that what is asked of labels fits them."""
        super().check_use(use, command)
        from ..labels.asked_for import check_label_wishes

        check_label_wishes(use)

    def check_model(self, model, data: DomainData, use: Use, own: DomainData | None) -> None:
        """That the run's own data were searched for the names, where both become labels."""
        from ..labels.asked_for import check_annotated_names

        if own is not None:
            check_annotated_names(model, own)

    def notes_on(self, model) -> list[str]:
        """Where it was to look for texts, and none were given."""
        from ..inference.running import notes_on_asked

        return notes_on_asked(model)

    def cut(self, data: DomainData, use: Use) -> DomainData:
        """Windows of pictures that are larger than `--tile` says."""
        from ..inference.tiles import tiled

        return data if use.tile is None else tiled(data, use.tile)

    def served(self, use: Use, serving: Any):
        """As of any config, of pictures alone."""
        self._need_colours(use, "vladapt serve")
        return super().served(use, serving)

    def _further(self, recipe: Recipe) -> InputChannels | None:
        """The channels of images that have more than three."""
        channels = self.domain.channels(recipe.reading)
        return channels if channels is not None and len(channels) > RGB else None

    def _need_colours(self, use: Use, what: str) -> None:
        """Raise the CapabilityError of a run whose images have more than three channels."""
        if (channels := self._further(self.used_again(use))) is not None:
            raise CapabilityError(
                f"{use.run.shown}: reads the bands {', '.join(channels.names)}, and {what} takes pictures of three "
                "channels; use vladapt predict"
            )

    @abstractmethod
    def form(self, model) -> Form:
        """What a model of this task becomes where it is exported."""

    def export(self, use: Use, wishes: ExportWishes, reporter: Reporter) -> Exported:
        """The graph of a model of mm, where it has a fixed one."""
        from ..exporting.run import export_model

        self._need_colours(use, "an export")
        recipe, model = self.used_again(use), KeptModel(use.run).load(torch.device("cpu"))
        if model is None:
            raise CapabilityError(f"{use.run.shown}: nothing was trained in this run, so there is nothing to export")

        def read() -> DomainData:
            return self._chosen(self._read(recipe), recipe, use.split, bool(use.data), reporter)

        return export_model(self.form(model), use, wishes, read, reporter)

    def _config(self, recipe: Recipe) -> Mapping[str, Any]:
        """The user's config, or the packaged one for the task, with the parts of it that `--set plan...` and
        `--resource` name."""
        from ..hub_models.starting import on_source, recipe_for, source_at

        source = source_at(recipe.task_options.get("start"))
        name = self.default_recipe if source is None else recipe_for(source, self.name)
        if "type" in (recipe.plan.get("model") or {}):
            config = _with_resources(recipe.plan, recipe.resources)
        else:
            packaged = Config.fromfile(str(RECIPES / f"{name.replace('-', '_')}.py"))
            packaged.merge_from_dict(dict(recipe.plan))
            config = _with_resources(packaged.to_dict(), recipe.resources)
        return config if source is None else on_source(config, source, recipe.adapter.get("epochs") != 0)


def plan_options(recipe: Recipe, templates: Any = None):
    """What a recipe asks of its config, by these prompts, by default those that it gives."""
    from ..plans.plan import PlanOptions
    from ..plans.schedule import Schedule

    trained = recipe.adapter
    schedule = Schedule(trained.get("epochs"), trained.get("lr"), recipe.batch_size, recipe.workers, recipe.amp)
    backbone = recipe.backbone if recipe.gave("backbone") else None
    how = recipe.seed, recipe.device, backbone, recipe.novel or "", templates or recipe.templates, recipe.task_options
    return PlanOptions(schedule, *how)


def _with_resources(config: Mapping[str, Any], resources: Mapping[str, Any]) -> Mapping[str, Any]:
    """The config with files of weights that its model has a place for.

    Raises:
        ConfigError: it has no such place.
    """
    places = {name: str(path) for name, path in resources.items() if path is not None}
    for name, path in places.items():
        if name != UPSAMPLER or name not in config["model"]:
            raise ConfigError(f"--resource {name.replace('_', '-')}={path}: the config's model takes none; omit it")
    return {**config, "model": {**config["model"], **places}} if places else config
