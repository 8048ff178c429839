"""A fitted run that another fit starts from: `--resource base=RUN`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...contracts.adapter import Adapter
from ...contracts.backbone import Backbone
from ...contracts.features import FeatureSet
from ...contracts.prepared import PreparedData
from ...contracts.recipe import Recipe
from ...contracts.resources import BasePredictions
from ...contracts.run_info import RunInfo
from ...errors import CapabilityError, ConfigError, DataError
from ...features.batches import logits_of
from ...registry import load_adapter
from ...runs.folder import Run


@dataclass
class BaseRun:
    """The fitted adapter of a run, asked for its logits of other images.

    Attributes:
        path: where the run lies, as it was given.
        run: its folder.
        adapter: as it was fitted.
        recipe: its own.
    """

    path: str
    run: Run
    adapter: Adapter
    recipe: Recipe
    _made: dict[tuple[str, ...], Tensor] = field(default_factory=dict, repr=False)

    @classmethod
    def open(cls, path: str | Path, backbone: Backbone | None, device: torch.device) -> BaseRun:
        """The run at a path.

        Args:
            backbone: that of the fit that starts from it; None where there is a features file.

        Raises:
            DataError: no finished run lies there. ConfigError: it starts from another run itself.
            CapabilityError: it has several labels per image, or is of another backbone.
        """
        try:
            run = Run.open(path)
        except DataError as error:
            raise DataError(f"--resource base={error}") from error
        recipe = Recipe.of(run.info.recipe)
        if "base" in recipe.resources:
            raise ConfigError(f"--resource base={path}: it started from another run itself; give that one, or another")
        adapter = load_adapter(run.adapter_path, backbone).to(device)
        if adapter.multilabel_:
            raise CapabilityError(f"--resource base={path}: has several labels per image; give a run that has one")
        return cls(str(path), run, adapter, recipe)

    @classmethod
    def of_data(cls, prepared: PreparedData, device: torch.device) -> BaseRun | None:
        """The run that the recipe of prepared data names; None where it names none.

        Raises:
            As `open`; CapabilityError: it was fitted on other features.
        """
        if prepared.given.get("base") is None:
            return None
        base = cls.open(prepared.given["base"], prepared.backbone, device)
        width = prepared.classifier.weights.shape[1]
        theirs, ours = base.adapter.backbone_, prepared.made_by
        if width != base.adapter.dim_:
            theirs, ours = f"{base.adapter.dim_} wide", f"{width}"
        elif not (theirs and ours) or theirs == ours:
            return base
        raise CapabilityError(
            f"--resource base={base.path}: was fitted on features of another backbone ({theirs}; these: {ours}); "
            "give a run on the same backbone"
        )

    @property
    def facts(self) -> dict[str, Any]:
        """What run.json of the fit that starts from it says of it."""
        digest = hashlib.sha256(self.run.adapter_path.read_bytes()).hexdigest()
        return {"path": str(self.run.path), "adapter": self.adapter.name, "sha256": digest}

    def check_is(self, facts: Mapping[str, Any]) -> None:
        """Raise the DataError of another run than the one that `facts` are of."""
        if facts.get("sha256") != self.facts["sha256"]:
            raise DataError(
                f"--resource base={self.path}: not the run that this one started from ('{facts.get('adapter')}' at "
                f"{facts.get('path')}); give the path of that run, or fit again"
            )

    def notes(self, prepared: PreparedData) -> list[str]:
        """A warning, where the run was fitted on what the data has for testing."""
        if self.run.info.data.name != prepared.data.name:
            return []
        test, split = {item.id for item in prepared.data.split("test")}, self.run.info.splits
        taught = len({*split.get("support", ()), *split.get("val", ())} & test)
        if not taught:
            return []
        return [
            f"{taught} of the {len(test)} test images were used to fit the run {self.path}, so scores of what starts "
            "from it are too high; fit both on the same split"
        ]

    def predictions(self, prepared: PreparedData, features: FeatureSet) -> BasePredictions:
        """What a fit that starts from it is given, in the order of the data's classes; see `logits`."""
        return BasePredictions(self.adapter.name, self.logits(prepared, features, prepared.class_names))

    def logits(self, prepared: PreparedData, features: FeatureSet, class_names: Sequence[str]) -> Tensor:
        """(N, C) of rows of prepared data, in the order of `class_names`; made once per set of images.

        Args:
            prepared: the data on the backbone of the fit.
            features: some of its rows, with their ids.
        """
        if features.ids not in self._made:
            own = replace(prepared, given=self.recipe.resources)
            moved = own if own.backbone is None else own.on(self.adapter.adapted(own.backbone))
            seen = features if moved is own else moved.of_ids(features.ids, parts="parts" in self.adapter.at_predict)
            if seen.ids != features.ids:
                raise DataError(
                    f"--resource base={self.path}: its towers give NaN or infinity for some images; give another run"
                )
            self._made[features.ids] = logits_of(self.adapter, moved.batches(self.adapter, seen), len(seen))
        return self.in_order(self._made[features.ids], class_names)

    def in_order(self, logits: Tensor, class_names: Sequence[str]) -> Tensor:
        """Its logits (N, C) in the order of `class_names`; raises as `check_classes`."""
        self.check_classes(class_names)
        have = list(self.adapter.class_names_)
        return logits[:, [have.index(name) for name in class_names]]

    def check_classes(self, class_names: Sequence[str]) -> None:
        """Raise the ConfigError of a run whose classes are not these, in whatever order."""
        have, want = list(self.adapter.class_names_), list(class_names)
        lacks, further = sorted(set(want) - set(have)), sorted(set(have) - set(want))
        if lacks or further:
            which = f"lacks '{lacks[0]}'" if lacks else f"also has '{further[0]}'"
            raise ConfigError(
                f"--resource base={self.path}: its classes are not those of the data (it {which}); give a run that was "
                "fitted on the same classes"
            )


def place_of_base(info: RunInfo, beside: Path) -> str | None:
    """Where the base of a stored run lies: where it was at the fit or, if it is not there, beside that run; None where
    the run has none.

    Args:
        info: what run.json of the run that started from it holds.
        beside: the folder of that run.
    """
    if not info.base:
        return None
    place = Path(str(info.base.get("path")))
    moved = beside.absolute().parent / place.name
    return str(moved if not place.exists() and moved.exists() else place)
